"""Types of the values in a deployment file: each refuses, in a sentence, what cannot stand there."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from asyncfl.errors import InvalidItem
from asyncfl.identity import exchange_key

NONCE_BYTES: Final = 16


class Section(BaseModel):
    """A table of the file: nothing unknown, nothing converted, nothing infinite."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _from_hex(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ValueError("not a hexadecimal string") from None


def _sized(size: int) -> Any:
    def check(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"{size} bytes ({2 * size} hex digits) are needed, this has {len(value)}")
        return value

    return check


def _on_curve(value: bytes) -> bytes:
    try:
        exchange_key(value)
    except InvalidItem as error:
        raise ValueError(str(error)) from None
    return value


def _one_line(value: str) -> str:
    """Neither what a terminal obeys nor what no file can be called."""
    if not value.isprintable():
        raise ValueError("control characters cannot stand here")
    return value


def _websocket_url(value: str) -> str:
    if any(character.isspace() for character in value):
        raise ValueError("a replica's address has no spaces")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if parts.scheme not in {"ws", "wss"} or not host or not port:
        raise ValueError("a replica's address looks like ws://host:port or wss://host:port")
    return value


def _inside(value: str) -> str:
    if value.startswith(("/", "~")) or "\\" in value or ".." in value.split("/"):
        raise ValueError("a path inside the deployment's directory is needed")
    return value


def is_name(text: str) -> bool:
    """Whether `text` can name a node: also a file name below keys/, state/ and logs/."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text) is not None


def _file_name(value: str) -> str:
    if not is_name(value):
        raise ValueError("a name is 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")
    return value


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        for item in value if isinstance(value, list) else (value,):
            if not isinstance(item, bool | int | float | str):
                raise ValueError(f"option {name!r} must be a boolean, a number, a string or a list of these")
    return options


_hex_form = (BeforeValidator(_from_hex), PlainSerializer(bytes.hex))
Key = Annotated[bytes, *_hex_form, AfterValidator(_sized(32)), AfterValidator(_on_curve)]
Hash = Annotated[bytes, *_hex_form, AfterValidator(_sized(32))]
SignatureBytes = Annotated[bytes, *_hex_form, AfterValidator(_sized(64))]
Nonce = Annotated[bytes, *_hex_form, AfterValidator(_sized(NONCE_BYTES))]
Name = Annotated[str, AfterValidator(_file_name)]
Epoch = Annotated[int, Field(ge=1, le=2**31 - 1)]
Line = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_one_line)]
Address = Annotated[str, AfterValidator(_one_line), AfterValidator(_websocket_url)]
FileInside = Annotated[Line, AfterValidator(_inside)]
Options = Annotated[dict[str, Any], AfterValidator(_plain)]
