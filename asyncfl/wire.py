"""Strict, canonical msgpack for frozen models.

A `Wire` model travels as the array of its fields in order of declaration, nested models likewise. There
is exactly one encoding of a value, so the encoding can be signed and hashed. Decoding runs under size
limits and validates types, lengths and ranges strictly; anything else is a `MalformedMessage`.

What a peer sends may be made to cost much: msgpack allocates an array when it reads how long it says it is, and
pydantic notes every wrong element of a sequence. So the shape of the bytes is checked before anything is built
(`_check_shape`), and sequences end at their first wrong element (`Many`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self, TypeVar, cast

import msgpack
from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, ValidationError, model_validator

from asyncfl.errors import MalformedMessage

Digest = Annotated[bytes, Len(32, 32)]
PublicKey = Annotated[bytes, Len(32, 32)]
Signature = Annotated[bytes, Len(64, 64)]
ReplicaIndex = Annotated[int, Ge(0), Le(15)]
Epoch = Annotated[int, Ge(1), Le(2**31 - 1)]
Count = Annotated[int, Ge(0), Le(2**31 - 1)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text has control characters, which a terminal would obey")
    return text


ShortText = Annotated[str, Len(0, 400), AfterValidator(_printable)]
"""A reason, in words: it reaches logs and status pages, so nothing in it may move a cursor or hide a line."""

Element = TypeVar("Element")
Many = Annotated[tuple[Element, ...], FailFast()]
"""A sequence that is refused at its first wrong element."""

MAX_MESSAGE_BYTES: Final = (1 << 20) - 4096
"""Largest encoded message. Anything bigger travels as a blob, in chunks."""
MAX_DEPTH: Final = 8
"""Arrays within arrays, the frame's own included; the deepest message has six."""
MAX_ELEMENTS: Final = 1 << 15
"""Elements of all arrays of a message together: the most numerous, digests, have 34 bytes each."""


class Wire(BaseModel):
    """Base of everything that is signed, hashed, sent or stored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _from_fields(cls, value: Any) -> Any:
        if isinstance(value, tuple | list):
            names = cls.__pydantic_fields__
            if len(value) != len(names):
                raise ValueError(f"{cls.__name__} has {len(names)} fields, got {len(value)}")
            return dict(zip(names, value, strict=True))
        return value

    def to_fields(self) -> tuple[Any, ...]:
        """The nested tuple of plain values that is encoded."""
        values = self.__dict__
        return tuple([_plain(values[name]) for name in type(self).__pydantic_fields__])

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
    if isinstance(value, bytes | int):
        return value
    if isinstance(value, Wire):
        return value.to_fields()
    if isinstance(value, tuple):
        return tuple([_plain(item) for item in value])
    return value


def pack(value: Any) -> bytes:
    """Canonical msgpack of plain nested tuples, ints, bytes and strings."""
    return cast(bytes, msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes | memoryview, *, limit: int = MAX_MESSAGE_BYTES, elements: int = MAX_ELEMENTS) -> Any:
    """Plain values from msgpack, arrays as tuples; no maps, no extension types, arrays at most `MAX_DEPTH` deep.

    `elements` bounds those of all arrays together. Raises `MalformedMessage`.
    """
    if len(data) > limit:
        raise MalformedMessage(f"message of {len(data)} bytes exceeds the limit of {limit}")
    try:
        _check_shape(data, elements)
        return msgpack.unpackb(data, raw=False, use_list=False, max_ext_len=0, max_map_len=0)
    except (ValueError, IndexError, msgpack.exceptions.UnpackException) as error:
        raise MalformedMessage(f"not a valid message: {error}") from None


def _check_shape(data: bytes | memoryview, most: int) -> None:
    """Walk the bytes without building anything. Raises `ValueError`, or `IndexError` where they end too early."""
    size, at, elements = len(data), 0, 0
    awaited: list[int] = []
    """Elements still to come of each array that is open."""
    while True:
        first = data[at]
        width = _WIDTH[first]
        if width > 0:
            at += width
        elif width < _ARRAY:
            start = at + 1 - (width - _ARRAY)
            at = start + int.from_bytes(data[at + 1 : start], "big")
        elif width == _ARRAY:
            at, count = _array(data, at, first)
            elements += count
            if elements > most:
                raise ValueError(f"arrays of more than {most} elements")
            if len(awaited) == MAX_DEPTH:
                raise ValueError(f"arrays more than {MAX_DEPTH} deep")
            awaited.append(count + 1)
        else:
            raise ValueError(f"a map, an extension or no type at all (byte {first:#04x})")
        while awaited:
            awaited[-1] -= 1
            if awaited[-1]:
                break
            awaited.pop()
        else:
            break
    if at != size:
        raise ValueError(f"{size} bytes where the value has {at}")


def _array(data: bytes | memoryview, at: int, first: int) -> tuple[int, int]:
    """Where an array's elements begin, and how many there are."""
    if first < 0xDC:
        return at + 1, first & 0x0F
    start = at + (3 if first == 0xDC else 5)
    return start, int.from_bytes(data[at + 1 : start], "big")


_REFUSED: Final = 0
_ARRAY: Final = -1


def _widths() -> tuple[int, ...]:
    """By first byte: how long the value is; `_REFUSED`; `_ARRAY`; or `_ARRAY` less the length's own bytes."""
    widths = [_REFUSED] * 256
    widths[0x00:0x80] = [1] * 0x80  # positive fixint
    widths[0x90:0xA0] = [_ARRAY] * 16
    widths[0xA0:0xC0] = range(1, 33)  # fixstr
    widths[0xC0], widths[0xC2], widths[0xC3] = 1, 1, 1  # nil, false, true
    widths[0xC4:0xC7] = (_ARRAY - 1, _ARRAY - 2, _ARRAY - 4)  # bin
    widths[0xCA:0xD4] = (5, 9, 2, 3, 5, 9, 2, 3, 5, 9)  # floats, unsigned, signed
    widths[0xD9:0xDC] = (_ARRAY - 1, _ARRAY - 2, _ARRAY - 4)  # str
    widths[0xDC:0xDE] = (_ARRAY, _ARRAY)
    widths[0xE0:0x100] = [1] * 32  # negative fixint
    return tuple(widths)


_WIDTH: Final = _widths()
