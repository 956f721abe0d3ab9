"""Small text files that others may have written: read whole, but never more than a limit."""

from __future__ import annotations

from pathlib import Path

from asyncfl.errors import ConfigurationError


def read_text(path: Path, *, limit: int, encoding: str = "utf-8") -> str:
    """The text of a file of at most `limit` bytes, also where the path leads to a device that never ends.

    Raises `ConfigurationError` for a longer one, `OSError` and `UnicodeDecodeError` like `Path.read_text`.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ConfigurationError(f"{path}: more than the {limit} bytes that are read; is it the right file?")
    return data.decode(encoding)
