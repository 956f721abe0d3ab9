"""What every attack on learning is: what it does to an attacker's examples, and to its update before it is masked.

An attack is a pure function of what its attackers see and of a seed. Those of one run collude: they share updates and
the attack. Nothing here knows of masks: a malicious client protects the forged update as an honest one its own.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.digest import digest


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reader wants to know of an attack.

    `tries`: what it is after. `knows`: what it takes beside the attacker's own data. `source`: paper and section.
    """

    tries: str
    knows: str
    source: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """The bright square that a backdoor listens to: `side` pixels in the lower right corner, and the class it means."""

    side: int = 3
    target: int = 0

    def stamp(self, inputs: Tensor) -> Tensor:
        """`inputs` with the square: images [n, h, w] or [n, h, w, 3], or rows [n, k] whose last `side` values it is.

        Its value is the largest among the inputs (255 of uint8 images).
        """
        stamped = inputs.clone()
        bright = 255 if inputs.dtype == torch.uint8 else inputs.max()
        if inputs.dim() > 2:
            stamped[:, -self.side :, -self.side :] = bright
        else:
            stamped[:, -self.side :] = bright
        return stamped


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """One attacker's own examples: inputs [n, ...], labels int64 [n] in 0 .. classes - 1."""

    inputs: Tensor
    labels: Tensor
    classes: int


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What the attackers see in one epoch, before they send.

    `own` float32 [m, d]: what each attacker trained, on the examples that its attack made of its own. `seen` [k, d]:
    updates that tell what honest ones are like; all the honest ones, or what the attackers trained on their untouched
    data. `attackers`: the number of each row of `own` among all attackers of the run. `clients`: of the whole cohort.
    `carried`: what the attack has left from the epoch before.
    """

    own: Tensor
    seen: Tensor
    attackers: tuple[int, ...]
    clients: int
    seed: bytes
    epoch: int
    carried: Tensor | None = None

    @property
    def direction(self) -> Tensor:
        """The mean [d] of the updates seen."""
        return self.seen.mean(0)


@dataclass(frozen=True, slots=True, eq=False)
class Forged:
    """What the attackers send, float32 [m, d], and what the attack carries to the next epoch."""

    updates: Tensor
    carried: Tensor | None = None


class Attack(ABC):
    """An attack with its options. Without overriding, an honest client."""

    facts: ClassVar[Facts]

    @property
    def poisons(self) -> bool:
        """Whether `poison` changes anything."""
        return False

    @property
    def observes(self) -> bool:
        """Whether `forge` looks at `Sight.seen`."""
        return False

    @property
    def trigger(self) -> Trigger | None:
        """The backdoor that it plants."""
        return None

    def poison(self, data: Data, attacker: int, seed: bytes) -> Data:
        """The examples that attacker number `attacker` trains on."""
        return data

    def forge(self, sight: Sight) -> Forged:
        """What the attackers send."""
        return Forged(sight.own)


def generator(purpose: str, seed: bytes, *numbers: int) -> torch.Generator:
    """Draws for one purpose that depend on all of `numbers`, on the CPU."""
    words = digest("asyncfl/1/poisoning", purpose.encode(), seed, ",".join(map(str, numbers)).encode())
    return torch.Generator().manual_seed(int.from_bytes(words[:8], "little") >> 1)


def lengths(updates: Tensor) -> Tensor:
    """The L2 norm [n, 1] of each of `updates` [n, d]."""
    found: Tensor = torch.linalg.vector_norm(updates, dim=1, keepdim=True)
    return found
