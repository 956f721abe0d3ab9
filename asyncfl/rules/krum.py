"""Krum and Multi-Krum: the inputs whose nearest neighbours are nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule, is_whole, require

_SOURCE = "Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017"


def krum_scores(distances: Tensor, byzantine: int) -> Tensor:
    """Krum's score of each input, float64 [m]: its summed squared distances [m, m] to its m - f - 2 nearest others.

    `inf` in `distances` leaves a pair out of the nearest; at least one neighbour always counts.
    """
    count = len(distances)
    neighbours = max(1, count - byzantine - 2)
    others = distances.clone()
    others.fill_diagonal_(torch.inf)
    nearest = torch.sort(others, dim=1).values[:, :neighbours]
    return exact.tree_sum(nearest.T)


def smallest(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` smallest scores; of equal ones the earlier input."""
    return torch.sort(scores, stable=True).indices[:count].tolist()


@dataclass(frozen=True, slots=True)
class Krum(Rule):
    """The one input with the smallest score."""

    facts: ClassVar[Facts] = Facts(
        sees="distances between inputs", cost="O(n^2 d)", bound="n >= 2f + 3", source=f"{_SOURCE}, section 4"
    )

    def least_inputs(self, byzantine: int) -> int:
        return 2 * byzantine + 3

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        scores = krum_scores(exact.squared_distances(updates), byzantine)
        return updates[smallest(scores, 1)[0]].to(torch.float64)


@dataclass(frozen=True, slots=True)
class MultiKrum(Rule):
    """The mean of the `selected` inputs with the smallest scores; by default n - f."""

    facts: ClassVar[Facts] = Facts(
        sees="distances between inputs", cost="O(n^2 d)", bound="n >= 2f + 3", source=f"{_SOURCE}, section 5"
    )

    selected: int | None = None

    def __post_init__(self) -> None:
        fits = self.selected is None or (is_whole(self.selected) and self.selected >= 1)
        require(fits, f"selected = {self.selected!r}: must be a whole number from 1, or None: n - f")

    def least_inputs(self, byzantine: int) -> int:
        return max(2 * byzantine + 3, (self.selected or 0) + byzantine)

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        scores = krum_scores(exact.squared_distances(updates), byzantine)
        return exact.mean(updates, smallest(scores, self.selected or len(updates) - byzantine))
