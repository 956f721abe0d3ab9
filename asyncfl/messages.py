"""Every message of the protocol, typed. Fields in the order in which they travel.

Signed statements have a `body()` (the bytes that are signed) and name their type tag in `KIND`.
`docs/protocol.md` says who sends what when.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Le, Len

from asyncfl.digest import digest
from asyncfl.errors import MalformedMessage
from asyncfl.wire import (
    Count,
    Digest,
    Epoch,
    PublicKey,
    ReplicaIndex,
    ShortText,
    Signature,
    Wire,
    pack,
    unpack,
)

CHUNK_BYTES: Final = 256 * 1024
MAX_BLOB_BYTES: Final = 1 << 36
Cell = Annotated[int, Ge(0), Le(65535)]
Coefficients = Annotated[bytes, Len(1, 8192)]
"""N ring coefficients packed at 23 bits each."""


# --- uploads -------------------------------------------------------------------------------------------


class ManifestCore(Wire):
    """What a dealing proof is derived from (protocol section 3). Leaving a field out is an attack."""

    deployment: Digest
    degree: Annotated[int, Ge(1), Le(4096)]
    modulus: Annotated[int, Ge(1), Le(2**23)]
    replicas: Annotated[int, Ge(1), Le(16)]
    byzantine: Annotated[int, Ge(0), Le(5)]
    check_blocks: Annotated[int, Ge(1), Le(64)]
    payload_blocks: Annotated[int, Ge(1), Le(2**24)]
    client: PublicKey
    epoch: Epoch
    cell: Cell
    coordinator: ReplicaIndex
    roster: Count
    roster_digest: Digest
    base_version: Digest
    upload: Digest
    """Content digest of all of packed y, check blocks included."""
    share_digests: Annotated[tuple[Digest, ...], Len(1, 16)]
    boxes: Annotated[tuple[Annotated[bytes, Len(1, 8192)], ...], Len(1, 16)]

    def digest(self) -> bytes:
        return digest("asyncfl/1/manifest-core", self.encode())


class Manifest(Wire):
    """A client's signed upload: core, published projections w_l, signature over both."""

    KIND: ClassVar = "manifest"

    core: ManifestCore
    projections: Annotated[bytes, Len(1, 1 << 14)]
    """w_l: 32 polynomials of n-2t coefficients mod q, little-endian uint32, [32, n-2t] row-major."""
    signature: Signature

    def body(self) -> bytes:
        return self.digest()

    def digest(self) -> bytes:
        """Names the upload: core and all projections (not the signature, which is malleable in form)."""
        return digest("asyncfl/1/manifest", self.core.encode(), self.projections)


class GroupId(Wire):
    """Names a group and, once opened, its ledger entry."""

    epoch: Epoch
    cell: Cell
    coordinator: ReplicaIndex
    part: Annotated[int, Ge(0), Le(65535)]


class Member(Wire):
    """One upload in a group."""

    client: PublicKey
    epoch: Epoch
    manifest: Digest


class Vote(Wire):
    """A replica's signature on something that the context names."""

    replica: ReplicaIndex
    signature: Signature


Votes = Annotated[tuple[Vote, ...], Len(0, 16)]


class LockContent(Wire):
    """What is locked: id and members, sorted by (client, epoch)."""

    id: GroupId
    members: Annotated[tuple[Member, ...], Len(1, 63)]

    def digest(self) -> bytes:
        return digest("asyncfl/1/group", self.encode())


class Item(Wire):
    """A ledger entry as the version digest sees it: nothing about which signatures came along."""

    id: GroupId
    members: Annotated[tuple[Member, ...], Len(1, 63)]
    opened: Digest
    """Content digest of the opened sum's canonical bytes."""

    def digest(self) -> bytes:
        return digest("asyncfl/1/item", self.encode())


# --- client and replica --------------------------------------------------------------------------------


class Ready(Wire):
    """Client: I am at `epoch` (also the sign of life); `coordinator` is asked for the TASK."""

    epoch: Epoch
    coordinator: ReplicaIndex
    roster: Count
    uploaded: Count
    """The client's last stored upload (0: none): its next TASK comes from a model that contains it."""
    wants_task: bool


class Leave(Wire):
    """Client: I take part no more; my privacy budget is spent after `uploads` uploads. Instead of READY."""

    KIND: ClassVar = "leave"

    epoch: Epoch
    uploads: Count
    signature: Signature

    def body(self) -> bytes:
        return pack((self.epoch, self.uploads))


