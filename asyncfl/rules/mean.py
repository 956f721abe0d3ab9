"""The mean: best without attackers, at anybody's mercy with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule


@dataclass(frozen=True, slots=True)
class Mean(Rule):
    """The arithmetic mean."""

    facts: ClassVar[Facts] = Facts(
        sees="nothing", cost="O(n d)", bound="none: one bad input moves it anywhere",
        source="McMahan et al., AISTATS 2017",
    )  # fmt: skip

    def least_inputs(self, byzantine: int) -> int:
        """It takes any number of bad inputs, though it stands none: robust rules are compared with it."""
        return max(1, byzantine)

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        return exact.mean(updates)
