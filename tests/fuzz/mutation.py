"""Mutations: of bytes, of msgpack's structure, of TOML text. A seeded generator makes them reproducible."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

SIZES: Final = (0, 1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 255, 256, 1024, 8191, 8192, 8193, 65535)
INTEGERS: Final = tuple(
    sign * base + offset
    for base in (
        0,
        1 << 5,
        1 << 7,
        1 << 8,
        1 << 15,
        1 << 16,
        1 << 23,
        8380417,
        1 << 31,
        1 << 32,
        1 << 36,
        1 << 63,
    )
    for sign in (1, -1)
    for offset in (-1, 0, 1)
    if -(1 << 63) <= sign * base + offset < 1 << 64
)
FLOATS: Final = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e6,
    0.1,
)
TEXTS: Final = (
    "", "a", "\x00", "\x1b[2J", "\n", "\u202e", "é", "٣", "\ud800", "../..", "/etc/passwd", "~", "a" * 400, "a" * 401,
)  # fmt: skip


MOST: Final = 1 << 20
"""Bytes of an encoded tree; targets take less."""


class Raw(bytes):
    """Bytes that go into an encoding as they are."""


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A few changes anywhere."""
    value = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(value)
        at = rng.randrange(size + 1)
        length = min(size - at, rng.choice((1, 1, 2, 4, 16, 64, 1024)))
        match rng.randrange(9):
            case 0 if size:
                value[at % size] ^= 1 << rng.randrange(8)
            case 1 if size:
                value[at % size] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xC1, 0xC4, 0xDC, 0xDD, 0xDE, 0xFF, rng.randrange(256))
                )
            case 2:
                del value[at : at + length]
            case 3:
                value[at:at] = value[at : at + length] * rng.choice((1, 2, 64))
            case 4:
                value[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 100)))
            case 5:
                del value[at:]
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                value[at : at + length] = other[start : start + rng.choice((4, 64, 4096))]
            case 7:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(INTEGERS) % (1 << 8 * width)
                value[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
            case _:
                value += rng.randbytes(rng.choice((1, 16, 17)))
    return bytes(value)


# msgpack


def mutate_msgpack(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Changes to the tree that `data` encodes, or to its bytes; sometimes in an encoding that is not canonical."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data, others)
    try:
        tree = _tree(data)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        return mutate_bytes(rng, data, others)
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            tree = _changed(rng, tree, others)
        encoded = encode(tree, rng if rng.random() < 0.1 else None)
    except RecursionError:  # nested upon nested
        return mutate_bytes(rng, data, others)
    return mutate_bytes(rng, encoded, others) if rng.random() < 0.05 else encoded


def _tree(data: bytes) -> Any:
    return msgpack.unpackb(data, use_list=False, strict_map_key=False, unicode_errors="surrogateescape")


def _changed(rng: random.Random, tree: Any, others: Sequence[bytes]) -> Any:
    if not isinstance(tree, tuple) or not tree or rng.random() < 0.08:
        return _replacement(rng, tree, others)
    at = rng.randrange(len(tree))
    match rng.randrange(12):
        case 0:
            return (*tree[:at], *tree[at + 1 :])
        case 1:
            return (*tree[:at], tree[at], *tree[at:])
        case 2:
            more = rng.choice((1, 2, 15) if isinstance(tree[at], tuple) else (15, 63, 255, 4096))
            return (*tree[: at + 1], *(tree[at],) * more, *tree[at + 1 :])
        case 3:
            other = rng.randrange(len(tree))
            swapped = list(tree)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            return tuple(swapped)
        case _:
            return (*tree[:at], _changed(rng, tree[at], others), *tree[at + 1 :])


def _replacement(rng: random.Random, value: Any, others: Sequence[bytes]) -> Any:
    match rng.randrange(11):
        case 0:
            return rng.choice(INTEGERS)
        case 1:
            return rng.choice(FLOATS)
        case 2:
            return rng.choice(TEXTS)
        case 3:
            return rng.randbytes(rng.choice(SIZES))
        case 4:
            return rng.choice((None, True, False, (), {}, {1: 2}, {"a": ()}, ((),)))
        case 5:
            return rng.choice(
                (msgpack.ExtType(5, b"x" * 16), msgpack.Timestamp(1, 2), msgpack.ExtType(127, b""))
            )
        case 6:
            for _ in range(rng.choice((1, 2, 5, 9, 100, 600))):
                value = (value,)
            return value
        case 7 if isinstance(value, bytes) and value:
            return mutate_bytes(rng, value, others)
        case 8 if isinstance(value, bytes):
            return rng.choice(
                (value[:-1], value + b"\0", bytes(len(value)), value[::-1], b"\xff" * len(value))
            )
        case 9:
            # An array that promises more than there is.
            return Raw(
                rng.choice(
                    (
                        b"\xdc\xff\xff",
                        b"\xdd\xff\xff\xff\xff",
                        b"\xdf\xff\xff\xff\xff",
                        b"\xc6\xff\xff\xff\xff",
                    )
                )
            )
        case _:
            if isinstance(value, int) and not isinstance(value, bool):
                return max(-(1 << 63), min((1 << 64) - 1, value + rng.choice((-1, 1, 8, 1000))))
            try:
                return _tree(rng.choice(others))
            except (ValueError, TypeError, msgpack.exceptions.UnpackException):
                return value


def encode(value: Any, rng: random.Random | None) -> bytes:
    """msgpack of a tree, canonical unless there is an `rng` to choose longer forms; cut off at `MOST`."""
    out = bytearray()
    _write(value, rng, out)
    return bytes(out)


def _write(value: Any, rng: random.Random | None, out: bytearray) -> None:
    if len(out) > MOST:  # copies of copies
        return
    longer = rng is not None and rng.random() < 0.3
    if isinstance(value, Raw):
        out += value
    elif isinstance(value, tuple):
        count = len(value)
        out += b"\xdd" + struct.pack(">I", count) if longer or count > 65535 else _array_head(count)
        for item in value:
            _write(item, rng, out)
    elif isinstance(value, dict):
        out.append(0x80 + len(value))
        for key, item in value.items():
            _write(key, rng, out)
            _write(item, rng, out)
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass" if "\ud800" in value else "surrogateescape")
        out += (b"\xdb" + struct.pack(">I", len(raw)) if longer else _text_head(len(raw))) + raw
    elif longer and isinstance(value, bytes):
        out += b"\xc6" + struct.pack(">I", len(value)) + value
    elif longer and type(value) is int and 0 <= value < 1 << 64:
        out += b"\xcf" + struct.pack(">Q", value)
    else:
        out += msgpack.packb(value, use_bin_type=True)


def _array_head(count: int) -> bytes:
    return bytes([0x90 + count]) if count < 16 else b"\xdc" + struct.pack(">H", count)


def _text_head(size: int) -> bytes:
    return bytes([0xA0 + size]) if size < 32 else b"\xda" + struct.pack(">H", min(size, 65535))


# TOML


_VALUE: Final = re.compile(rb"=[^\n]*")
_LITERALS: Final = tuple(
    text.encode()
    for text in (
        "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "0", "-1", "1", "true", "false", "inf", "-inf", "nan", "-0.0",
        "1e400", "1e-400", "9" * 4000, "9" * 5000, "0x" + "f" * 40, "0x" + "f" * 9000, "0b" + "1" * 20000, "0o777",
        "-9223372036854775809", "18446744073709551616", "2147483648", '""', '"\\u0000"', '"\\u001b[31m"', "'٣'",
        '"../../etc"',
        '"/etc/passwd"', '"~root"', '"a\\\\b"', '"' + "a" * 5000 + '"', '"ws://[::1"', '"ws://h:٣"', '"ws://h:99999"',
        '"ws://\\u0000:1"', '"ws://a@b:1"', '"http://h:1"', '"00"', '"zz"', "[]", "[[]]", "[1, 'a', 1.5]", "{}",
        "{a = 1}",
        "{a.a.a = 1}", "[{}]", "[" * 200 + "]" * 200, "[" * 3000, '"""\na"""', "'''\n'''", "12345678901234567890.5",
        '"\\ud800"', "1_000", "1__0", "+5", "00", "0.0", "1.5", '"standard"', '"tiny"', '"mean"',
    )
)  # fmt: skip


def mutate_toml(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Changes to lines and values, to the bytes now and then."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not lines:
            break
        at = rng.randrange(len(lines))
        line = lines[at]
        match rng.randrange(12):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, line)
            case 2:
                lines[at : at + 1] = [line] * rng.choice((2, 64))
            case 3:
                other = rng.choice(others).split(b"\n")
                lines.insert(at, rng.choice(other))
            case 4:
                lines.insert(
                    at,
                    rng.choice(
                        (b"[task]", b"[[replicas]]", b"[x.y]", b"[[rosters]]", b"[", b"]]", b'["\\u001b"]')
                    ),
                )
            case 5:
                lines[at] = mutate_bytes(rng, line, others)
            case 6:
                parts = rng.choice((2, 3, 40, 400))
                lines.insert(at, b".".join([b"a"] * parts) + b" = 1")
            case 7:
                lines[at] = line.replace(b"=", rng.choice((b"_x =", b".y =", b" = =", b'."\\u0007" =')), 1)
            case 8:
                other = rng.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case _:
                literal = b"= " + rng.choice(_LITERALS)
                lines[at] = _VALUE.sub(lambda _, found=literal: found, line)
    return b"\n".join(lines)


MUTATIONS: Final[dict[str, Callable[[random.Random, bytes, Sequence[bytes]], bytes]]] = {
    "bytes": mutate_bytes,
    "msgpack": mutate_msgpack,
    "toml": mutate_toml,
}
