"""Strict, canonical msgpack for frozen models.

A `Wire` model travels as the array of its fields in order of declaration, nested models likewise. There
is exactly one encoding of a value, so the encoding can be signed and hashed. Decoding runs under size
limits and validates types, lengths and ranges strictly; anything else is a `MalformedMessage`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self, cast

import msgpack
from annotated_types import Ge, Le, Len
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from asyncfl.errors import MalformedMessage

Digest = Annotated[bytes, Len(32, 32)]
PublicKey = Annotated[bytes, Len(32, 32)]
Signature = Annotated[bytes, Len(64, 64)]
ReplicaIndex = Annotated[int, Ge(0), Le(15)]
Epoch = Annotated[int, Ge(1), Le(2**31 - 1)]
Count = Annotated[int, Ge(0), Le(2**31 - 1)]
ShortText = Annotated[str, Len(0, 400)]

MAX_MESSAGE_BYTES: Final = (1 << 20) - 4096
"""Largest encoded message. Anything bigger travels as a blob, in chunks."""


class Wire(BaseModel):
    """Base of everything that is signed, hashed, sent or stored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _from_fields(cls, value: Any) -> Any:
        if isinstance(value, tuple | list):
            names = tuple(cls.model_fields)
            if len(value) != len(names):
                raise ValueError(f"{cls.__name__} has {len(names)} fields, got {len(value)}")
            return dict(zip(names, value, strict=True))
        return value

    def to_fields(self) -> tuple[Any, ...]:
        """The nested tuple of plain values that is encoded."""
        return tuple(_plain(getattr(self, name)) for name in type(self).model_fields)

    def encode(self) -> bytes:
        """The one canonical encoding."""
        return cast(bytes, msgpack.packb(self.to_fields(), use_bin_type=True))

    @classmethod
    def decode(cls, data: bytes | memoryview, *, limit: int = MAX_MESSAGE_BYTES) -> Self:
        """The model that `data` encodes.

        Raises `MalformedMessage` when data is longer than `limit` bytes, is not msgpack, or fails validation.
        """
        return cls.from_fields(unpack(data, limit=limit))

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """Validate a nested tuple of plain values. Raises `MalformedMessage`."""
        if not isinstance(fields, tuple):
            raise MalformedMessage(f"{cls.__name__}: expected an array, got {type(fields).__name__}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "fields"
            raise MalformedMessage(f"{cls.__name__}.{where}: {first['msg']}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Wire):
        return value.to_fields()
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


def pack(value: Any) -> bytes:
    """Canonical msgpack of plain nested tuples, ints, bytes and strings."""
    return cast(bytes, msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes | memoryview, *, limit: int = MAX_MESSAGE_BYTES) -> Any:
    """Plain values from msgpack, arrays as tuples, no maps beyond 64 keys, no extension types."""
    if len(data) > limit:
        raise MalformedMessage(f"message of {len(data)} bytes exceeds the limit of {limit}")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            max_ext_len=0,
            max_map_len=64,
            max_array_len=1 << 16,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise MalformedMessage(f"not a valid message: {error}") from None
