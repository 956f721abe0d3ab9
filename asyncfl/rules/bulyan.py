"""Bulyan: Krum again and again, then a trimmed mean around the median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule
from asyncfl.rules.krum import krum_scores, smallest


@dataclass(frozen=True, slots=True)
class Bulyan(Rule):
    """n - 2f inputs chosen by repeated Krum; of each coordinate the mean of the n - 4f values nearest the median."""

    facts: ClassVar[Facts] = Facts(
        sees="distances between inputs, then each coordinate apart", cost="O(n^2 d + n^3 log n)",
        bound="n >= 4f + 3", source="El Mhamdi, Guerraoui, Rouault, ICML 2018, section 4",
    )  # fmt: skip

    def least_inputs(self, byzantine: int) -> int:
        return 4 * byzantine + 3

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        distances = exact.squared_distances(updates)
        left = list(range(len(updates)))
        chosen: list[int] = []
        while len(chosen) < len(updates) - 2 * byzantine:
            among = distances[left][:, left]
            chosen.append(left.pop(smallest(krum_scores(among, byzantine), 1)[0]))
        return mean_around_median(updates[sorted(chosen)], len(chosen) - 2 * byzantine)


def mean_around_median(updates: Tensor, kept: int) -> Tensor:
    """Of each coordinate of `updates` [n, d] the mean [d] of the `kept` values nearest to its median."""
    count = len(updates)
    result = torch.empty(updates.shape[1], dtype=torch.float64)
    for place, block in exact.sort_columns(updates):
        median = (block[(count - 1) // 2] + block[count // 2]) / 2.0
        nearest = torch.sort((block - median).abs(), dim=0, stable=True).indices[:kept]
        values = torch.gather(block, 0, torch.sort(nearest, dim=0).values)
        result[place] = exact.tree_sum(values) / kept
    return result
