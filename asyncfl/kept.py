"""Mappings that are kept for ever, as bytes.

A message with four members takes 300 bytes encoded and ten times as much as models of pydantic. What grows with the
ledger is therefore kept encoded, and decoded whenever somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TypeVar, cast

from asyncfl.wire import Wire

Key = TypeVar("Key", bound=bytes | Wire)
Value = TypeVar("Value", bound=bytes | Wire)


class Kept(MutableMapping[Key, Value]):
    """A mapping in the order of insertion. Keys and values are bytes or messages; each look gives a new message."""

    __slots__ = ("_held", "_key", "_value")

    def __init__(self, key: type[Key], value: type[Value]) -> None:
        self._key = key
        self._value = value
        self._held: dict[bytes, bytes] = {}

    def __getitem__(self, key: Key) -> Value:
        return _decode(self._value, self._held[_encode(key)])

    def __setitem__(self, key: Key, value: Value) -> None:
        self._held[_encode(key)] = _encode(value)

    def __delitem__(self, key: Key) -> None:
        del self._held[_encode(key)]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes | Wire) and _encode(key) in self._held

    def __iter__(self) -> Iterator[Key]:
        return (_decode(self._key, key) for key in self._held)

    def __len__(self) -> int:
        return len(self._held)

    def encoded(self, key: Key) -> bytes:
        """The bytes of a value, without a copy."""
        return self._held[_encode(key)]


def _encode(value: bytes | Wire) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


Held = TypeVar("Held", bound=bytes | Wire)


def _decode(kind: type[Held], data: bytes) -> Held:
    return cast(Held, data if issubclass(kind, bytes) else kind.decode(data))
