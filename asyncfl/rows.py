"""The sum of a row: its opened groups, clipped, and what that sum is divided by.

Everything here is exact integers up to the one division, so that no order of arrival shows in a bit.

With `weighting = "examples"` an upload is w times its clipped update, w in (0, 1], and w travels beside it. A row is
divided by the sum of the weights that were decoded, its *mass*. A malicious member may put anything into either part;
three rules bound what that does:

- a group's mass is cut to what its members could honestly have, between 0 and their number;
- a group's update is cut to the norm that its mass allows, so that a weight that is understated shrinks its own group;
- a row is divided by no less than the median mass of the last five rows, nor by less than what keeps the noise of its
  groups within the clip.

So a row's mean update is at most twice the clip, whatever the members send and whatever was in the rows before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, isqrt, sqrt

import torch
from torch import Tensor

from asyncfl.federation import Federation
from asyncfl.parameters import Parameters, Segment
from asyncfl.statistics import RowStatistics

EXPECTED_ROWS = 5


def compute_expected(previous: Sequence[int], at_first: int) -> int:
    """The (upper) median of the last five non-empty rows; `at_first` where there is none before."""
    recent = sorted(previous[-EXPECTED_ROWS:])
    return recent[len(recent) // 2] if recent else at_first


def squared_norm(values: Tensor) -> int:
    """Exact sum of squares of an integer tensor with |values| <= 2^26."""
    wide = values.to(torch.int64)
    padded = torch.nn.functional.pad(wide, (0, -wide.numel() % 1024)).view(-1, 1024)
    return sum((padded * padded).sum(dim=1).tolist())


def compute_noise_norm(parameters: Parameters, dimension: int, members: int) -> int:
    """Norm of the sum of `members` Gaussian errors in `dimension` coordinates, plus six standard deviations."""
    return ceil(sqrt(members) * parameters.payload_sigma * (sqrt(dimension) + 6.0))


def compute_norm_limit(parameters: Parameters, segment: Segment, members: int) -> int:
    """Largest integer norm that a sum of `members` honest uploads reaches, noise included."""
    return members * segment.bound + compute_noise_norm(parameters, segment.stop - segment.start, members)


def compute_allowance(federation: Federation, segment: Segment, members: int) -> int:
    """By how much the norm of a group's sum may exceed what its decoded mass allows: both parts are noisy."""
    parameters, weight = federation.parameters, federation.weight_segment
    noise = compute_noise_norm(parameters, segment.stop - segment.start, members)
    if weight is None:
        return noise
    return noise + -(-compute_noise_norm(parameters, 1, members) * segment.bound // weight.bound)


@dataclass(frozen=True, slots=True)
class RowSum:
    """What a row's opened sums add up to.

    `total`: int64 [upload dimension], every group clipped. `mass`: the sum of the weights in units of 1 / bound of
    their coordinate, never negative; 0 where none travel. `least`: the smallest mass that keeps the noise of the
    row's groups within the clip.
    """

    total: Tensor
    members: int
    mass: int = 0
    least: int = 0


@dataclass(frozen=True, slots=True)
class GroupSum:
    """An opened sum that was clipped: `total` int64 [upload dimension], of so many `members`, with its mass."""

    total: Tensor
    members: int
    mass: int


def sum_row(sums: Iterable[tuple[Tensor, int]], federation: Federation) -> RowSum:
    """Add up a row's (opened sum int32 [upload dimension], number of members)."""
    return add_groups((clip_group(opened, members, federation) for opened, members in sums), federation)


def add_groups(groups: Iterable[GroupSum], federation: Federation) -> RowSum:
    """Add up the clipped groups of a row; one at a time is held."""
    total = torch.zeros(federation.upload_dimension, dtype=torch.int64)
    members = mass = 0
    noise = [0] * len(federation.model_segments)
    for group in groups:
        total += group.total
        members, mass = members + group.members, mass + group.mass
        for index, segment in enumerate(federation.model_segments):
            noise[index] += compute_allowance(federation, segment, group.members)
    if federation.weight_segment is None:
        return RowSum(total, members)
    return RowSum(total, members, mass, _least_mass(noise, federation))


def _least_mass(noise: Sequence[int], federation: Federation) -> int:
    """The smallest mass that keeps a `noise` of these norms, one for each model segment, within the clip."""
    carried, segments = federation.weight_segment, federation.model_segments
    assert carried is not None
    least = max(-(-part * carried.bound // each.bound) for part, each in zip(noise, segments, strict=True))
    return max(least, 1)


def clip_group(opened: Tensor, members: int, federation: Federation) -> GroupSum:
    """The opened sum, each segment scaled down (by a multiple of 2^-16) to its norm limit, and the group's mass."""
    result = opened.to(torch.int64)
    for segment in federation.segments:
        _clip(result, segment, compute_norm_limit(federation.parameters, segment, members))
    if federation.metrics_segment is not None:
        _cut_metrics(result, federation.metrics_segment, members, federation.parameters)
    carried = federation.weight_segment
    if carried is None:
        return GroupSum(result, members, 0)
    mass = max(0, int(result[carried.start]))
    result[carried.start] = mass
    for segment in federation.model_segments:
        limit = mass * segment.bound // carried.bound + compute_allowance(federation, segment, members)
        _clip(result, segment, limit)
    return GroupSum(result, members, mass)


def compute_group_mean(group: GroupSum, federation: Federation) -> Tensor:
    """The mean update of a group's members, float32 [dimension], each segment in units of its clip.

    Where weights travel it is the weighted mean; its length is at most 2, whatever the members sent: a group is
    divided by no less than what keeps its noise within the clip.
    """
    carried, members = federation.weight_segment, group.members
    divisor = float(members)
    if carried is not None:
        noise = [compute_allowance(federation, segment, members) for segment in federation.model_segments]
        divisor = max(group.mass, _least_mass(noise, federation)) / carried.bound
    mean = group.total[: federation.dimension].to(torch.float64)
    for segment in federation.model_segments:
        mean[segment.start : segment.stop] *= 1.0 / (segment.bound * divisor)
    return mean.to(torch.float32)


def _cut_metrics(values: Tensor, place: Segment, members: int, parameters: Parameters) -> None:
    """No more examples than `members` can have, none more right than there are; up to noise on both sides."""
    noise = compute_noise_norm(parameters, 1, members)
    most = -(-members * place.bound * 1000 // 1414)  # A member's count is at most bound / sqrt(2).
    correct, count = values[place.start : place.stop].tolist()
    count = min(max(count, -noise), most + noise)
    values[place.start + 1] = count
    values[place.start] = min(max(correct, -noise), max(count, 0) + 2 * noise)


def _clip(values: Tensor, segment: Segment, limit: int) -> None:
    part = values[segment.start : segment.stop]
    norm = isqrt(squared_norm(part))
    if norm > limit:
        scale = limit * 65536 // (norm + 1)
        values[segment.start : segment.stop] = (part * scale + 32768) >> 16


def compute_divisor(row: RowSum, expected: int, masses: Sequence[int], federation: Federation) -> float:
    """How many members, or how much weight, a row's sum is divided by.

    `expected`: the members to expect. `masses`: those of the rows before, at least the last five. In the first
    row the members expected and absent are taken to weigh as much as those present.
    """
    carried = federation.weight_segment
    if carried is None:
        return float(max(row.members, expected, 1))
    at_first = -(-row.mass * max(expected, row.members) // max(row.members, 1))
    return max(row.mass, compute_expected(masses, at_first), row.least) / carried.bound


def compute_presence(row: RowSum, divisor: float, federation: Federation) -> float:
    """How much of a full row is there: its members, or their weight, over what a row is divided by; at most 1."""
    carried = federation.weight_segment
    return (row.members if carried is None else row.mass / carried.bound) / divisor


def row_statistics(epoch: int, row: RowSum, federation: Federation) -> RowStatistics:
    """Decode the accuracy of a row. The deployment must have metrics on."""
    place = federation.metrics_segment
    assert place is not None
    unit = place.clip / place.bound
    correct, count = row.total[place.start : place.stop].tolist()
    noise = unit * federation.parameters.payload_sigma * sqrt(row.members)
    return RowStatistics(epoch, correct * unit, count * unit, noise)
