"""Malicious replicas: answers, entries and attestations that are not what they should be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asyncfl.adversary.behaviour import Behaviour, Insider, attacker
from asyncfl.digest import content_digest, digest
from asyncfl.effects import Blobs, Compute, SendBlob
from asyncfl.masking.proof import CPU
from asyncfl.masking.sharing import lagrange_weights
from asyncfl.messages import (
    Attest,
    CertifiedItem,
    Entry,
    GroupId,
    Item,
    Member,
    Message,
    Missing,
    Pull,
    ShareSum,
    Vote,
    attest_body,
)
from asyncfl.ring import pack, unpack
from asyncfl.ring.packing import to_bytes

SUBSETS = "openings are accepted by check blocks, other subsets are tried (section 4, step 7)"
VERIFIED = "everybody opens the sum itself, t+1 attestations certify (section 4, step 8)"
WRITE = "malice-write"


@dataclass(frozen=True)
class Write:
    """A job that stores a blob. Returns its digest."""

    data: bytes

    def run(self, blobs: Blobs) -> bytes:
        return blobs.write(self.data)


class Inventing(Behaviour):
    """Has blobs of its own making, and gives them to whoever asks."""

    def invent(self, data: bytes) -> None:
        self.do(Compute((WRITE, data[:32]), Write(data)))

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Pull):
            self.do(SendBlob(peer, message.blob, message.offset))
            return ()
        return (message,)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Missing) else (message,)


class Answering(Behaviour, ABC):
    """Bends its own sums of shares. Override `total`."""

    @abstractmethod
    def total(self, peer: bytes, message: ShareSum) -> bytes:
        """The sum that `peer` is told instead, packed."""

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ShareSum):
            message = self.me.signed(message.model_copy(update={"total": self.total(peer, message)}))
        return (message,)


@attacker(
    "wrong-sums", "replica", tries="answers REVEAL with sums that are off by one", rule=SUBSETS,
    without=("check-blocks-ignored",),
)  # fmt: skip
class WrongSums(Answering):
    def total(self, peer: bytes, message: ShareSum) -> bytes:
        return bytes([message.total[0] ^ 1]) + message.total[1:]


@attacker(
    "constant-sums", "replica", tries="answers every REVEAL with the same sum", rule=SUBSETS,
    without=("check-blocks-ignored",),
)  # fmt: skip
class ConstantSums(Answering):
    def total(self, peer: bytes, message: ShareSum) -> bytes:
        return bytes(len(message.total))


@attacker(
    "random-sums", "replica", tries="answers REVEAL with random sums, others for everybody", rule=SUBSETS,
    without=("check-blocks-ignored",),
)  # fmt: skip
class RandomSums(Answering):
    def total(self, peer: bytes, message: ShareSum) -> bytes:
        noise = b"".join(digest("noise", peer, message.group, bytes([k])) for k in range(8))
        return (noise * (len(message.total) // len(noise) + 1))[: len(message.total) - 1] + b"\0"


@attacker(
    "frame-up", "replica",
    tries="answers with errors that cancel against a colluder's, so that an honest answer seems to be the wrong one",
    rule="an answer is evidence of a lie only once n-t answers lie on one polynomial (section 4, step 7)",
    without=("blame-by-few",),
    beside="frame-up",
)  # fmt: skip
class FrameUp(Answering):
    """Two liars a, b and one honest replica h open by the right secret: w_a e_a + w_b e_b = 0 for the weights at 0."""

    def total(self, peer: bytes, message: ShareSum) -> bytes:
        federation, ring = self.me.federation, self.me.federation.parameters.ring
        liars = sorted(self.me.coven.replicas)[:2]
        if len(liars) < 2 or self.me.index not in liars:
            return message.total
        honest = [j for j in range(federation.parameters.replicas) if j not in self.me.coven.replicas]
        chosen = [*liars, *honest][: federation.parameters.threshold]
        weights = lagrange_weights([j + 1 for j in chosen], 0, ring.modulus)
        first = self.me.index == liars[0]
        error = weights[1] if first else -weights[0]
        lanes = unpack(message.total, ring.degree, ring.modulus, CPU)
        lanes[0, 0, 0] = (int(lanes[0, 0, 0]) + error) % ring.modulus
        return to_bytes(pack(lanes))


@attacker(
    "silent-answers", "replica",
    tries="answers no REVEAL, and keeps to itself what it has opened",
    rule="n-2t answers open a group (section 4, step 7)",
    without=("all-must-answer",),
)  # fmt: skip
class SilentAnswers(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, ShareSum | Entry | CertifiedItem | Attest) else (message,)


@attacker(
    "altered-entries", "replica",
    tries="answers no REVEAL, and sends ENTRYs with another sum of secrets than the right one",
    rule=VERIFIED,
    without=("check-blocks-ignored",),
)  # fmt: skip
class AlteredEntries(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Entry):
            secret = bytes([message.secret[0] ^ 1]) + message.secret[1:]
            return (message.model_copy(update={"secret": secret}),)
        return () if isinstance(message, ShareSum) else (message,)


@attacker(
    "false-attestations", "replica",
    tries="attests other sums than those it has opened",
    rule=VERIFIED,
    without=("attestations-by-id",),
)  # fmt: skip
class FalseAttestations(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Attest):
            return (self.me.signed(message.model_copy(update={"item": digest("false", message.item)})),)
        return (message,)


@attacker(
    "invented-items", "replica",
    tries="sends ledger items of its own making as certified, with the coven's attestations",
    rule="t+1 attestations of distinct replicas (section 4, step 8)",
    without=("t-signatures-enough",),
)  # fmt: skip
class InventedItems(Inventing):
    """A sum at the limit of every coordinate, as the entry of a group that is still to come."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._told = 0.0

    def votes(self, item: Item) -> Sequence[Vote]:
        signed = self.me.coven.sign_all(Attest.KIND, attest_body(item.id, item.digest()))
        return tuple(Vote(replica=j, signature=signed[j]) for j in sorted(signed))

    def acts(self) -> None:
        if self.now < self._told + 2.0:
            return
        self._told = self.now
        federation = self.me.federation
        data = (b"\xff\xff\xff\x00" * federation.upload_dimension)[: 4 * federation.upload_dimension]
        self.invent(data)
        for epoch in range(1, 4):
            item = Item(
                id=GroupId(epoch=epoch, cell=0, coordinator=self.me.index, part=77),
                members=(Member(client=federation.rosters[0].members[0], epoch=epoch, manifest=bytes(32)),),
                opened=content_digest(data),
            )
            message = CertifiedItem(item=item, votes=tuple(self.votes(item)), opened_bytes=len(data))
            for peer in self.me.honest:
                self.send(peer, message)


@attacker(
    "repeated-votes", "replica",
    tries="sends such items with its own attestation repeated until there are enough",
    rule="t+1 attestations of distinct replicas (section 4, step 8)",
    without=("votes-not-distinct",),
)  # fmt: skip
class RepeatedVotes(InventedItems):
    def votes(self, item: Item) -> Sequence[Vote]:
        return tuple(super().votes(item)[:1]) * self.me.federation.parameters.quorum
