"""Attacks that hide among the updates seen: a little of everything, copies, and many names of one attacker."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Final

import torch
from torch import Tensor

from asyncfl.poisoning.interface import Attack, Facts, Forged, Sight, generator, lengths

ALL: Final = "all honest updates; with less, those of the colluders"


def _all_send(update: Tensor, sight: Sight) -> Tensor:
    """`update` [d], sent by every attacker."""
    return update.expand(len(sight.own), -1).clone()


@dataclass(frozen=True, slots=True)
class ALittleIsEnough(Attack):
    """The mean of what is seen, less `z` standard deviations in every coordinate.

    Without `z` it is the largest with which enough honest clients are still further out for a majority around the
    attackers.
    """

    facts: ClassVar[Facts] = Facts(
        tries="moves every coordinate as far as it can without standing out", knows=ALL,
        source="Baruch, Baruch, Goldberg, NeurIPS 2019, algorithm 3",
    )  # fmt: skip

    z: float | None = None

    @property
    def observes(self) -> bool:
        return True

    def forge(self, sight: Sight) -> Forged:
        z = reach(sight.clients, len(sight.own)) if self.z is None else self.z
        deviation = sight.seen.std(0, correction=0)
        return Forged(_all_send(sight.direction - z * deviation, sight))


def reach(clients: int, attackers: int) -> float:
    """How many standard deviations the attackers can move and still be nearer the middle than enough honest clients.

    Zero where they are so few that it would be less than none.
    """
    honest = max(2, clients - attackers)
    supporters = min(max(1, clients // 2 + 1 - attackers), honest - 1)
    return max(0.0, NormalDist().inv_cdf((honest - supporters) / honest))


@dataclass(frozen=True, slots=True)
class InnerProduct(Attack):
    """Minus `epsilon` times the mean of what is seen.

    Under the mean the model goes backwards once epsilon * attackers > honest clients; a small epsilon hides from Krum
    and the median among short updates.
    """

    facts: ClassVar[Facts] = Facts(
        tries="makes the aggregate's inner product with the honest mean negative, or small", knows=ALL,
        source="Xie, Koyejo, Gupta, UAI 2020, section 4",
    )  # fmt: skip

    epsilon: float = 0.5

    @property
    def observes(self) -> bool:
        return True

    def forge(self, sight: Sight) -> Forged:
        return Forged(_all_send(-self.epsilon * sight.direction, sight))


@dataclass(frozen=True, slots=True)
class Mimic(Attack):
    """All attackers copy one honest update: that which lies furthest out along what tells honest clients apart.

    That direction is found by power iterations over all epochs so far. The aggregate leans towards the data of the
    client that is copied, and rules that look for outliers drop the others.
    """

    facts: ClassVar[Facts] = Facts(
        tries="has one honest client counted many times, and others taken for outliers", knows=ALL,
        source="Karimireddy, He, Jaggi, ICLR 2022, section 3.2 and appendix B",
    )  # fmt: skip

    MEMORY: ClassVar[float] = 0.9

    @property
    def observes(self) -> bool:
        return True

    def forge(self, sight: Sight) -> Forged:
        offsets = sight.seen - sight.direction
        axis = sight.carried
        if axis is None:
            draw = generator("mimic", sight.seed)
            axis = torch.randn(sight.own.shape[1], generator=draw).to(sight.own)
        found = offsets.T @ (offsets @ axis)
        size = torch.linalg.vector_norm(found)
        if not float(size) > 0:  # Nothing tells them apart, as where one attacker sees itself alone.
            return Forged(_all_send(sight.seen[0], sight), sight.carried)
        found = found / size
        axis = found if sight.carried is None else self.MEMORY * axis + (1 - self.MEMORY) * found
        target = int((offsets @ axis).abs().argmax())
        return Forged(_all_send(sight.seen[target], sight), axis)


@dataclass(frozen=True, slots=True)
class Sybils(Attack):
    """One attacker under many names: all send its update, told apart by noise that sums to zero.

    `noise`: its length, in lengths of the update.
    """

    facts: ClassVar[Facts] = Facts(
        tries="has the update of one attacker counted many times", knows="own update",
        source="Fung, Yoon, Beschastnikh, RAID 2020, sections 3 and 7 (intelligent perturbations)",
    )  # fmt: skip

    noise: float = 0.1

    def forge(self, sight: Sight) -> Forged:
        copies = _all_send(sight.own[0], sight)
        draws = [
            torch.randn(copies.shape[1], generator=generator("sybils", sight.seed, sight.epoch, attacker))
            for attacker in sight.attackers
        ]
        noise = torch.stack(draws).to(copies)
        noise = noise / lengths(noise)
        if len(noise) > 1:
            noise = noise - noise.mean(0)
        return Forged(copies + self.noise * lengths(copies) * noise)
