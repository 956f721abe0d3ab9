"""Attacks that need nothing but the attacker's own update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from asyncfl.poisoning.examples import Backdoor
from asyncfl.poisoning.interface import Attack, Facts, Forged, Sight, generator, lengths


@dataclass(frozen=True, slots=True)
class SignFlip(Attack):
    """Its own update, times -`factor`."""

    facts: ClassVar[Facts] = Facts(
        tries="pulls the model back along what its own data would teach", knows="own update",
        source="Li, Xu, Chen, Giannakis, Ling, AAAI 2019 (RSA), section 5",
    )  # fmt: skip

    factor: float = 1.0

    def forge(self, sight: Sight) -> Forged:
        return Forged(-self.factor * sight.own)


@dataclass(frozen=True, slots=True)
class Scaling(Attack):
    """Its own update, times `factor`: what it teaches weighs more. Alone it only makes the model unsteady."""

    facts: ClassVar[Facts] = Facts(
        tries="outweighs the others", knows="own update",
        source="Bhagoji, Chakraborty, Mittal, Calo, ICML 2019, section 3 (explicit boosting)",
    )  # fmt: skip

    factor: float = 10.0

    def forge(self, sight: Sight) -> Forged:
        return Forged(self.factor * sight.own)


@dataclass(frozen=True, slots=True)
class ModelReplacement(Backdoor):
    """A backdoored update, times clients / attackers: under the mean the model moves to the attackers' own."""

    facts: ClassVar[Facts] = Facts(
        tries="puts a backdoored model in place of the mean's", knows="own data, number of clients and attackers",
        source="Bagdasaryan, Veit, Hua, Estrin, Shmatikov, AISTATS 2020, section 3.2",
    )  # fmt: skip

    def forge(self, sight: Sight) -> Forged:
        return Forged(sight.own * (sight.clients / len(sight.own)))


@dataclass(frozen=True, slots=True)
class GaussianNoise(Attack):
    """Noise in place of an update, `factor` times as long as what the attacker trained."""

    facts: ClassVar[Facts] = Facts(
        tries="drowns what the others learn", knows="own update",
        source="Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, section 6",
    )  # fmt: skip

    factor: float = 5.0

    def forge(self, sight: Sight) -> Forged:
        rows = [
            torch.randn(sight.own.shape[1], generator=generator("noise", sight.seed, sight.epoch, attacker))
            for attacker in sight.attackers
        ]
        noise = torch.stack(rows).to(sight.own)
        return Forged(noise * (self.factor * lengths(sight.own) / lengths(noise)))
