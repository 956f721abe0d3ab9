"""Malicious replicas: models that nobody computed, old ones, and certificates that do not hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from asyncfl.adversary.behaviour import Insider, attacker
from asyncfl.adversary.replicas_openings import Inventing
from asyncfl.digest import content_digest
from asyncfl.effects import Effect, SendBlob
from asyncfl.messages import Certificate, Message, ModelVote, Settings, Task, Vote

CERTIFIED = "t+1 distinct signatures on a model, and no version with fewer entries than seen (section 6)"


class Forging(Inventing, ABC):
    """Has a model of its own."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self.model = b"\x00\x00\x80\x3f" * me.federation.dimension
        self.name = content_digest(self.model)
        self._stored = False

    def acts(self) -> None:
        if not self._stored:
            self._stored = True
            self.invent(self.model)

    @abstractmethod
    def certificate(self, honest: Certificate) -> Certificate:
        """What comes with the model in a TASK."""

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ModelVote):
            return (self.me.signed(message.model_copy(update={"model": self.name})),)
        if isinstance(message, Task):
            message = message.model_copy(update={"certificate": self.certificate(message.certificate)})
        return super().says(peer, message)


@attacker(
    "forged-models", "replica",
    tries="signs a model that nobody computed, and gives it out with the coven's signatures",
    rule=CERTIFIED,
    without=("no-certificate-check", "t-signatures-enough"),
)  # fmt: skip
class ForgedModels(Forging):
    def certificate(self, honest: Certificate) -> Certificate:
        forged = honest.model_copy(update={"model": self.name})
        signed = self.me.coven.sign_all(Certificate.KIND, forged.body())
        return forged.model_copy(
            update={"votes": tuple(Vote(replica=j, signature=signed[j]) for j in sorted(signed))}
        )


@attacker(
    "replayed-certificates", "replica",
    tries="gives that model out under the signatures of an honest one",
    rule=CERTIFIED,
    without=("no-certificate-check",),
)  # fmt: skip
class ReplayedCertificates(Forging):
    def certificate(self, honest: Certificate) -> Certificate:
        return honest.model_copy(update={"model": self.name})


@attacker(
    "repeated-signatures", "replica",
    tries="gives that model out under its own signature, repeated until there are enough",
    rule=CERTIFIED,
    without=("signers-not-distinct",),
)  # fmt: skip
class RepeatedSignatures(Forging):
    def certificate(self, honest: Certificate) -> Certificate:
        forged = honest.model_copy(update={"model": self.name})
        vote = Vote(replica=self.me.index, signature=self.me.sign(Certificate.KIND, forged.body()))
        return forged.model_copy(update={"votes": (vote,) * self.me.federation.parameters.certifiers})


@attacker(
    "stale-models", "replica",
    tries="gives out the first certified model for ever",
    rule=CERTIFIED,
    without=("older-models-taken",),
)  # fmt: skip
class StaleModels(Inventing):
    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._first: Task | None = None

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Task):
            self._first = self._first or message
            message = self._first.model_copy(update={"epoch": message.epoch})
        return super().says(peer, message)


@attacker(
    "models-of-nothing", "replica",
    tries="gives TASKs for models that it never sends",
    rule="a client whose model does not come asks the next in line (section 4, step 1)",
    without=("same-coordinator-again",),
)  # fmt: skip
class ModelsOfNothing(Inventing):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        return (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        to_client = isinstance(effect, SendBlob) and effect.peer not in self.me.federation.replica_index
        return () if to_client else (effect,)


@attacker(
    "wild-settings", "replica",
    tries="asks clients to train at a huge learning rate for a single step",
    rule="a client trains with its own file's settings, bounded by those it is asked for (decision 19)",
    without=("settings-taken",),
)  # fmt: skip
class WildSettings(Inventing):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Task):
            wild = Settings(learning_rate=1e6, local_steps=1, batch_size=1, most_steps=1)
            message = message.model_copy(update={"settings": wild})
        return super().says(peer, message)
