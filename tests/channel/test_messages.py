"""Messages at the edge: one encoding of each value, and `MalformedMessage` for everything else."""

from __future__ import annotations

import contextlib
import types
from typing import Annotated, Any, get_args, get_origin

import msgpack
import pytest
from annotated_types import Ge, Le, Len
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, FailFast
from pydantic.fields import FieldInfo

from asyncfl.errors import MalformedMessage
from asyncfl.messages import (
    CHUNK_BYTES,
    Chunk,
    Message,
    Pull,
    Settings,
    Task,
    Wait,
    chunk_head,
    decode_message,
    encode_message,
)
from asyncfl.wire import MAX_MESSAGE_BYTES, Wire, pack, unpack

KINDS: tuple[type[Wire], ...] = get_args(Message)


def bounds(metadata: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        match item:
            case Ge(ge=low):
                found["low"] = low
            case Le(le=high):
                found["high"] = high
            case Len(min_length=shortest, max_length=longest):
                found["min_size"], found["max_size"] = shortest, longest
            case FieldInfo():
                found |= bounds(item.metadata)
            case FailFast() | AfterValidator():  # of sequences and of printable text
                continue
            case _ if hasattr(item, "min_length"):
                found["min_size"] = item.min_length
            case _ if hasattr(item, "max_length"):
                found["max_size"] = item.max_length
            case _:
                raise AssertionError(f"a constraint that this test does not know: {item!r}")
    return found


def of_type(kind: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Values that a field's annotation allows, small where it allows large ones."""
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return of_type(inner, [*metadata, *more])
    limits = bounds(metadata)
    smallest = limits.get("min_size", 0)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(limits["low"], limits["high"])
    if kind is float:
        return st.floats(limits["low"], limits["high"], allow_nan=False)
    if kind is bytes:
        return st.binary(min_size=smallest, max_size=min(limits["max_size"], max(smallest, 200)))
    if kind is str:
        return st.text(max_size=min(limits["max_size"], 60)).filter(str.isprintable)
    if get_origin(kind) is tuple:
        element, ellipsis = get_args(kind)
        assert ellipsis is ...
        largest = min(limits["max_size"], smallest + 2)
        return st.lists(of_type(element, []), min_size=smallest, max_size=largest).map(tuple)
    if isinstance(kind, types.UnionType):
        return st.one_of(*(of_type(option, []) for option in get_args(kind)))
    if kind is type(None):
        return st.none()
    assert issubclass(kind, Wire), f"a field of type {kind} is unknown to this test"
    return of_model(kind)


def of_model(kind: type[Wire]) -> st.SearchStrategy[Any]:
    fields = {name: of_type(info.annotation, list(info.metadata)) for name, info in kind.model_fields.items()}
    return st.builds(kind, **fields)


MESSAGES = st.one_of(*(of_model(kind) for kind in KINDS))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=10)
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=6).map(tuple) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=25,
)


def mutated(fields: tuple[Any, ...], data: st.DataObject) -> Any:
    """`fields` with one place, at any depth, replaced, dropped or doubled."""
    if not fields:
        return (data.draw(PLAIN),)
    index = data.draw(st.integers(0, len(fields) - 1))
    inner = fields[index]
    how = data.draw(st.sampled_from(["replace", "drop", "double", "deeper"]))
    if how == "deeper" and isinstance(inner, tuple):
        return (*fields[:index], mutated(inner, data), *fields[index + 1 :])
    if how == "drop":
        return (*fields[:index], *fields[index + 1 :])
    if how == "double":
        return (*fields[:index], inner, *fields[index:])
    return (*fields[:index], data.draw(PLAIN), *fields[index + 1 :])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_type_round_trips(kind: type[Wire]) -> None:
    @settings(max_examples=15, deadline=None)
    @given(of_model(kind))
    def check(message: Any) -> None:
        encoded = encode_message(message)
        decoded = decode_message(encoded)
        assert type(decoded) is kind
        assert decoded == message
        assert encode_message(decoded) == encoded
        assert decode_message(memoryview(encoded)) == message

    check()


