"""The fold in exact rationals, one coordinate at a time: slow and plain.

Row contribution = round to a multiple of 2^-32 of server_lr * clip / bound * (sum of clipped sums) / divisor; the model
is the initial one plus the sum of all rows. The divisor is max(members present, expected), or, where uploads carry
their weight, max(sum of the weights, expected, what the noise allows).
"""

from fractions import Fraction
from math import ceil, isqrt, sqrt

from asyncfl.federation import Federation


def noise_norm(federation: Federation, dimension: int, members: int) -> int:
    return ceil(sqrt(members) * federation.parameters.payload_sigma * (sqrt(dimension) + 6.0))


def scaled(part: list[int], limit: int) -> list[int]:
    norm = isqrt(sum(value * value for value in part))
    if norm <= limit:
        return part
    weight = limit * 65536 // (norm + 1)
    return [(value * weight + 32768) // 65536 for value in part]


def ceiling(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def slack(federation: Federation, segment: int, members: int) -> int:
    """By how much a segment's norm may exceed what the weights allow."""
    each, carried = federation.segments[segment], weight_place(federation)
    by_weight = Fraction(noise_norm(federation, 1, members) * each.bound, carried[1])
    return noise_norm(federation, each.stop - each.start, members) + ceiling(by_weight)


def weight_place(federation: Federation) -> tuple[int, int]:
    """Where the weight is, and its bound."""
    each = federation.segments[2 if federation.buffers else 1]
    assert each.stop - each.start == 1
    return each.start, each.bound


def clipped(values: list[int], members: int, federation: Federation) -> list[int]:
    result = list(values)
    for segment in federation.segments:
        limit = members * segment.bound + noise_norm(federation, segment.stop - segment.start, members)
        result[segment.start : segment.stop] = scaled(result[segment.start : segment.stop], limit)
    if federation.parameters.sends_weights:
        place, bound = weight_place(federation)
        result[place] = max(0, result[place])
        for index, segment in enumerate(federation.segments):
            if segment.start < federation.dimension:
                limit = result[place] * segment.bound // bound + slack(federation, index, members)
                result[segment.start : segment.stop] = scaled(result[segment.start : segment.stop], limit)
    return result


def expected_before(before: list[int], at_first: int) -> int:
    recent = sorted(before[-5:])
    return recent[len(recent) // 2] if recent else at_first


def fold(rows: list[list[tuple[list[int], int]]], roster: int, federation: Federation) -> list[Fraction]:
    """Total displacement of the model, per coordinate. `rows[e]` lists (opened sum, members)."""
    total = [Fraction(0)] * federation.dimension
    counts: list[int] = []
    masses: list[int] = []
    for row in rows:
        present = sum(members for _, members in row)
        sums = [clipped(values, members, federation) for values, members in row]
        expected = expected_before(counts, roster)
        if federation.parameters.sends_weights:
            place, bound = weight_place(federation)
            mass = sum(values[place] for values in sums)
            at_first = ceiling(Fraction(mass * max(present, expected), present))
            least = max(
                ceiling(
                    Fraction(sum(slack(federation, i, members) for _, members in row) * bound, each.bound)
                )
                for i, each in enumerate(federation.segments)
                if each.start < federation.dimension
            )
            divisor = Fraction(max(mass, expected_before(masses, at_first), least), bound)
            masses.append(mass)
        else:
            divisor = Fraction(max(present, expected, 1))
        counts.append(present)
        for segment in federation.segments:
            if segment.start >= federation.dimension:
                continue
            scale = (
                Fraction(federation.parameters.server_learning_rate)
                * Fraction(segment.clip)
                / (segment.bound * divisor)
            )
            for i in range(segment.start, segment.stop):
                total[i] += scale * sum(values[i] for values in sums)
    return total