class Front(Wire):
    """Replica's signed answer to READY: its front, and the patience it uses (milliseconds)."""

    KIND: ClassVar = "front"

    front: Epoch
    patience: Annotated[int, Ge(1), Le(86_400_000)]
    roster: Count
    signature: Signature

    def body(self) -> bytes:
        return pack((self.front, self.patience, self.roster))


class Wait(Wire):
    """Coordinator: no TASK for `epoch` yet, and why."""

    epoch: Epoch
    reason: ShortText


class Settings(Wire):
    """How to train: learning rate, steps (0: one pass over the data), batch size."""

    learning_rate: Annotated[float, Ge(0), Le(1e6)]
    local_steps: Annotated[int, Ge(0), Le(1_000_000)]
    batch_size: Annotated[int, Ge(1), Le(1_000_000)]


class Certificate(Wire):
    """t+1 replicas' signatures on one model of one version."""

    version: Digest
    entries: Count
    model: Digest
    votes: Votes

    KIND: ClassVar = "model"

    def body(self) -> bytes:
        return model_body(self.version, self.entries, self.model)


class Task(Wire):
    """Coordinator: train for `epoch` from this certified model, which is then pulled as a blob."""

    epoch: Epoch
    certificate: Certificate
    model_bytes: Annotated[int, Ge(4), Le(MAX_BLOB_BYTES)]
    settings: Settings


class Upload(Wire):
    """Client: here is my upload; pull y from me."""

    manifest: Manifest


class Stored(Wire):
    """Replica: your upload is on my disk."""

    epoch: Epoch
    manifest: Digest


class Refused(Wire):
    """Replica: your upload cannot be accepted, and why."""

    epoch: Epoch
    manifest: Digest
    reason: ShortText


class Expired(Wire):
    """Replica: your upload found no group in time and was given up."""

    epoch: Epoch
    manifest: Digest


# --- replica and replica -------------------------------------------------------------------------------


class Relay(Wire):
    """An upload, told to another replica; it pulls y."""

    manifest: Manifest


class ManifestRequest(Wire):
    """Send me these manifests (as RELAY)."""

    manifests: Annotated[tuple[Digest, ...], Len(1, 63)]


class ShareOk(Wire):
    """My share and all of y are verified and on disk, for the only manifest of (client, epoch) I accept."""

    KIND: ClassVar = "share-ok"

    client: PublicKey
    epoch: Epoch
    manifest: Digest
    signature: Signature

    def body(self) -> bytes:
        return share_ok_body(self.client, self.epoch, self.manifest)


class ShareBad(Wire):
    """My share of this upload fails its check; it is not counted, and nothing is disclosed."""

    KIND: ClassVar = "share-bad"

    client: PublicKey
    epoch: Epoch
    manifest: Digest
    signature: Signature

    def body(self) -> bytes:
        return share_ok_body(self.client, self.epoch, self.manifest)


class Lock(Wire):
    """Coordinator: lock this group. `oks[i]` are the n-t SHARE_OKs of member i, from `supporters` in order."""

    KIND: ClassVar = "lock"

    content: LockContent
    supporters: Annotated[tuple[ReplicaIndex, ...], Len(1, 16)]
    oks: Annotated[tuple[Annotated[tuple[Signature, ...], Len(1, 16)], ...], Len(1, 63)]
    signature: Signature

    def body(self) -> bytes:
        return self.content.digest()


class Locked(Wire):
    """I have locked this content and nothing else for its id and members (on disk)."""

    KIND: ClassVar = "locked"

    id: GroupId
    group: Digest
    signature: Signature

    def body(self) -> bytes:
        return self.group


class LockRefused(Wire):
    """I cannot lock this, and why; `conflict` is a group I locked that shares an id or a member."""

    id: GroupId
    group: Digest
    reason: ShortText
    conflict: Annotated[tuple[LockContent, ...], Len(0, 1)]


class TakenOver(Wire):
    """To the named coordinator: I signed this group of uploads that name you."""

    content: LockContent


class Reveal(Wire):
    """n-t replicas locked this content: answer with your sum of shares."""

    content: LockContent
    votes: Votes


class ShareSum(Wire):
    """The plain sum of my shares of all members, packed."""

    KIND: ClassVar = "share-sum"

    id: GroupId
    group: Digest
    total: Coefficients
    signature: Signature

    def body(self) -> bytes:
        return pack((self.group, self.total))


class Entry(Wire):
    """An opened group: content, n-t LOCK signatures, and the sum of the members' secrets, packed."""

    content: LockContent
    votes: Votes
    secret: Coefficients


