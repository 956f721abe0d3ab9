"""FedAOT: soft weights from reliability features, learned by a step on the loss of the model that they made.

Das, Sen: Dynamic Meta-Layer Aggregation for Byzantine-Robust Federated Learning, arXiv 2603.16846. Per epoch:

1. Features of every input (`fedaot_features`); a softmax of their weighted sum at a temperature. Nobody is left out.
2. The aggregate is the weighted sum of the inputs, none longer than the median input.
3. Meta-step: the gradient of the loss of the model that the aggregate makes, on a small clean hold-out set, with
   respect to feature weights and temperature, through that one update. Without a hold-out set the loss is minus the
   inner product of the aggregate with the coordinate-wise median, over every eighth coordinate, other ones in each
   epoch: agreement across inputs. Either way an input's loss counts relative to the largest among them.

With a hold-out set standing still competes with the inputs, at the weight that its features get: where all inputs lead
away from what the hold-out set asks for, next to nothing is done. And no input counts as longer than trusted ones were.

Memory is O(n + d), and nothing is kept of any input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from asyncfl.errors import RuleError
from asyncfl.rules import elementary
from asyncfl.rules.arithmetic import FAST, Arithmetic
from asyncfl.rules.clipping import clip_factors
from asyncfl.rules.exact import tree_sum, tree_sum_in
from asyncfl.rules.fedaot_features import Cohort, measure
from asyncfl.rules.interface import Facts, Rule, is_finite, require
from asyncfl.rules.weights import UNITS, round_weights

INITIAL_WEIGHTS: Final = (0.4, 0.4, 2.0, 0.4, 0.4)
"""Of each of `FEATURES`. Bad inputs can move every reference but the hold-out gradient, and meta-steps end near this
weight of it; where they start from equal weights, a bad majority has spoilt the model before."""
GROWTH: Final = 1.5
"""An input counts as at most so many times as long as was typical, when the typical length is told anew."""
LARGEST_WEIGHT: Final = 2.0
TEMPERATURES: Final = (0.25, 4.0)

Gradient = Callable[[Tensor], Tensor]
"""The gradient [d] of the hold-out loss at the model that an aggregate [d] makes of the present one."""


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """What FedAOT carries from one epoch to the next.

    `weights`: of each of `FEATURES`, from 0 to 2. `past`: moving average of aggregates, float32 [d]; `gradient`: the
    hold-out gradient at the present model, float32 [d]; None where there is none yet. `length`: moving average of the
    inputs' lengths by their weights, with a hold-out set.
    """

    weights: tuple[float, ...] = INITIAL_WEIGHTS
    temperature: float = 1.0
    past: Tensor | None = None
    gradient: Tensor | None = None
    epoch: int = 0
    length: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """One epoch: the aggregate [d], each input's weight float64 [n], its features float64 [n, 5].

    The weights' sum is 1, or with a hold-out set what standing still has left of it. `trust` is that for the next
    epoch.
    """

    aggregate: Tensor
    weights: Tensor
    features: Tensor
    trust: Trust


@dataclass(frozen=True, slots=True, eq=False)
class FedAOT(Rule):
    """Soft weights by what `trust` has learned. `step` also learns; called like any rule it only weighs.

    `rate` is that of the meta-step; `memory` is the share of `Trust.past` that an epoch leaves. With `EXACT`
    arithmetic all bits are the same on every machine, learned weights included, unless a gradient is given.
    """

    facts: ClassVar[Facts] = Facts(
        sees="angles to references, lengths", cost="O(n d)", bound="n >= 2f + 1", source="arXiv 2603.16846"
    )
    largest: ClassVar[float] = 2.0**50  # It squares in float32.

    trust: Trust = field(default_factory=Trust)
    rate: float = 0.5
    memory: float = 0.8
    arithmetic: Arithmetic = FAST

    def __post_init__(self) -> None:
        require(
            is_finite(self.rate) and self.rate >= 0, f"rate = {self.rate!r}: must be a finite number from 0"
        )
        fits = is_finite(self.memory) and 0 <= self.memory < 1
        require(fits, f"memory = {self.memory!r}: must be a number from 0 to below 1")

    def combine(self, updates: Tensor, byzantine: int) -> Tensor:
        single = updates.float()
        cohort, shares = self._weigh(single)
        return mix(single, shares[: len(single)], cohort)

    def step(self, updates: Tensor, byzantine: int = 0, gradient: Gradient | None = None) -> Weighed:
        """Aggregate `updates` [n, d], then learn from what came of it: `gradient` is called with the aggregate.

        In the first epoch it is also called with zero, so that inputs are compared with it from the start. The hold-out
        set behind it must be no client's data: under differential privacy the aggregate is else no longer
        post-processing. Raises `RuleError` like calling the rule, and for a gradient that is none.
        """
        single = self.admit(updates, byzantine).float()
        dimension, rule, after = updates.shape[1], self, None
        if gradient is not None and self.trust.gradient is None:
            before = _checked(gradient(torch.zeros_like(updates[0])), dimension)
            rule = replace(self, trust=replace(self.trust, gradient=before))
        cohort, shares = rule._weigh(single)
        own = shares[: len(single)]
        aggregate = mix(single, own, cohort)
        if gradient is not None:
            after = _checked(gradient(aggregate.to(updates.device, updates.dtype)), dimension)
        trust = rule._learn(single, cohort, shares, aggregate, after)
        return Weighed(self.returned(aggregate, updates), own, cohort.features, trust)

    def _weigh(self, updates: Tensor) -> tuple[Cohort, Tensor]:
        """What the inputs show, with the length that none may count beyond; shares of `_candidates`."""
        trust = self.trust
        cohort = measure(updates, trust.past, trust.gradient, trust.epoch, self.arithmetic)
        scores = self._scores(self._candidates(cohort))
        shares = round_weights(self.arithmetic.exp(scores - scores.max()))
        if trust.gradient is not None:
            limit = min(cohort.limit, weighted_median(cohort.lengths, shares[: len(updates)]))
            cohort = replace(cohort, limit=min(limit, trust.length or limit))
        return cohort, shares

    def _candidates(self, cohort: Cohort) -> Tensor:
        """Features of all that share the weight: the inputs, and with a hold-out set standing still as the last."""
        if self.trust.gradient is None:
            return cohort.features
        return torch.cat([cohort.features, cohort.standstill])

    def _scores(self, features: Tensor) -> Tensor:
        weights = torch.tensor(self.trust.weights, dtype=torch.float64)
        return tree_sum(features.T * weights[:, None]) / self.trust.temperature

    def _learn(
        self, updates: Tensor, cohort: Cohort, shares: Tensor, aggregate: Tensor, gradient: Tensor | None
    ) -> Trust:
        """The next epoch's trust. Losses are seen relative to their largest, so that `rate` has no unit."""
        trust, factors = self.trust, clip_factors(cohort.lengths, cohort.limit)
        along = -cohort.agreement
        if gradient is not None:
            along = self.arithmetic.products(updates, gradient[None])[:, 0]
        candidates = self._candidates(cohort)
        losses = torch.zeros(len(candidates), dtype=torch.float64)  # Standing still changes no loss.
        losses[: len(updates)] = along * factors
        unit = float(losses.abs().max())
        weights, heat = torch.tensor(trust.weights, dtype=torch.float64), elementary.log(trust.temperature)
        if unit > 0:
            slope = shares * (losses - float(tree_sum(shares * losses))) / unit
            weights = weights - self.rate * tree_sum(slope[:, None] * candidates) / trust.temperature
            heat += self.rate * float(tree_sum(slope * self._scores(candidates)))
        low, high = TEMPERATURES
        past = aggregate if trust.past is None else self.memory * trust.past + (1 - self.memory) * aggregate
        return Trust(
            tuple(weights.clamp(0.0, LARGEST_WEIGHT).tolist()), min(max(elementary.exp(heat), low), high),
            past, gradient, trust.epoch + 1, self._typical_length(cohort, shares[: len(updates)]),
        )  # fmt: skip

    def _typical_length(self, cohort: Cohort, shares: Tensor) -> float | None:
        """Moves the more, the less standing still has of the weight."""
        if self.trust.gradient is None:
            return None
        before, held = self.trust.length or cohort.limit, float(shares.sum())
        if held == 0:
            return before
        seen = float(tree_sum(shares * cohort.lengths.clamp(max=GROWTH * cohort.limit))) / held
        return before + held * (1 - self.memory) * (seen - before)


