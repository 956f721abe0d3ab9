"""Whether a model still trains under a given noise: a criterion that was measured, not derived.

Simulated DP-FedAvg on digits with perceptrons of three widths (`scripts/dp_noise_threshold.py`, figures in
`docs/results/dp-noise.md`). R is the noise-to-clip ratio: L2 norm of the noise in a row's mean, divided by the
clip. What a model of d parameters bears grows with sqrt(d); R' = R * sqrt(4810 / d) is the ratio for the model of
the task `digits` that does the same harm. With server learning rate r and E epochs, accuracy falls when the
noise of the last rows dominates (r * R'^2 too large) or when there is no time to get anywhere (r * E too small).
Both can be met only while R' / sqrt(E) is small: rows add up their signal, their noise only as a square root.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from typing import Final

DIGITS_DIMENSION: Final = 4810
"""Parameters of the built-in task's model, on which the limits below were measured."""
LARGEST_MEASURED: Final = 19210
"""Parameters of the widest perceptron measured. Larger models are not believed to bear more than this one."""
USABLE: Final = 1.0
"""R' / sqrt(E) up to which the best server learning rate stays within about 5 points of training without noise."""
LOST: Final = 4.2
"""R' / sqrt(E) from which about half of what training gains over chance is gone, at any server learning rate."""
NOISE_LIMIT: Final = 20.0
"""r * R'^2 up to which the noise of the last rows costs no more than about 5 points."""
TIME_LIMIT: Final = 6.0
"""r * E from which on slowness costs no more than about 5 points."""


class Verdict(StrEnum):
    """What to expect of training."""

    USABLE = "usable"
    DOUBTFUL = "doubtful"
    UNUSABLE = "not usable"


@dataclass(frozen=True, slots=True)
class Run:
    """A model of `dimension` >= 1 parameters trained for `epochs` >= 1 epochs."""

    epochs: int
    dimension: int

    def judge(self, ratio: float, server_rate: float) -> Verdict:
        """The verdict on noise-to-clip ratio `ratio` >= 0 at server learning rate `server_rate` > 0."""
        alike = ratio / self._tolerance
        load = alike / sqrt(self.epochs)
        if load > LOST:
            return Verdict.UNUSABLE
        fits = server_rate * alike**2 <= NOISE_LIMIT and server_rate * self.epochs >= TIME_LIMIT
        return Verdict.USABLE if load <= USABLE and fits else Verdict.DOUBTFUL

    @property
    def largest_usable_ratio(self) -> float:
        """The largest noise-to-clip ratio that is usable with a suitable server learning rate."""
        return USABLE * sqrt(self.epochs) * self._tolerance

    def suitable_server_rate(self, ratio: float) -> float:
        """A server learning rate, at most 1, near the best of those measured: half the noise limit if time allows."""
        noise = (ratio / self._tolerance) ** 2
        by_noise = NOISE_LIMIT / 2 / max(noise, NOISE_LIMIT / 2)
        return min(1.0, max(by_noise, TIME_LIMIT / self.epochs))

    @property
    def _tolerance(self) -> float:
        """How much larger a ratio this model bears than that of `digits`."""
        return sqrt(min(self.dimension, LARGEST_MEASURED) / DIGITS_DIMENSION)
