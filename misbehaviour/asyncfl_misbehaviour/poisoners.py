"""Clients that poison learning: they train on what an attack makes of their data, and forge what they send.

To replicas they are clients like all others: what they send is dealt and proven as it should be.

Those of one process collude: each sees what the others have trained last, and that is all they know of honest updates.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from asyncfl.adversary.behaviour import Attacker, Behaviour, Insider
from asyncfl.client.jobs import TrainAndProtect
from asyncfl.client.jobs import Trainer as AnyTrainer
from asyncfl.digest import digest
from asyncfl.effects import Compute, Effect
from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.poisoning import Attack, Sight, make_attack
from node.training.poisoned import poison
from node.training.workbench import Trainer, Workbench

PLAN: Final = "poisoning"
"""Under which a coven keeps what its poisoners share."""


@dataclass
class Shared:
    """What the poisoners of one process know of each other, by their number among the coven. Used from threads."""

    own: dict[int, Tensor] = field(default_factory=dict)
    """What each trained last, weights only, on its poisoned data."""
    honest: dict[int, Tensor] = field(default_factory=dict)
    """On its untouched data."""
    carried: Tensor | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Poisoner(Behaviour):
    """Trains and forges in place of the client; does everything else as the client does."""

    def __init__(self, me: Insider, attack: Attack) -> None:
        super().__init__(me)
        self._attack = attack
        self._shared: Shared = me.coven.plans.setdefault(PLAN, Shared())
        self._trainer: PoisonedTrainer | None = None

    def does(self, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Compute) and isinstance(effect.job, TrainAndProtect):
            return (Compute(effect.key, replace(effect.job, trainer=self._poisoned(effect.job.trainer))),)
        return (effect,)

    def _poisoned(self, honest: AnyTrainer) -> PoisonedTrainer:
        """Raises `ConfigurationError`."""
        if self._trainer is None:
            if not isinstance(honest, Trainer):
                raise ConfigurationError(
                    "only a client that trains a task of its own can poison what it trains"
                )
            coven, federation = self.me.coven, self.me.federation
            clients = [key for key in sorted(coven.identities) if key not in federation.replica_index]
            self._trainer = PoisonedTrainer(
                honest,
                self._attack,
                self._shared,
                number=clients.index(self.me.identity.public),
                clients=len(federation.rosters[0].members),
                weights=federation.weights,
                seed=digest("asyncfl/1/poisoning", federation.digest),
            )
        return self._trainer


class PoisonedTrainer:
    """Implements `asyncfl.client.jobs.Trainer`. `number` is that among the coven's clients, `clients` all there are."""

    def __init__(
        self,
        honest: Trainer,
        attack: Attack,
        shared: Shared,
        *,
        number: int,
        clients: int,
        weights: int,
        seed: bytes,
    ) -> None:
        self._honest, self._attack, self._shared = honest, attack, shared
        self._number, self._clients, self._weights, self._seed = number, clients, weights, seed
        self._bench: Workbench = honest.workbench
        if attack.poisons:
            self._bench = poison(honest.workbench, attack, honest.client, number, seed)

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        """What the attack sends, as if it had been trained in all planned steps. Buffers stay as trained."""
        result = self._bench.train(model, settings, self._honest.client, epoch)
        own = result.update[: self._weights].cpu()
        honest = own
        if self._attack.poisons and self._attack.observes:
            honest = self._honest.train(model, settings, epoch).update[: self._weights].cpu()
        update = result.update.clone()
        update[: self._weights] = self._forge(own, honest, epoch).to(update)
        return replace(result, update=update, steps=result.planned)

    def _forge(self, own: Tensor, honest: Tensor, epoch: int) -> Tensor:
        """The update [d] that this attacker sends, from what all of them have trained last."""
        with self._shared.lock:
            self._shared.own[self._number], self._shared.honest[self._number] = own, honest
            numbers = tuple(sorted(self._shared.own))
            sight = Sight(
                torch.stack([self._shared.own[number] for number in numbers]),
                torch.stack([self._shared.honest[number] for number in numbers]),
                numbers, self._clients, self._seed, epoch, self._shared.carried,
            )  # fmt: skip
            forged = self._attack.forge(sight)
            self._shared.carried = forged.carried
        return forged.updates[numbers.index(self._number)]


def poisoner(name: str) -> Attacker:
    """The attack on learning of that name (`asyncfl.poisoning`), for a client. Raises `ConfigurationError`."""
    attack = make_attack(name)
    return Attacker(
        name, "client", tries="poisons what the others learn",
        rule="the clip bounds how far; an aggregation rule may weigh it down",
        make=lambda insider: Poisoner(insider, attack),
    )  # fmt: skip
