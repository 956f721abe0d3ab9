"""Malicious replicas."""

from __future__ import annotations

from collections.abc import Iterable

from asyncfl.adversary.behaviour import Behaviour, attacker
from asyncfl.digest import digest
from asyncfl.effects import Effect
from asyncfl.messages import (
    Certificate,
    Lock,
    LockContent,
    Locked,
    Message,
    ModelVote,
    Relay,
    ShareBad,
    ShareOk,
    ShareSum,
    Stored,
    Task,
    Upload,
)


@attacker("silent", "replica", tries="says nothing to anybody, but listens", rule="n-t answers are enough")
class Silent(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return ()


@attacker(
    "drop-updates", "replica",
    tries="stores uploads that clients send it, and neither relays nor groups them",
    rule="costs only its own cells; clients are at their next epoch (section 4, step 3)",
)  # fmt: skip
class DropUpdates(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Relay | Lock) else (message,)


@attacker(
    "wrong-sums", "replica",
    tries="answers REVEAL with sums that are off by one",
    rule="openings are accepted by check blocks, other subsets are tried (section 4, step 7)",
)  # fmt: skip
class WrongSums(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ShareSum):
            total = bytes([message.total[0] ^ 1]) + message.total[1:]
            message = self.me.signed(message.model_copy(update={"total": total}))
        return (message,)


@attacker(
    "random-sums", "replica",
    tries="answers REVEAL with random sums, others for everybody",
    rule="openings are accepted by check blocks, other subsets are tried (section 4, step 7)",
)  # fmt: skip
class RandomSums(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ShareSum):
            noise = b"".join(digest("noise", peer, message.group, bytes([k])) for k in range(8))
            total = (noise * (len(message.total) // len(noise) + 1))[: len(message.total) - 1] + b"\0"
            message = self.me.signed(message.model_copy(update={"total": total}))
        return (message,)


@attacker(
    "share-bad", "replica",
    tries="says SHARE_BAD of every upload",
    rule="n-t SHARE_OKs are enough, and nothing is disclosed (section 3)",
)  # fmt: skip
class FalseShareBad(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ShareOk):
            bad = ShareBad(
                client=message.client,
                epoch=message.epoch,
                manifest=message.manifest,
                signature=message.signature,
            )
            return (self.me.signed(bad),)
        return (message,)


@attacker(
    "differencing", "replica",
    tries="asks for locks on a group, and on the same group less one member",
    rule="an id and a (client, epoch) are locked once, for ever (section 4, step 5)",
)  # fmt: skip
class Differencing(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if not isinstance(message, Lock) or len(message.content.members) < 2:
            return (message,)
        content = LockContent(
            id=message.content.id.model_copy(update={"part": message.content.id.part + 1000}),
            members=message.content.members[:-1],
        )
        less = message.model_copy(update={"content": content, "oks": message.oks[:-1]})
        first, second = message, self.me.signed(less)
        # Half of the replicas hear of the one group first, half of the other.
        return (first, second) if self.me.federation.replica_index[peer] % 2 else (second, first)


@attacker(
    "equivocating-locks", "replica",
    tries="signs locks of whatever anybody asks for, conflicting ones too",
    rule="two sets of n-t signers share an honest one (section 4, step 5)",
)  # fmt: skip
class SignsEverything(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        return (message,)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        from asyncfl.messages import LockRefused

        if isinstance(message, LockRefused):
            vote = Locked(id=message.id, group=message.group, signature=bytes(64))
            return (self.me.signed(vote),)
        return (message,)


@attacker(
    "forged-models", "replica",
    tries="signs models that nobody computed, and gives them out with a certificate of its own votes",
    rule="t+1 distinct signatures on a model (section 6)",
)  # fmt: skip
class ForgedModels(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        forged = digest("forged", self.me.federation.digest)
        if isinstance(message, ModelVote):
            return (self.me.signed(message.model_copy(update={"model": forged})),)
        if isinstance(message, Task):
            certificate = message.certificate.model_copy(update={"model": forged})
            signature = self.me.sign(Certificate.KIND, certificate.body())
            votes = tuple(vote.model_copy(update={"signature": signature}) for vote in certificate.votes)
            return (
                message.model_copy(update={"certificate": certificate.model_copy(update={"votes": votes})}),
            )
        return (message,)


@attacker(
    "stored-lies", "replica",
    tries="says STORED at once, without having anything",
    rule="costs only its own cells (section 4, step 3)",
)  # fmt: skip
class StoredLies(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            self._lie = (peer, Stored(epoch=message.manifest.core.epoch, manifest=message.manifest.digest()))
            return ()
        return (message,)

    def acts(self) -> Iterable[Effect]:
        from asyncfl.effects import Send

        lie = getattr(self, "_lie", None)
        if lie is None:
            return ()
        del self._lie
        return (Send(*lie),)
