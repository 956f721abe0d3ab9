"""Rules about norms: centred clipping, norm clipping, norm rejection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule, is_finite, is_whole, require
from asyncfl.rules.median import coordinate_median


@dataclass(frozen=True, slots=True)
class NormClipping(Rule):
    """The mean of all inputs, none longer than `norm`; without it none longer than the median input."""

    facts: ClassVar[Facts] = Facts(
        sees="norms", cost="O(n d)", bound="n >= 2f + 1; bounds the length of a bad input, not its direction",
        source="Sun, Kairouz, Suresh, McMahan, arXiv 1911.07963, section 4",
    )  # fmt: skip

    norm: float | None = None

    def __post_init__(self) -> None:
        fits = self.norm is None or (is_finite(self.norm) and self.norm > 0)
        require(fits, f"norm = {self.norm!r}: must be a number above 0, or None: the median input's norm")

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        norms = exact.norms(updates)
        limit = self.norm or float(torch.sort(norms).values[(len(norms) - 1) // 2])
        return exact.weighted_sum(updates, clip_factors(norms, limit)) / len(updates)


@dataclass(frozen=True, slots=True)
class NormRejection(Rule):
    """The mean of the inputs without the f longest."""

    facts: ClassVar[Facts] = Facts(
        sees="norms", cost="O(n d)", bound="n >= 2f + 1; bounds the length of a bad input, not its direction",
        source="Shejwalkar, Houmansadr, Kairouz, Ramage, IEEE S&P 2022, section V",
    )  # fmt: skip

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        order = torch.sort(exact.norms(updates), stable=True).indices
        return exact.mean(updates, sorted(order[: len(updates) - byzantine].tolist()))


@dataclass(frozen=True, slots=True)
class CenteredClipping(Rule):
    """`steps` times: the centre moves by the mean of the inputs' differences from it, none longer than `radius`.

    The centre starts at the coordinate-wise median. Without `radius` it is the median difference's length.
    """

    facts: ClassVar[Facts] = Facts(
        sees="distances to a centre", cost="O(steps n d)", bound="n >= 2f + 1 (proven for 10 f <= n)",
        source="Karimireddy, He, Jaggi, ICML 2021, algorithm 2",
    )  # fmt: skip

    radius: float | None = None
    steps: int = 3

    def __post_init__(self) -> None:
        fits = self.radius is None or (is_finite(self.radius) and self.radius > 0)
        require(fits, f"radius = {self.radius!r}: must be a number above 0, or None: the median distance")
        require(
            is_whole(self.steps) and self.steps >= 1, f"steps = {self.steps!r}: must be a whole number from 1"
        )

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        centre = coordinate_median(updates)
        for _ in range(self.steps):
            lengths = exact.norms(updates, centre)
            radius = self.radius or float(torch.sort(lengths).values[(len(lengths) - 1) // 2])
            factors = clip_factors(lengths, radius)
            moved = exact.weighted_sum(updates, factors) - centre * float(exact.tree_sum(factors))
            centre = centre + moved / len(updates)
        return centre


def clip_factors(lengths: Tensor, limit: float) -> Tensor:
    """float64 [n]: by what to multiply vectors of these lengths so that none is longer than `limit`."""
    return torch.where(lengths > limit, limit / lengths, torch.ones_like(lengths))
