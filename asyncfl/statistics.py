"""What rows say of the model's accuracy on the clients' own test data, and what is decided from it.

The uploads of row e were trained from models that hold rows before e, and measured these: the accuracy of row e is
that of the model after the rows before it. Everything here is a pure function of rows, so that replicas with the same
ledger decide alike. No torch here: supervisors read statistics too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Final

from asyncfl.stopping import Stop

CERTAIN: Final = 3.0
"""An accuracy counts where the number of test examples is beyond so many standard deviations of its noise."""


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Row `epoch`: test examples that its members got right, and how many they had; each with Gaussian noise.

    `noise` is the standard deviation in each of the two, of masks and privacy together.
    """

    epoch: int
    correct: float
    count: float
    noise: float


def compute_accuracy(rows: Sequence[RowStatistics]) -> float | None:
    """Share of all test examples of `rows` that were right; None where noise hides how many there were.

    `fsum`, since `sum` of floats rounds otherwise from Python 3.12 on, and replicas must decide alike.
    """
    correct, count = fsum(row.correct for row in rows), fsum(row.count for row in rows)
    noise = sqrt(fsum(row.noise * row.noise for row in rows))
    return correct / count if count > CERTAIN * noise else None


def compute_smoothed(rows: Sequence[RowStatistics], width: int) -> list[float | None]:
    """For each row the accuracy over it and the `width` - 1 rows before; None where there are fewer."""
    return [
        compute_accuracy(rows[last + 1 - width : last + 1]) if last + 1 >= width else None
        for last in range(len(rows))
    ]


def explain_finish(rows: Sequence[RowStatistics], stop: Stop) -> str | None:
    """Why training is over by `stop`; None while it is not. `rows` ascend."""
    smoothed = compute_smoothed(rows, stop.rows)
    last = smoothed[-1] if smoothed else None
    if stop.accuracy is not None and last is not None and last >= stop.accuracy:
        return (
            f"the accuracy on clients' own test data is {last:.4f} over the last {stop.rows} rows, at least "
            f"{stop.accuracy:g}"
        )
    found = [(accuracy, -index) for index, accuracy in enumerate(smoothed) if accuracy is not None]
    if stop.patience_rows is None or not found:
        return None
    best, index = max(found)
    since = len(rows) - 1 + index
    if since >= stop.patience_rows:
        return (
            f"the accuracy on clients' own test data has not improved for {since} rows: {best:.4f} over the "
            f"{stop.rows} rows up to epoch {rows[-index].epoch}"
        )
    return None


@dataclass(frozen=True, slots=True)
class Best:
    """The first `rows` rows make the best model (0: the initial one); `accuracy` is what the rows after them say."""

    rows: int
    accuracy: float


def find_best(rows: Sequence[RowStatistics], width: int) -> Best | None:
    """Where the accuracy over `width` rows is highest, at first; None where noise hides all of it.

    The rows of a window judge the models before each of them; the one before the window's middle row is taken.
    """
    smoothed = compute_smoothed(rows, width)
    found = [(accuracy, -last) for last, accuracy in enumerate(smoothed) if accuracy is not None]
    if not found:
        return None
    accuracy, last = max(found)
    return Best(-last - width // 2, accuracy)
