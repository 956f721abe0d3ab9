"""The other direction: how much noise, or how many uploads, a privacy budget allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Final

from asyncfl.errors import ParameterError
from asyncfl.privacy.accountant import Mechanism, check_delta, epsilon

PRECISION: Final = 1e-6
"""Relative width at which the bisection for the noise multiplier ends."""
LARGEST_MULTIPLIER: Final = 1e6
_MOST_UPLOADS: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Budget:
    """What one client may lose in all: epsilon > 0 at delta in (0, 1). Raises `ParameterError`."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (isfinite(self.epsilon) and self.epsilon > 0):
            raise ParameterError(f"epsilon {self.epsilon}: a number above 0 is needed")
        check_delta(self.delta)


def calibrate(budget: Budget, uploads: int, mechanism: Callable[[float], Mechanism]) -> float:
    """The smallest noise multiplier whose epsilon after `uploads` uploads stays within the budget.

    `mechanism(z)` is the mechanism under noise multiplier z; its epsilon must fall with z. At most
    `PRECISION` above the smallest, never below. Raises `ParameterError` when 1e6 does not suffice.
    """
    if uploads < 1:
        raise ParameterError(f"{uploads} uploads: at least one is needed to calibrate noise")

    def suffices(multiplier: float) -> bool:
        return epsilon(mechanism(multiplier), uploads, budget.delta) <= budget.epsilon

    high = 1.0
    while not suffices(high):
        high *= 2
        if high > LARGEST_MULTIPLIER:
            raise ParameterError(
                f"epsilon {budget.epsilon:g} over {uploads} uploads needs a noise multiplier beyond "
                f"{LARGEST_MULTIPLIER:g}; allow more epsilon or plan fewer epochs"
            )
    low = high / 2
    while _is_sound(mechanism, low) and suffices(low):
        high, low = low, low / 2
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if _is_sound(mechanism, middle) and suffices(middle):
            high = middle
        else:
            low = middle
    return high


def affordable_uploads(budget: Budget, mechanism: Mechanism) -> int:
    """How many uploads in all stay within the budget; at most 2^40."""

    def fits(uploads: int) -> bool:
        return epsilon(mechanism, uploads, budget.delta) <= budget.epsilon

    high = 1
    while fits(high):
        high *= 2
        if high > _MOST_UPLOADS:
            return _MOST_UPLOADS
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _is_sound(mechanism: Callable[[float], Mechanism], multiplier: float) -> bool:
    try:
        mechanism(multiplier)
    except ParameterError:
        return False
    return True
