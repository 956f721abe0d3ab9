"""Coordinate-wise median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule


@dataclass(frozen=True, slots=True)
class Median(Rule):
    """The median of every coordinate; of an even number the mean of the two in the middle."""

    facts: ClassVar[Facts] = Facts(
        sees="each coordinate apart", cost="O(d n log n)", bound="n >= 2f + 1",
        source="Yin, Chen, Kannan, Bartlett, ICML 2018, definition 1",
    )  # fmt: skip

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        return coordinate_median(updates)


def coordinate_median(updates: Tensor) -> Tensor:
    """The median [d] of every coordinate of `updates` [n, d], in float64."""
    count = len(updates)
    result = torch.empty(updates.shape[1], dtype=torch.float64)
    for place, block in exact.sort_columns(updates):
        result[place] = (block[(count - 1) // 2] + block[count // 2]) / 2.0
    return result
