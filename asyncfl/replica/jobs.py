"""Heavy work of a replica, run off the event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from asyncfl import masking
from asyncfl.digest import content_digest
from asyncfl.effects import Blobs
from asyncfl.errors import DealingError, InvalidItem
from asyncfl.evidence import BadShare
from asyncfl.federation import Federation
from asyncfl.identity import Identity, verify
from asyncfl.messages import Lock, Manifest, ShareOk, share_ok_body


class Masking(Protocol):
    """The heavy functions of `asyncfl.masking`. A simulation computes each of them once for all replicas."""

    def verify_public(self, manifest: Manifest, payload: bytes, federation: Federation) -> None: ...

    def find_secret(
        self,
        payloads: Iterable[Callable[[], bytes]],
        answers: Mapping[int, bytes],
        federation: Federation,
        *,
        distrusted: Collection[int] = (),
    ) -> bytes: ...

    def open_sum(self, payloads: Iterable[bytes], secret: bytes, federation: Federation) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Dealt:
    """An upload whose public part holds: this replica's share of it (packed), or None when that one is bad."""

    share: bytes | None
    evidence: BadShare | None = None
    """Where the client has committed to a bad one. One that is not what it committed to proves nothing to others."""


@dataclass(frozen=True, slots=True)
class VerifyUpload:
    """Check everything about an upload that this replica can check.

    Raises `InvalidItem` when the defect is one that everybody sees.
    """

    manifest: Manifest
    index: int
    identity: Identity
    federation: Federation
    masking: Masking = masking

    def run(self, blobs: Blobs) -> Dealt:
        payload = blobs.read(self.manifest.core.upload)
        self.masking.verify_public(self.manifest, payload, self.federation)
        try:
            return Dealt(masking.open_share(self.manifest, self.index, self.identity, self.federation))
        except DealingError as error:
            return Dealt(None, BadShare(manifest=self.manifest, replica=self.index, salted=error.shown))
        except InvalidItem:
            return Dealt(None)


@dataclass(frozen=True, slots=True)
class VerifyOks:
    """Check the SHARE_OKs of a LOCK, but for those already known. Returns whether all are valid."""

    lock: Lock
    known: Mapping[tuple[bytes, int], bytes]
    """Signatures already verified, by (manifest digest, replica)."""
    federation: Federation

    def run(self, blobs: Blobs) -> bool:
        federation = self.federation
        for member, signatures in zip(self.lock.content.members, self.lock.oks, strict=True):
            body = share_ok_body(member.client, member.epoch, member.manifest)
            for replica, signature in zip(self.lock.supporters, signatures, strict=True):
                if self.known.get((member.manifest, replica)) == signature:
                    continue
                key = federation.replica_keys[replica]
                if not verify(key, ShareOk.KIND, federation.digest, body, signature):
                    return False
        return True


@dataclass(frozen=True, slots=True)
class SumShares:
    """The packed sum of this replica's shares of a group's members."""

    shares: Sequence[bytes]
    federation: Federation

    def run(self, blobs: Blobs) -> bytes:
        return masking.sum_packed(self.shares, self.federation)


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened group: sum of secrets (packed), and the opened sum's blob."""

    secret: bytes
    blob: bytes
    size: int


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """Open a group from share sums, or check an opening somebody else claims (`secret`).

    Raises `OpeningError` when no subset of the answers opens it, `InvalidItem` when `secret` does not.
    """

    payloads: Sequence[bytes]
    answers: Mapping[int, bytes]
    secret: bytes | None
    federation: Federation
    distrusted: Collection[int] = ()
    """Replicas whose answers are tried last."""
    masking: Masking = masking

    def run(self, blobs: Blobs) -> Opened:
        secret = self.secret
        if secret is None:
            readers = [partial(blobs.read, name) for name in self.payloads]
            secret = self.masking.find_secret(
                readers, self.answers, self.federation, distrusted=self.distrusted
            )
        total = self.masking.open_sum((blobs.read(name) for name in self.payloads), secret, self.federation)
        data = masking.encode_sum(total)
        blobs.write(data)
        return Opened(secret, content_digest(data), len(data))
