"""Whether a model still trains under a given noise: a criterion that was measured, not derived.

Simulated DP-FedAvg on digits (`scripts/dp_noise_threshold.py`, figures in `docs/results/dp-noise.md`). R is the
noise-to-clip ratio: L2 norm of the noise in a row's mean, divided by the clip. With server learning rate r and E
epochs, accuracy falls when the noise of the last rows dominates (r * R^2 too large) or when there is no time to
get anywhere (r * E too small). Both can be met only while R / sqrt(E) is small: rows add up their signal, their
noise only as a square root.
"""

from __future__ import annotations

from enum import StrEnum
from math import sqrt
from typing import Final

USABLE: Final = 1.1
"""R / sqrt(E) up to which the best server learning rate stays within about 5 points of training without noise."""
LOST: Final = 4.5
"""R / sqrt(E) from which about half of what training gains over chance is gone, at any server learning rate."""
NOISE_LIMIT: Final = 20.0
"""r * R^2 up to which the noise of the last rows costs no more than about 5 points."""
TIME_LIMIT: Final = 6.0
"""r * E from which on slowness costs no more than about 5 points."""


class Verdict(StrEnum):
    """What to expect of training."""

    USABLE = "usable"
    DOUBTFUL = "doubtful"
    UNUSABLE = "not usable"


def judge(ratio: float, epochs: int, server_rate: float) -> Verdict:
    """The verdict on noise-to-clip ratio `ratio` >= 0 over `epochs` >= 1 epochs at `server_rate` > 0."""
    load = ratio / sqrt(epochs)
    if load > LOST:
        return Verdict.UNUSABLE
    fits = server_rate * ratio**2 <= NOISE_LIMIT and server_rate * epochs >= TIME_LIMIT
    return Verdict.USABLE if load <= USABLE and fits else Verdict.DOUBTFUL


def largest_usable_ratio(epochs: int) -> float:
    """The largest noise-to-clip ratio that is usable over `epochs` epochs with a suitable server rate."""
    return USABLE * sqrt(epochs)


def suitable_server_rate(ratio: float, epochs: int) -> float:
    """A server learning rate, at most 1, near the best of those measured: half the noise limit if time allows."""
    by_noise = NOISE_LIMIT / 2 / ratio**2 if ratio > 0 else 1.0
    return min(1.0, max(by_noise, TIME_LIMIT / epochs))
