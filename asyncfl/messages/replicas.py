"""What replicas say to each other."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from annotated_types import Ge, Le, Len

from asyncfl.messages.blobs import MAX_BLOB_BYTES
from asyncfl.messages.clients import model_body
from asyncfl.messages.uploads import (
    Coefficients,
    GroupId,
    Item,
    LockContent,
    Manifest,
    Votes,
)
from asyncfl.wire import (
    Count,
    Digest,
    Epoch,
    Many,
    PublicKey,
    ReplicaIndex,
    ShortText,
    Signature,
    Wire,
    pack,
)

MAX_ROW_ITEMS: Final = 4096
"""Entries of one epoch."""


def share_ok_body(client: bytes, epoch: int, manifest: bytes) -> bytes:
    """What SHARE_OK and SHARE_BAD sign (under different types)."""
    return pack((client, epoch, manifest))


def share_sum_body(group: bytes, total: bytes) -> bytes:
    """What SHARE_SUM signs."""
    return pack((group, total))


class Relay(Wire):
    """An upload, told to another replica; it pulls y."""

    manifest: Manifest


class ManifestRequest(Wire):
    """Send me these manifests (as RELAY)."""

    manifests: Annotated[Many[Digest], Len(1, 63)]


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
    supporters: Annotated[Many[ReplicaIndex], Len(1, 16)]
    oks: Annotated[Many[Annotated[Many[Signature], Len(1, 16)]], Len(1, 63)]
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
    conflict: Annotated[Many[LockContent], Len(0, 1)]


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
        return share_sum_body(self.group, self.total)


class Entry(Wire):
    """An opened group: content, n-t LOCK signatures, and the sum of the members' secrets, packed."""

    content: LockContent
    votes: Votes
    secret: Coefficients


def attest_body(id: GroupId, item: bytes) -> bytes:
    """What ATTEST signs. With the id, so that attestations of two sums of one group contradict each other."""
    return pack((id.to_fields(), item))


class Attest(Wire):
    """I opened this group myself and got this sum."""

    KIND: ClassVar = "attest"

    id: GroupId
    item: Digest
    signature: Signature

    def body(self) -> bytes:
        return attest_body(self.id, self.item)


class CertifiedItem(Wire):
    """A ledger item with t+1 attestations; the opened sum of `opened_bytes` is pulled as a blob.

    `locks` are the n-t LOCKED signatures that opened the group: for those who audit the ledger.
    """

    item: Item
    votes: Votes
    opened_bytes: Annotated[int, Ge(1), Le(MAX_BLOB_BYTES)]
    locks: Votes = ()


class Row(Wire):
    """The items of one epoch, by digest, sorted."""

    epoch: Epoch
    items: Annotated[Many[Digest], Len(1, MAX_ROW_ITEMS)]


class View(Wire):
    """A set of ledger items: a chain value over old rows, and the recent rows in full.

    With `pinned`, the sender asks for a signature on the model of exactly this version, computed under the operator's
    statement that it holds: its number and digest (0 and zeros if it holds none).
    """

    base: Digest
    base_epoch: Count
    """Rows up to this epoch are inside `base`."""
    entries: Count
    rows: Annotated[Many[Row], Len(0, 256)]
    pinned: bool
    statement: Count = 0
    exclusion: Digest = bytes(32)


class RowsRequest(Wire):
    """Send me the rows inside `base` of a VIEW of yours, from epoch `first` on."""

    base: Digest
    first: Epoch


class Rows(Wire):
    """The answer: rows of the version `base` from `first` on, as many as fit; `more` says whether others follow."""

    base: Digest
    first: Epoch
    rows: Annotated[Many[Row], Len(0, 256)]
    more: bool


class ItemRequest(Wire):
    """Send me these items: CERTIFIED_ITEM where certified, else ENTRY and ATTEST."""

    items: Annotated[Many[Digest], Len(1, 256)]


class ModelVote(Wire):
    """My signature on the model of a version."""

    KIND: ClassVar = "model"

    version: Digest
    entries: Count
    model: Digest
    signature: Signature
    statement: Count = 0

    def body(self) -> bytes:
        return model_body(self.version, self.entries, self.model, self.statement)
