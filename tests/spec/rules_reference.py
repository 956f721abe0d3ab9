"""Aggregation rules as their papers write them: lists, loops and math.fsum, nothing else."""

from __future__ import annotations

from math import dist, fsum, hypot
from statistics import median as middle

Vector = list[float]


def mean(updates: list[Vector]) -> Vector:
    return [fsum(column) / len(column) for column in zip(*updates, strict=True)]


def median(updates: list[Vector]) -> Vector:
    return [middle(column) for column in zip(*updates, strict=True)]


def trimmed_mean(updates: list[Vector], byzantine: int) -> Vector:
    result = []
    for column in zip(*updates, strict=True):
        kept = sorted(column)[byzantine : len(column) - byzantine]
        result.append(fsum(kept) / len(kept))
    return result


def krum_order(updates: list[Vector], byzantine: int) -> list[int]:
    """Inputs by score: the sum over the n - f - 2 nearest others of squared distances."""
    scores = []
    for index, one in enumerate(updates):
        others = sorted(dist(one, other) ** 2 for at, other in enumerate(updates) if at != index)
        scores.append(fsum(others[: max(1, len(updates) - byzantine - 2)]))
    return sorted(range(len(updates)), key=lambda index: (scores[index], index))


def krum(updates: list[Vector], byzantine: int) -> Vector:
    return updates[krum_order(updates, byzantine)[0]]


def multi_krum(updates: list[Vector], byzantine: int) -> Vector:
    return mean([updates[i] for i in krum_order(updates, byzantine)[: len(updates) - byzantine]])


def bulyan(updates: list[Vector], byzantine: int) -> Vector:
    left, chosen = list(updates), []
    while len(chosen) < len(updates) - 2 * byzantine:
        chosen.append(left.pop(krum_order(left, byzantine)[0]))
    kept = len(chosen) - 2 * byzantine
    result = []
    for column in zip(*chosen, strict=True):
        centre = middle(column)
        result.append(fsum(sorted(column, key=lambda value: abs(value - centre))[:kept]) / kept)
    return result


def nearest_mixing(updates: list[Vector], byzantine: int) -> list[Vector]:
    mixed = []
    for one in updates:
        near = sorted(range(len(updates)), key=lambda i: (dist(one, updates[i]), i))
        mixed.append(mean([updates[i] for i in near[: len(updates) - byzantine]]))
    return mixed


def geometric_objective(updates: list[Vector], point: Vector) -> float:
    """What the geometric median makes smallest."""
    return fsum(dist(one, point) for one in updates)


def clipped(update: Vector, norm: float) -> Vector:
    length = hypot(*update)
    return [value * min(1.0, norm / length) for value in update] if length else update


def centered_clipping(updates: list[Vector], radius: float, steps: int) -> Vector:
    centre = median(updates)
    for _ in range(steps):
        moves = [clipped([a - b for a, b in zip(one, centre, strict=True)], radius) for one in updates]
        centre = [a + b for a, b in zip(centre, mean(moves), strict=True)]
    return centre


def fltrust(updates: list[Vector], reference: Vector) -> Vector:
    length, total, weights = hypot(*reference), [0.0] * len(reference), 0.0
    for one in updates:
        own = hypot(*one)
        trust = (
            max(0.0, fsum(a * b for a, b in zip(one, reference, strict=True)) / (own * length))
            if own
            else 0.0
        )
        weights += trust
        total = [a + trust * b * length / own for a, b in zip(total, one, strict=True)] if own else total
    return [value / weights for value in total] if weights else total
