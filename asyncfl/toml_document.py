"""TOML text to plain values, at a cost in proportion to its length, or a `ConfigurationError` that says what is wrong.

`tomllib` is not made for text of strangers: a dotted key of `k` parts costs `k^2` memory (60 kB of text, gigabytes),
decimal integers of more than 4300 digits raise an error of their own, and hexadecimal ones of any size are returned.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from asyncfl.errors import ConfigurationError

MAX_BYTES: Final = 64 << 20
"""Largest file that is read: a roster of 16384 clients has 6 MB, each later one 0.3 MB."""
MAX_KEY_PARTS: Final = 32
_ESCAPED: Final = re.compile(r"\\.")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_OUTSIDE_KEYS: Final = re.compile(r"""[^\w".\- \t]+""")


def parse_document(text: str, *, source: str) -> dict[str, Any]:
    """The content of a TOML document; `source` is the file's name in messages. Raises `ConfigurationError`."""
    if len(text) > MAX_BYTES:
        raise ConfigurationError(f"{source}: {len(text)} characters; at most {MAX_BYTES} are read")
    _check_keys(text, source)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source}: not valid TOML: {error}; correct that line") from None
    _check_integers(content, source)
    return content


def _check_keys(text: str, source: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") <= MAX_KEY_PARTS:
            continue
        bare = _QUOTED.sub('""', _ESCAPED.sub("", line)).partition("#")[0]
        if any(part.count(".") > MAX_KEY_PARTS for part in _OUTSIDE_KEYS.split(bare)):
            raise ConfigurationError(
                f"{source}:{number}: a key of more than {MAX_KEY_PARTS} parts; correct that line"
            )


def _check_integers(content: dict[str, Any], source: str) -> None:
    """TOML's integers have 64 bits; what is larger cannot even be shown."""
    values: list[Any] = [content]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigurationError(f"{source}: an integer of {value.bit_length()} bits; TOML's have 64")
