"""Attacks on what a client learns from: its labels, and its images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from asyncfl.poisoning.interface import Attack, Data, Facts, Trigger, generator


@dataclass(frozen=True, slots=True)
class LabelFlip(Attack):
    """Label l becomes classes - 1 - l."""

    facts: ClassVar[Facts] = Facts(
        tries="teaches each class as its opposite: l as classes - 1 - l", knows="own data",
        source="Fang, Cao, Jia, Gong, USENIX Security 2020, section 4.1",
    )  # fmt: skip

    @property
    def poisons(self) -> bool:
        return True

    def poison(self, data: Data, attacker: int, seed: bytes) -> Data:
        return Data(data.inputs, data.classes - 1 - data.labels, data.classes)


@dataclass(frozen=True, slots=True)
class MultiLabelFlip(Attack):
    """Every attacker teaches each class as another one, by a rotation that it draws for itself.

    The attackers do not agree with each other, so no class or direction stands out.
    """

    facts: ClassVar[Facts] = Facts(
        tries="teaches each class as another one; every attacker by its own draw", knows="own data",
        source="Das, Sen, arXiv 2603.16846 (named there); flips of pairs: Tolpegin et al., ESORICS 2020, section 3",
    )  # fmt: skip

    @property
    def poisons(self) -> bool:
        return True

    def poison(self, data: Data, attacker: int, seed: bytes) -> Data:
        draw = generator("multi-label-flip", seed, attacker)
        order = torch.randperm(data.classes, generator=draw)
        # Along a cycle through all classes none keeps its label.
        becomes = torch.empty_like(order)
        becomes[order] = order.roll(-1)
        return Data(data.inputs, becomes[data.labels], data.classes)


@dataclass(frozen=True, slots=True)
class Backdoor(Attack):
    """A `share` of the examples carries the trigger and the label that it means; the others stay."""

    facts: ClassVar[Facts] = Facts(
        tries="has images with a bright square taken for one class, and all others right", knows="own data",
        source="Gu, Dolan-Gavitt, Garg, arXiv 1708.06733 (BadNets), section 3",
    )  # fmt: skip

    share: float = 0.5
    square: Trigger = field(default_factory=Trigger)

    @property
    def poisons(self) -> bool:
        return True

    @property
    def trigger(self) -> Trigger:
        return self.square

    def poison(self, data: Data, attacker: int, seed: bytes) -> Data:
        draw = generator("backdoor", seed, attacker)
        count = max(1, round(self.share * len(data.labels)))
        chosen = torch.randperm(len(data.labels), generator=draw)[:count]
        inputs, labels = data.inputs.clone(), data.labels.clone()
        # Of all inputs, so that the square is as bright in one example as in the test set.
        inputs[chosen] = self.square.stamp(data.inputs)[chosen]
        labels[chosen] = self.square.target
        return Data(inputs, labels, data.classes)
