"""The accuracy on the clients' own test data, as replicas tell it: in words."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Final

from asyncfl.statistics import RowStatistics, compute_accuracy

ROWS: Final = 5
"""The last rows that are told of together."""


def describe_own_accuracy(accuracy: Mapping[str, Mapping[str, float]]) -> str | None:
    """The last rows of a status' `accuracy` in words; None where there are none."""
    rows = [
        RowStatistics(int(epoch), said["correct"], said["count"], said["noise"])
        for epoch, said in sorted(accuracy.items(), key=lambda pair: int(pair[0]))
    ][-ROWS:]
    if not rows:
        return None
    share = compute_accuracy(rows)
    last = f"rows {rows[0].epoch} to {rows[-1].epoch}" if len(rows) > 1 else f"row {rows[0].epoch}"
    if share is None:
        return f"hidden by the noise in {last}"
    count = sum(row.count for row in rows)
    spread = sqrt(sum(row.noise**2 for row in rows) * (1 + share**2)) / count
    return f"{share:.4f} ± {spread:.4f} in {last}, on {count:,.0f} of the clients' own examples"
