"""Server optimisers, one coordinate at a time: as published, in rationals, and bit for bit, in Python's floats.

The published forms say what is meant; the bitwise forms say which IEEE 754 double operation follows which. Both
work on lists of integers in units of 2^-32, one for each row.
"""

from decimal import Decimal, localcontext
from fractions import Fraction
from math import sqrt

from asyncfl.parameters import Parameters

UNIT = 1 << 32
LIMIT = 1 << 52


def _root(value: Fraction) -> Fraction:
    with localcontext() as context:
        context.prec = 60
        return Fraction((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def published(parameters: Parameters, deltas: list[int]) -> Fraction:
    """Displacement of one weight after the rows' contributions `deltas`, in units of 2^-32, never rounded."""
    rate, beta = Fraction(parameters.server_learning_rate), Fraction(parameters.server_momentum)
    if parameters.server_optimizer == "sgd":
        return Fraction(sum(deltas))
    total = m = Fraction(0)
    tau, beta2 = Fraction(parameters.server_epsilon) * UNIT, Fraction(parameters.server_beta2)
    v = tau * tau
    for delta in deltas:
        if parameters.server_optimizer == "momentum":
            m = beta * m + delta
            total += rate * m
        else:
            m = beta * m + (1 - beta) * delta
            v = beta2 * v + (1 - beta2) * delta * delta
            total += rate * UNIT * m / (_root(v) + tau)
    return total


def _rounded(value: float) -> int:
    return max(-LIMIT, min(LIMIT, round(value)))


def bitwise(parameters: Parameters, deltas: list[int]) -> int:
    """The same displacement with the fold's roundings: one double operation after the other, none fused."""
    rate, beta, beta2 = (
        parameters.server_learning_rate,
        parameters.server_momentum,
        parameters.server_beta2,
    )
    tau = parameters.server_epsilon * UNIT
    total = first = 0
    second = round(tau)
    for delta in deltas:
        if parameters.server_optimizer == "sgd":
            step = delta
        elif parameters.server_optimizer == "momentum":
            first = _rounded(first * beta + delta)
            step = _rounded(first * rate)
        else:
            square = float(second) * second * beta2 + float(delta) * delta * (1.0 - beta2)
            moved = first * beta + delta * (1.0 - beta)
            first, second = _rounded(moved), _rounded(sqrt(square))
            step = _rounded(first / (second + tau) * (rate * UNIT))
        total = max(-LIMIT, min(LIMIT, total + step))
    return total