def test_every_message_type_has_a_tag_of_its_own() -> None:
    @settings(max_examples=1, deadline=None)
    @given(st.tuples(*(of_model(kind) for kind in KINDS)))
    def check(messages: tuple[Any, ...]) -> None:
        tags = [unpack(encode_message(message))[0] for message in messages]
        assert tags == list(range(len(KINDS)))

    check()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_message_is_refused_or_is_another_valid_one(data: st.DataObject) -> None:
    tag, fields = unpack(encode_message(data.draw(MESSAGES)))
    encoded = pack((tag, mutated(fields, data)))
    try:
        decoded = decode_message(encoded)
    except MalformedMessage:
        return
    assert encode_message(decoded) == encoded


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_malformed_message(data: bytes) -> None:
    try:
        decoded = decode_message(data)
    except MalformedMessage:
        return
    assert encode_message(decoded) == data


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_arbitrary_msgpack_raises_nothing_but_malformed_message(value: Any) -> None:
    with contextlib.suppress(MalformedMessage):
        decode_message(msgpack.packb(value, use_bin_type=True))


@settings(max_examples=200, deadline=None)
@given(MESSAGES, st.data())
def test_flipped_and_truncated_bytes_raise_nothing_but_malformed_message(
    message: Any, data: st.DataObject
) -> None:
    encoded = bytearray(encode_message(message))
    position = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(MalformedMessage):
        decode_message(bytes(encoded[:position]))
    with pytest.raises(MalformedMessage):
        decode_message(bytes(encoded) + b"\0")
    encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode_message(bytes(encoded))
    except MalformedMessage:
        return
    assert encode_message(decoded) == bytes(encoded)


