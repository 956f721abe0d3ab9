"""Coordinate-wise trimmed mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule


@dataclass(frozen=True, slots=True)
class TrimmedMean(Rule):
    """The mean of every coordinate without its f smallest and f largest values."""

    facts: ClassVar[Facts] = Facts(
        sees="each coordinate apart", cost="O(d n log n)", bound="n >= 2f + 1",
        source="Yin, Chen, Kannan, Bartlett, ICML 2018, definition 2",
    )  # fmt: skip

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        kept = len(updates) - 2 * byzantine
        result = torch.empty(updates.shape[1], dtype=torch.float64)
        for place, block in exact.sort_columns(updates):
            result[place] = exact.tree_sum(block[byzantine : byzantine + kept]) / kept
        return result
