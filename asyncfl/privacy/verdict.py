"""Whether a model still trains under a given noise: a criterion that was measured, not derived.

Simulated DP-FedAvg on digits (`scripts/dp_noise_threshold.py`, figures in `docs/results/dp-noise.md`) shows one
number to decide: the noise-to-clip ratio R (L2 norm of the noise in a row's mean, divided by the clip) over the
square root of the number of epochs. Rows add up their signal, their noise only as a square root.
"""

from __future__ import annotations

from enum import StrEnum
from math import sqrt
from typing import Final

USABLE: Final = 1.1
"""R / sqrt(epochs) up to which accuracy stays within 5 points of that without noise."""
LOST: Final = 4.5
"""R / sqrt(epochs) from which more than half of what training gains over chance is gone."""
SERVER_RATES: Final = ((0.6, 1.0), (1.5, 0.3), (4.5, 0.1))
"""(R / sqrt(epochs), server learning rate): up to the first, the second was best; beyond the last, 0.03."""
LOWEST_SERVER_RATE: Final = 0.03


class Verdict(StrEnum):
    """What to expect of training."""

    USABLE = "usable"
    DOUBTFUL = "doubtful"
    UNUSABLE = "not usable"


def judge(ratio: float, epochs: int) -> Verdict:
    """The verdict on noise-to-clip ratio `ratio` >= 0 over `epochs` >= 1 epochs."""
    load = ratio / sqrt(epochs)
    if load <= USABLE:
        return Verdict.USABLE
    return Verdict.DOUBTFUL if load <= LOST else Verdict.UNUSABLE


def largest_usable_ratio(epochs: int) -> float:
    """The largest noise-to-clip ratio that is judged usable over `epochs` epochs."""
    return USABLE * sqrt(epochs)


def best_server_rate(ratio: float, epochs: int) -> float:
    """The server learning rate that was best in the measurements at this ratio."""
    load = ratio / sqrt(epochs)
    return next((rate for limit, rate in SERVER_RATES if load <= limit), LOWEST_SERVER_RATE)
