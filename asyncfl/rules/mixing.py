"""Pre-aggregators: mixtures of inputs, given to another rule.

They bring honest inputs from different data closer together, so that a rule tells them better from bad ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from asyncfl.digest import digest
from asyncfl.rules import exact
from asyncfl.rules.interface import Facts, Rule, is_whole, require
from asyncfl.rules.krum import smallest
from asyncfl.rules.median import Median


@dataclass(frozen=True, slots=True)
class Bucketing(Rule):
    """Means of `size` inputs each, in an order drawn from `seed`, given to `then`. The last bucket may be smaller.

    An attacker that knows the seed before it sends chooses its bucket: take a seed that is drawn after.
    """

    facts: ClassVar[Facts] = Facts(
        sees="what `then` sees, of buckets", cost="O(n d) and that of `then` with n / size inputs",
        bound="that of `then` with ceil(n / size) inputs, f of them bad",
        source="Karimireddy, He, Jaggi, ICLR 2022, algorithm 1",
    )  # fmt: skip

    then: Rule = field(default_factory=Median)
    size: int = 2
    seed: bytes = b""

    def __post_init__(self) -> None:
        _require_rule(self.then)
        require(
            is_whole(self.size) and self.size >= 1, f"size = {self.size!r}: must be a whole number from 1"
        )
        require(isinstance(self.seed, bytes), f"seed = {self.seed!r}: must be bytes")

    def least_inputs(self, byzantine: int) -> int:
        return (self.then.least_inputs(byzantine) - 1) * self.size + 1

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        order = sorted(
            range(len(updates)), key=lambda i: digest("asyncfl/rules/bucket", self.seed, b"%d" % i)
        )
        buckets = [order[at : at + self.size] for at in range(0, len(order), self.size)]
        means = torch.empty((len(buckets), updates.shape[1]), dtype=torch.float64)
        for mean, bucket in zip(means, buckets, strict=True):
            mean.copy_(exact.mean(updates[bucket]))
        return self.then.combine(means, byzantine)


@dataclass(frozen=True, slots=True)
class NearestNeighborMixing(Rule):
    """Each input becomes the mean of the n - f inputs nearest to it, itself among them; then `then`."""

    facts: ClassVar[Facts] = Facts(
        sees="distances between inputs, then what `then` sees", cost="O(n^2 d) and that of `then`",
        bound="that of `then`", source="Allouah et al., AISTATS 2023, algorithm 1",
    )  # fmt: skip

    then: Rule = field(default_factory=Median)

    def __post_init__(self) -> None:
        _require_rule(self.then)

    def least_inputs(self, byzantine: int) -> int:
        return max(self.then.least_inputs(byzantine), 2 * byzantine + 1)

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        distances = exact.squared_distances(updates)
        kept = len(updates) - byzantine
        near = torch.zeros(distances.shape, dtype=torch.bool)
        for index, row in enumerate(distances):
            near[index, smallest(row, kept)] = True
        mixed = torch.empty(updates.shape, dtype=torch.float64)
        for place, sums in exact.member_sums(updates, near):
            mixed[:, place] = sums / kept
        return self.then.combine(mixed, byzantine)


def _require_rule(then: object) -> None:
    require(
        isinstance(then, Rule),
        f"then = {then!r}: must be a rule, as Krum(); make_rule and aggregate take names",
    )
