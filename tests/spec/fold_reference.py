"""The fold in exact rationals, one coordinate at a time: slow and plain.

Row contribution = round to a multiple of 2^-32 of server_lr * clip / bound * (sum of clipped sums) / max(members
present, expected); the model is the initial one plus the sum of all rows.
"""

from fractions import Fraction
from math import isqrt

from asyncfl.federation import Federation
from asyncfl.fold import compute_norm_limit


def clipped(values: list[int], members: int, federation: Federation) -> list[int]:
    result = list(values)
    for segment in federation.segments:
        part = values[segment.start : segment.stop]
        limit = compute_norm_limit(federation.parameters, segment, members)
        norm = isqrt(sum(value * value for value in part))
        if norm > limit:
            weight = limit * 65536 // (norm + 1)
            result[segment.start : segment.stop] = [(value * weight + 32768) // 65536 for value in part]
    return result


def expected_members(before: list[int], roster: int) -> int:
    recent = sorted(before[-5:])
    return recent[len(recent) // 2] if recent else roster


def fold(rows: list[list[tuple[list[int], int]]], roster: int, federation: Federation) -> list[Fraction]:
    """Total displacement of the model, per coordinate. `rows[e]` lists (opened sum, members)."""
    total = [Fraction(0)] * federation.dimension
    counts: list[int] = []
    for row in rows:
        present = sum(members for _, members in row)
        weight = Fraction(federation.parameters.server_learning_rate) / max(
            present, expected_members(counts, roster), 1
        )
        counts.append(present)
        for segment in federation.segments:
            scale = weight * Fraction(segment.clip) / segment.bound
            for i in range(segment.start, segment.stop):
                total[i] += scale * sum(clipped(values, members, federation)[i] for values, members in row)
    return total
