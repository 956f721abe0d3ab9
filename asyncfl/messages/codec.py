"""Messages as frames: msgpack of [type tag, fields], one encoding for each value."""

from __future__ import annotations

from typing import Any, Final, cast

from asyncfl.errors import MalformedMessage
from asyncfl.messages.blobs import Chunk, Missing, Pull
from asyncfl.messages.clients import Expired, Front, Leave, Ready, Refused, Stored, Task, Upload, Wait
from asyncfl.messages.evidence import Convictions, EvidenceRequest, Exhibit
from asyncfl.messages.operator import ExclusionRequest, ExclusionStatement, RosterRequest, RosterStatement
from asyncfl.messages.replicas import (
    Attest,
    CertifiedItem,
    Entry,
    ItemRequest,
    Lock,
    Locked,
    LockRefused,
    ManifestRequest,
    ModelVote,
    Relay,
    Reveal,
    Rows,
    RowsRequest,
    ShareBad,
    ShareOk,
    ShareSum,
    TakenOver,
    View,
)
from asyncfl.wire import (
    Wire,
    pack,
    unpack,
)

Message = (
    Ready | Front | Wait | Task | Upload | Stored | Refused | Expired
    | Relay | ManifestRequest | ShareOk | ShareBad | Lock | Locked | LockRefused | TakenOver
    | Reveal | ShareSum | Entry | Attest | CertifiedItem
    | View | RowsRequest | Rows | ItemRequest | ModelVote
    | Pull | Chunk | Missing | Leave | RosterStatement | RosterRequest
    | Convictions | EvidenceRequest | Exhibit | ExclusionStatement | ExclusionRequest
)  # fmt: skip

MESSAGE_TYPES: Final[tuple[type[Wire], ...]] = (
    Ready, Front, Wait, Task, Upload, Stored, Refused, Expired,
    Relay, ManifestRequest, ShareOk, ShareBad, Lock, Locked, LockRefused, TakenOver,
    Reveal, ShareSum, Entry, Attest, CertifiedItem,
    View, RowsRequest, Rows, ItemRequest, ModelVote,
    Pull, Chunk, Missing, Leave, RosterStatement, RosterRequest,
    Convictions, EvidenceRequest, Exhibit, ExclusionStatement, ExclusionRequest,
)  # fmt: skip
_TAGS: Final = {kind: tag for tag, kind in enumerate(MESSAGE_TYPES)}


def encode_message(message: Message) -> bytes:
    """The message's frame: msgpack of [type tag, fields]."""
    return pack((_TAGS[type(message)], message.to_fields()))


def decode_message(data: bytes | memoryview) -> Message:
    """The message of a frame. Raises `MalformedMessage` for anything but a valid one."""
    value: Any = unpack(data)
    if not isinstance(value, tuple) or len(value) != 2 or type(value[0]) is not int:
        raise MalformedMessage("a frame is an array of a type tag and fields")
    tag, fields = value
    if not 0 <= tag < len(MESSAGE_TYPES):
        raise MalformedMessage(f"unknown message type {tag}")
    message = cast(Message, MESSAGE_TYPES[tag].from_fields(fields))
    if not _is_canonical(message, data):
        # Longer integers, maps for arrays, an integer for a float: one value must have one encoding.
        raise MalformedMessage(f"{type(message).__name__}: not in canonical encoding")
    return message


def _is_canonical(message: Message, data: bytes | memoryview) -> bool:
    if not isinstance(message, Chunk):
        return encode_message(message) == bytes(data)
    # Bulk data is not encoded and compared again: what stands before it, and the length, leave no choice.
    head = chunk_head(message.blob, message.offset, len(message.data))
    return data[: len(head)] == head and len(data) == len(head) + len(message.data)


def chunk_head(blob: bytes, offset: int, size: int) -> bytes:
    """What stands before the data in the frame of a `Chunk` with `size` bytes, so that they need no copy."""
    if size < 1 << 8:
        length = b"\xc4" + size.to_bytes(1, "big")
    elif size < 1 << 16:
        length = b"\xc5" + size.to_bytes(2, "big")
    else:
        length = b"\xc6" + size.to_bytes(4, "big")
    return pack((_TAGS[Chunk], (blob, offset, b"")))[:-2] + length