def weighted_median(values: Tensor, shares: Tensor) -> float:
    """The least of `values` [n] up to which lies half of the sum of `shares` [n], multiples of 2^-16."""
    ordered = torch.sort(values, stable=True)
    reached = torch.cumsum(shares[ordered.indices], 0) >= shares.sum() / 2  # Exact: multiples of 2^-17.
    return float(ordered.values[int(reached.nonzero()[0, 0])])


def _checked(gradient: Tensor, dimension: int) -> Tensor:
    """float32 [d] on the CPU. Raises `RuleError`."""
    flat = gradient.detach().float().cpu()
    if flat.shape != (dimension,) or not bool(torch.isfinite(flat).all()):
        raise RuleError(f"the hold-out gradient must be finite and of {dimension} coordinates")
    return flat


def mix(updates: Tensor, shares: Tensor, cohort: Cohort) -> Tensor:
    """The sum [d] of `updates` float32 [n, d], each times its share and cut to the cohort's limit.

    As a fixed tree of elementwise operations, with factors that are multiples of 2^-16: where shares are equal, so are
    all bits.
    """
    factors = (shares * clip_factors(cohort.lengths, cohort.limit) * UNITS).round() / UNITS
    result = torch.empty(updates.shape[1])
    width = max(256, (1 << 18) // len(updates))
    for start in range(0, updates.shape[1], width):
        block = updates[:, start : start + width] * factors.float()[:, None]
        result[start : start + width] = tree_sum_in(block)
    return result
