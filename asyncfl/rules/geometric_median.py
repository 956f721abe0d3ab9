"""Geometric median by smoothed Weiszfeld steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule, is_finite, is_whole, require
from asyncfl.rules.weights import round_weights


@dataclass(frozen=True, slots=True)
class GeometricMedian(Rule):
    """The point with the smallest summed distance to all inputs, after `steps` Weiszfeld steps from the mean.

    `smoothing`: no distance counts for less than so many times the median distance.
    """

    facts: ClassVar[Facts] = Facts(
        sees="distances to a centre", cost="O(n^2 d + steps n^2)", bound="n >= 2f + 1",
        source="Pillutla, Kakade, Harchaoui, IEEE TSP 2022, algorithm 2",
    )  # fmt: skip

    steps: int = 16
    smoothing: float = 1e-3

    def __post_init__(self) -> None:
        require(
            is_whole(self.steps) and self.steps >= 1, f"steps = {self.steps!r}: must be a whole number from 1"
        )
        fits = is_finite(self.smoothing) and 0 < self.smoothing < 1
        require(fits, f"smoothing = {self.smoothing!r}: must be a number between 0 and 1")

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        products = exact.inner_products(updates, updates)
        weights = round_weights(torch.ones(len(updates), dtype=torch.float64))
        for _ in range(self.steps):
            distances = distances_to_mixture(products, weights)
            floor = self.smoothing * float(torch.sort(distances).values[len(distances) // 2])
            if floor == 0.0:  # More than half of the inputs are this very point.
                break
            weights = round_weights(1.0 / distances.clamp(min=floor))
        return exact.weighted_sum(updates, weights)


def distances_to_mixture(products: Tensor, weights: Tensor) -> Tensor:
    """Distance [n] of each input from the mixture with `weights` [n] (sum 1), by all inner `products` [n, n].

    Every step stays among n numbers: the inputs themselves are read once.
    """
    along = exact.tree_sum(products * weights[:, None])
    own = exact.tree_sum(along * weights)
    squared = torch.diagonal(products) - 2.0 * along + own
    return exact.roots(squared.clamp(min=0.0))