CERTIFICATE = (bytes(32), 1, bytes(32), (), 0)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("nothing", b""),
        ("a longer integer than needed", b"\x92\xcc\x02\x92\x01\xa1x"),
        ("a longer field than needed", b"\x92\x02\x92\xcd\x00\x01\xa1x"),
        ("a longer string header than needed", b"\x92\x02\x92\x01\xd9\x01x"),
        ("an array with a longer header", b"\xdc\x00\x02\x02\x92\x01\xa1x"),
        ("bytes for a string", msgpack.packb((2, (1, b"x")))),
        ("a string for bytes", msgpack.packb((26, ("x" * 32, 0)))),
        ("a boolean for an integer", msgpack.packb((2, (True, "x")))),
        ("an integer for a boolean", msgpack.packb((0, (1, 0, 0, 0, 0)))),
        ("a float for an integer", msgpack.packb((2, (1.0, "x")))),
        ("an integer for a float", msgpack.packb((3, (1, CERTIFICATE, 4, (1, 0, 1, 0.0, 0.0, 0))))),
        ("a number that is none", msgpack.packb((3, (1, CERTIFICATE, 4, (float("nan"), 0, 1, 0.0, 0.0, 0))))),
        ("an infinite number", msgpack.packb((3, (1, CERTIFICATE, 4, (float("inf"), 0, 1, 0.0, 0.0, 0))))),
        ("a budget that is no number", pack((3, (1, CERTIFICATE, 4, (0.5, 0, 1, 0.0, float("nan"), 0))))),
        ("a negative mu", pack((3, (1, CERTIFICATE, 4, (0.5, 0, 1, -0.5, 0.0, 0))))),
        ("settings without a budget", pack((3, (1, CERTIFICATE, 4, (0.5, 0, 1))))),
        (
            "a 32-bit float",
            msgpack.packb((3, (1, CERTIFICATE, 4, (0.5, 0, 1, 0.0, 0.0, 0))), use_single_float=True),
        ),
        (
            "a map for a nested message",
            msgpack.packb(
                (3, (1, CERTIFICATE, 4, {"learning_rate": 0.5, "local_steps": 0, "batch_size": 1}))
            ),
        ),
        ("a map for the fields", msgpack.packb((2, {"epoch": 1, "reason": "x", "queue": 0}))),
        ("a map for the frame", msgpack.packb({"0": 1})),
        ("a field too many", msgpack.packb((2, (1, "x", 0, 1)))),
        ("a field too few", msgpack.packb((2, (1, "x")))),
        ("a third element", msgpack.packb((2, (1, "x", 0), 0))),
        ("nil for a field", msgpack.packb((2, (None, "x", 0)))),
        ("an epoch of zero", msgpack.packb((2, (0, "x", 0)))),
        ("a negative epoch", msgpack.packb((2, (-1, "x", 0)))),
        ("an epoch beyond 31 bits", msgpack.packb((2, (2**31, "x", 0)))),
        ("an unknown tag", msgpack.packb((99, (1, "x", 0)))),
        ("a negative tag", msgpack.packb((-1, (1, "x", 0)))),
        ("a boolean tag", msgpack.packb((True, (1, "x", 0)))),
        ("a string tag", msgpack.packb(("2", (1, "x", 0)))),
        ("an extension type", msgpack.packb((2, (1, msgpack.ExtType(4, b"x"), 0)))),
        ("a timestamp", b"\x92\x02\x93\xd6\xff\x00\x00\x00\x00\xa1x\x00"),
        ("a string that is not UTF-8", b"\x92\x02\x93\x01\xa2\xff\xfe\x00"),
        ("half a surrogate", b"\x92\x02\x93\x01\xa3\xed\xa0\x80\x00"),
        ("arrays nested deeply", b"\x91" * 100_000 + b"\x01"),
        ("arrays nested just under the parser's limit", b"\x91" * 500 + b"\x01"),
        ("nesting inside a field", b"\x92\x02\x93" + b"\x91" * 400 + b"\x01\xa1x\x00"),
        ("maps nested deeply", b"\x81\xa1x" * 50_000 + b"\x01"),
        ("an announced array of 2^32 elements", b"\xdd\xff\xff\xff\xff"),
        ("an announced array beyond the limit", b"\xdd\x00\x01\x00\x01" + b"\x01" * 65537),
        ("announced bytes of 2^32", b"\xc6\xff\xff\xff\xff"),
        ("an announced map of 2^32 entries", b"\xdf\xff\xff\xff\xff"),
        ("an array for a map key", b"\x81\x91\x01\x01"),
        ("a reserved byte", b"\xc1"),
        ("two messages in one", b"\x92\x02\x93\x01\xa1x\x00" * 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_this_frame_is_refused(name: str, frame: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(frame)


def test_the_frame_that_the_refused_ones_vary_is_valid() -> None:
    assert decode_message(b"\x92\x02\x93\x01\xa1x\x00") == Wait(epoch=1, reason="x")
    assert decode_message(pack((26, (bytes(32), 0)))) == Pull(blob=bytes(32), offset=0)
    task = decode_message(pack((3, (1, CERTIFICATE, 4, (0.5, 0, 1, 0.0, 0.0, 0)))))
    assert isinstance(task, Task)
    assert task.settings == Settings(learning_rate=0.5, local_steps=0, batch_size=1)


def test_size_limits_hold_at_their_edges() -> None:
    largest = Chunk(blob=bytes(32), offset=0, data=bytes(CHUNK_BYTES))
    assert decode_message(encode_message(largest)) == largest
    with pytest.raises(MalformedMessage):
        decode_message(pack((27, (bytes(32), 0, bytes(CHUNK_BYTES + 1)))))
    with pytest.raises(MalformedMessage):
        decode_message(pack((27, (bytes(32), 0, b""))))
    with pytest.raises(MalformedMessage, match="limit"):
        decode_message(bytes(MAX_MESSAGE_BYTES + 1))
    with pytest.raises(MalformedMessage):
        decode_message(pack((2, (1, "x" * 401))))


@pytest.mark.parametrize("size", [1, 255, 256, 65535, 65536, CHUNK_BYTES])
@pytest.mark.parametrize("offset", [0, 127, 128, 255, 256, 65536, 2**32, 2**36])
def test_the_head_of_a_chunk_is_what_stands_before_its_data(size: int, offset: int) -> None:
    data = bytes(size)
    assert (
        encode_message(Chunk(blob=b"b" * 32, offset=offset, data=data))
        == chunk_head(b"b" * 32, offset, size) + data
    )


@pytest.mark.parametrize("offset", [b"\xcc\x01", b"\xd1\x01\x00", b"\xce\x00\x00\x01\x00", b"\xd0\x01"])
def test_a_chunk_whose_offset_is_not_in_canonical_encoding_is_refused(offset: bytes) -> None:
    head = chunk_head(b"b" * 32, 0, 3)
    assert head[-3:] == b"\0\xc4\x03"
    with pytest.raises(MalformedMessage, match="canonical"):
        decode_message(head[:-3] + offset + b"\xc4\x03abc")
    with pytest.raises(MalformedMessage, match="canonical"):
        decode_message(head[:-2] + b"\xc5\x00\x03abc")
