"""exp, log and tanh of one number, the same to the last bit on every machine.

Libraries round these differently: glibc, SLEEF and vector units by a last bit here and there. Made of float64
additions, multiplications and divisions alone, one Python operation each, which nobody fuses. Within 5e-16 of the exact
value, relative (tanh: absolute).
"""

from __future__ import annotations

from math import frexp, ldexp
from typing import Final

_LN2: Final = 0.6931471805599453
_LN2_HIGH: Final = 0.6931471803691238
"""ln 2 with its last 20 bits zero: whole multiples of it, up to 2^20, are exact."""
_LN2_LOW: Final = 1.9082149292705877e-10
_LARGEST: Final = 700.0


def exp(x: float) -> float:
    """e^x; what lies beyond +-700 counts as that."""
    x = max(-_LARGEST, min(x, _LARGEST))
    whole = round(x / _LN2)
    rest = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    result = 1.0
    for degree in range(18, 0, -1):
        result = 1.0 + rest * result / degree
    return ldexp(result, whole)


def log(x: float) -> float:
    """The natural logarithm of `x` > 0."""
    part, power = frexp(x)
    if part < 0.7071067811865476:
        part, power = 2.0 * part, power - 1
    ratio = (part - 1.0) / (part + 1.0)
    square, result = ratio * ratio, 0.0
    for degree in range(27, 0, -2):
        result = 1.0 / degree + square * result
    return power * _LN2_HIGH + (2.0 * ratio * result + power * _LN2_LOW)


def tanh(x: float) -> float:
    """The hyperbolic tangent."""
    grown = exp(-2.0 * abs(x))
    result = (1.0 - grown) / (1.0 + grown)
    return result if x >= 0 else -result
