"""When training is over: what a deployment's `[stop]` says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stop:
    """Over `rows` rows together: at least `accuracy`, or no improvement in `patience_rows` rows; None: not that."""

    rows: int
    accuracy: float | None = None
    patience_rows: int | None = None
