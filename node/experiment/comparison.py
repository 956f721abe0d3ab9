"""Runs side by side, seed by seed, with one of them: what it takes away or adds at the same number of uploads.

Runs with the same seed start from the same model, share out the same data and train alike, so that their
difference says more than each on its own: its spread over the seeds is smaller.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Final

import numpy as np

LAST_QUARTER: Final = 0.75
LOOKS: Final = 50
"""Numbers of uploads at which two accuracies of the last quarter are compared."""


def compare(runs: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    """`runs` are facts of `Outcome.facts`. One summary for each name, the one called `reference` first.

    Differences are in percentage points, positive where the run is better than the reference.
    """
    names = sorted(dict.fromkeys(run["run"] for run in runs), key=lambda name: name != reference)
    theirs = {run["seed"]: run for run in runs if run["run"] == reference}
    summaries = [_summary([run for run in runs if run["run"] == name], theirs) for name in names]
    return {"reference": reference, "runs": summaries}


def _summary(runs: list[dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The runs of one name. `difference` and the like are None for the reference itself."""
    pairs = [
        _pair(run, theirs[run["seed"]])
        for run in runs
        if run["seed"] in theirs and run["run"] != theirs[run["seed"]]["run"]
    ]
    difference, error = _mean_and_error([pair["difference"] for pair in pairs])
    late, late_error = _mean_and_error([pair["late_difference"] for pair in pairs])
    sizes = [run["upload_bytes"] for run in runs if run["upload_bytes"] is not None]
    epsilons = [max(run["epsilon"]) for run in runs if run["epsilon"] is not None]
    return {
        "run": runs[0]["run"],
        "seeds": [run["seed"] for run in runs],
        "accuracy": float(np.mean([run["accuracy"] for run in runs])),
        "pairs": pairs,
        "difference": difference,
        "standard_error": error,
        "late_difference": late,
        "late_standard_error": late_error,
        "epochs_to": {
            accuracy: _epochs([run["uploads_to"][accuracy] for run in runs], len(runs[0]["inclusion"]))
            for accuracy in runs[0]["uploads_to"]
        },
        "reached": {
            accuracy: sum(run["uploads_to"][accuracy] is not None for run in runs)
            for accuracy in runs[0]["uploads_to"]
        },
        "upload_bytes": float(np.mean(sizes)) if sizes else None,
        "float32_bytes": 4 * runs[0]["dimension"],
        "epsilon": max(epsilons, default=None),
    }


def _pair(run: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`late_difference`: the mean over the last quarter of uploads, both accuracies read at the same number."""
    included = min(run["uploads"]["included"], other["uploads"]["included"])
    looks = np.linspace(LAST_QUARTER * included, included, LOOKS)
    return {
        "seed": run["seed"],
        "accuracy": run["accuracy"],
        "reference_accuracy": other["accuracy"],
        "difference": 100 * (run["accuracy"] - other["accuracy"]),
        "late_difference": float(np.mean(100 * (_accuracies(run, looks) - _accuracies(other, looks)))),
        "uploads": run["uploads"]["included"],
        "reference_uploads": other["uploads"]["included"],
    }


def _accuracies(run: dict[str, Any], uploads: Any) -> Any:
    """Accuracy with so many uploads in the model, on straight lines between looks."""
    points = np.array(run["accuracy_over_time"], dtype=float)
    return np.interp(uploads, np.maximum.accumulate(points[:, 1]), points[:, 2])


def _mean_and_error(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error; None without values, and for the error of a single one."""
    if not values:
        return None, None
    mean = float(np.mean(values))
    return mean, None if len(values) < 2 else float(np.std(values, ddof=1) / sqrt(len(values)))


def _epochs(uploads: list[float | None], clients: int) -> float | None:
    """Mean over the seeds in uploads of each client; None if one of them never came so far."""
    reached = [count for count in uploads if count is not None]
    return float(np.mean(reached)) / clients if len(reached) == len(uploads) else None