class Attest(Wire):
    """I opened this group myself and got this sum."""

    KIND: ClassVar = "attest"

    id: GroupId
    item: Digest
    signature: Signature

    def body(self) -> bytes:
        return self.item


class CertifiedItem(Wire):
    """A ledger item with t+1 attestations; the opened sum of `opened_bytes` is pulled as a blob."""

    item: Item
    votes: Votes
    opened_bytes: Annotated[int, Ge(1), Le(MAX_BLOB_BYTES)]


class Row(Wire):
    """The items of one epoch, by digest, sorted."""

    epoch: Epoch
    items: Annotated[tuple[Digest, ...], Len(1, 4096)]


class View(Wire):
    """A set of ledger items: a chain value over old rows, and the recent rows in full.

    With `pinned`, the sender asks for a signature on the model of exactly this version.
    """

    base: Digest
    base_epoch: Count
    """Rows up to this epoch are inside `base`."""
    entries: Count
    rows: Annotated[tuple[Row, ...], Len(0, 256)]
    pinned: bool


class RowsRequest(Wire):
    """Send me your rows of these epochs (as VIEW with base 0), from `first` on."""

    first: Epoch


class Rows(Wire):
    """The answer: complete rows from `first` on, as many as fit; `more` says whether others follow."""

    first: Epoch
    rows: Annotated[tuple[Row, ...], Len(0, 256)]
    more: bool


class ItemRequest(Wire):
    """Send me these items: CERTIFIED_ITEM where certified, else ENTRY and ATTEST."""

    items: Annotated[tuple[Digest, ...], Len(1, 256)]


class ModelVote(Wire):
    """My signature on the model of a version."""

    KIND: ClassVar = "model"

    version: Digest
    entries: Count
    model: Digest
    signature: Signature

    def body(self) -> bytes:
        return model_body(self.version, self.entries, self.model)


# --- blobs ---------------------------------------------------------------------------------------------


class Pull(Wire):
    """Send me the blob of this digest from this offset on."""

    blob: Digest
    offset: Annotated[int, Ge(0), Le(MAX_BLOB_BYTES)]


class Chunk(Wire):
    """A piece of a blob; handled by the shell, never by a machine."""

    blob: Digest
    offset: Annotated[int, Ge(0), Le(MAX_BLOB_BYTES)]
    data: Annotated[bytes, Len(1, CHUNK_BYTES)]


class Missing(Wire):
    """I do not have that blob."""

    blob: Digest


Message = (
    Ready | Front | Wait | Task | Upload | Stored | Refused | Expired
    | Relay | ManifestRequest | ShareOk | ShareBad | Lock | Locked | LockRefused | TakenOver
    | Reveal | ShareSum | Entry | Attest | CertifiedItem
    | View | RowsRequest | Rows | ItemRequest | ModelVote
    | Pull | Chunk | Missing | Leave
)  # fmt: skip

_TYPES: Final[tuple[type[Wire], ...]] = (
    Ready, Front, Wait, Task, Upload, Stored, Refused, Expired,
    Relay, ManifestRequest, ShareOk, ShareBad, Lock, Locked, LockRefused, TakenOver,
    Reveal, ShareSum, Entry, Attest, CertifiedItem,
    View, RowsRequest, Rows, ItemRequest, ModelVote,
    Pull, Chunk, Missing, Leave,
)  # fmt: skip
_TAGS: Final = {kind: tag for tag, kind in enumerate(_TYPES)}


def share_ok_body(client: bytes, epoch: int, manifest: bytes) -> bytes:
    """What SHARE_OK and SHARE_BAD sign (under different types)."""
    return pack((client, epoch, manifest))


def model_body(version: bytes, entries: int, model: bytes) -> bytes:
    """What a model certificate signs."""
    return pack((version, entries, model))


def encode_message(message: Message) -> bytes:
    """The message's frame: msgpack of [type tag, fields]."""
    return pack((_TAGS[type(message)], message.to_fields()))


def decode_message(data: bytes | memoryview) -> Message:
    """The message of a frame. Raises `MalformedMessage` for anything but a valid one."""
    value: Any = unpack(data)
    if not isinstance(value, tuple) or len(value) != 2 or type(value[0]) is not int:
        raise MalformedMessage("a frame is an array of a type tag and fields")
    tag, fields = value
    if not 0 <= tag < len(_TYPES):
        raise MalformedMessage(f"unknown message type {tag}")
    message: Message = _TYPES[tag].from_fields(fields)  # type: ignore[assignment]
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
