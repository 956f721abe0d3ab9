"""Who is suspect, from sums of groups alone: a group test over rows, for groups are shuffled anew at every epoch.

Each opened group has a *score*: how far its mean update lies from the coordinate-wise median of all inputs of its row,
against the median of these distances; 0 is usual, 1 is twice the usual distance. The score of a group is taken as the
mean of its members' own suspicions, plus noise::

    score = (s_1 + ... + s_m) / m + noise,    s_i ~ N(0, PRIOR) a priori

and every group corrects the estimates of its members: Bayesian least squares, with a diagonal covariance, for
O(clients) numbers. What a client cannot help (one bad neighbour) averages out, since it has others the next time.
The prior shrinks: a client that was in few groups is not suspect. One whose data differ (an honest minority) is as
suspect as its distance is large, and not more with every epoch, as a test of "malicious or not" would have it.
Estimates widen again by DRIFT a row, so that whoever mends its ways, or was framed, is believed again.

A pure function of the rows, in order: float64 additions, multiplications, divisions and square roots, each of which
IEEE 754 defines to the last bit, so that it is the same at every replica. Sources: Dorfman 1943 for group tests, Kalman
1960 for the correction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum, sqrt
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

from asyncfl.rules import exact
from asyncfl.rules.median import coordinate_median
from asyncfl.rules.weights import UNITS

PRIOR: Final = 1.0
"""Variance of a client's suspicion before anything is known of it."""
NOISE: Final = 0.25
"""Variance of a score around the mean of its members' suspicions."""
DRIFT: Final = 0.002
"""What a client's variance grows by with every row, up to that of the prior."""
LEAST_SCORE: Final = -1.0
MOST_SCORE: Final = 1.0
"""Scores beyond count as this: twice the usual distance says all. With more, one far-off group of two would do to make
both members suspect."""
TOLERATED: Final = 0.2
"""A client that is surely so much more suspect than usual counts half."""
FLOOR: Final = 0.1
"""No client weighs less: nobody is excluded for good."""

Client = TypeVar("Client")


def score_groups(means: Tensor, members: Sequence[int]) -> tuple[float, ...]:
    """The suspicion score of each of `means` [n, d], of groups of so many `members`; all 0 where n < 3.

    The mean of few members lies farther out than that of many, all honest: distances are multiplied by the root of the
    number of members.
    """
    if len(members) < 3:
        return (0.0,) * len(members)
    sizes = torch.tensor(members, dtype=torch.float64)
    distances = (exact.norms(means, coordinate_median(means)) * exact.roots(sizes)).tolist()
    usual = sorted(distances)[(len(distances) - 1) // 2]
    if usual == 0.0:
        return tuple(0.0 if distance == 0.0 else MOST_SCORE for distance in distances)
    return tuple(min(distance / usual - 1.0, MOST_SCORE) for distance in distances)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A client's suspicion: mean and variance, after the row `rows`."""

    mean: float = 0.0
    variance: float = PRIOR
    rows: int = 0


@dataclass(frozen=True)
class Reputation(Generic[Client]):
    """What some rows say of the clients. Immutable; O(clients). Clients may be of any hashable type."""

    rows: int = 0
    estimates: Mapping[Client, Estimate] = field(default_factory=dict)

    def after(self, groups: Iterable[tuple[Sequence[Client], float]]) -> Reputation[Client]:
        """After one more row: (members, score) of each of its groups, in an order that all agree on."""
        rows, known = self.rows + 1, dict(self.estimates)
        for members, score in groups:
            before = [_widened(known.get(client), rows) for client in members]
            known.update(zip(members, _corrected(before, score), strict=True))
        return Reputation(rows, known)

    def estimate(self, client: Client) -> Estimate:
        """What is believed of a client now: it is less certain the longer it was in no group."""
        return _widened(self.estimates.get(client), self.rows)

    def suspicion(self, client: Client) -> tuple[float, float]:
        """Mean and standard deviation of a client's own suspicion; 0 is a usual client, 1 one twice as far out."""
        found = self.estimate(client)
        return found.mean, sqrt(found.variance)

    @cached_property
    def usual(self) -> float:
        """The (lower) median of all clients' suspicions. Bad groups lift the scale, so that it is below 0 with them."""
        means = sorted(each.mean for each in self.estimates.values())
        return means[(len(means) - 1) // 2] if means else 0.0

    def weight(self, client: Client) -> float:
        """What a client counts, `FLOOR` to 1: by how much more suspect than usual it surely is."""
        mean, deviation = self.suspicion(client)
        excess = max(0.0, mean - self.usual - deviation) / TOLERATED
        return max(FLOOR, 1.0 / (1.0 + excess * excess))

    def group_weight(self, members: Iterable[Client]) -> float:
        """What a group counts: its most suspect member decides, for one is enough to spoil it."""
        return min(map(self.weight, members), default=1.0)


def _widened(found: Estimate | None, rows: int) -> Estimate:
    if found is None:
        return Estimate(rows=rows)
    return Estimate(found.mean, min(found.variance + DRIFT * (rows - found.rows), PRIOR), rows)


def _corrected(before: Sequence[Estimate], score: float) -> list[Estimate]:
    """The members' estimates after their group's score: one step of a Kalman filter, each variance on its own.

    `fsum`, since `sum` of floats rounds otherwise from Python 3.12 on, and replicas must agree to the last bit.
    """
    count = len(before)
    expected = fsum(each.mean for each in before) / count
    spread = fsum(each.variance for each in before) / (count * count) + NOISE
    surprise = max(LEAST_SCORE, min(score, MOST_SCORE)) - expected
    result: list[Estimate] = []
    for each in before:
        gain = each.variance / count / spread
        kept = each.variance * (1.0 - gain / count)
        result.append(Estimate(each.mean + gain * surprise, kept, each.rows))
    return result


def shrink_suspects(means: Tensor, weights: Sequence[float]) -> Tensor:
    """`means` [n, d], each moved towards their coordinate-wise median: what is left of the difference is its weight.

    Weights are rounded to 2^-16. So a rule that knows of no weights gives a suspect group less of a say.
    """
    if all(weight == 1.0 for weight in weights):
        return means
    factors = torch.tensor([round(weight * UNITS) for weight in weights], dtype=torch.float64) / UNITS
    centre = coordinate_median(means)
    result = torch.empty_like(means)
    for place, block in exact.column_blocks(means):
        offset = (block - centre[place]).mul_(factors[:, None])
        result[:, place] = offset.add_(centre[place]).to(means.dtype)
    return result
