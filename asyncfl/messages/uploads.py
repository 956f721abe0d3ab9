"""An upload, the group that it is opened in, and the ledger item that comes of it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le, Len

from asyncfl.digest import digest
from asyncfl.wire import (
    Count,
    Digest,
    Epoch,
    Many,
    PublicKey,
    ReplicaIndex,
    Signature,
    Wire,
)

Cell = Annotated[int, Ge(0), Le(65535)]
Coefficients = Annotated[bytes, Len(1, 8192)]
"""N ring coefficients packed at 23 bits each."""


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
    check_digest: Digest
    """Content digest of the packed check blocks alone: a false proof shows without the payload."""
    share_digests: Annotated[Many[Digest], Len(1, 16)]
    boxes: Annotated[Many[Annotated[bytes, Len(1, 8192)]], Len(1, 16)]

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


Votes = Annotated[Many[Vote], Len(0, 16)]


class LockContent(Wire):
    """What is locked: id and members, sorted by (client, epoch)."""

    id: GroupId
    members: Annotated[Many[Member], Len(1, 63)]

    def digest(self) -> bytes:
        return digest("asyncfl/1/group", self.encode())


class Item(Wire):
    """A ledger entry as the version digest sees it: nothing about which signatures came along."""

    id: GroupId
    members: Annotated[Many[Member], Len(1, 63)]
    opened: Digest
    """Content digest of the opened sum's canonical bytes."""

    def digest(self) -> bytes:
        return digest("asyncfl/1/item", self.encode())
