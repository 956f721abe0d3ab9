"""The picture of how long runs take to an accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from node.experiment.palette import by_name, colour


def draw_target(pyplot: Any, result: dict[str, Any]) -> Any:
    """One row for each run: a dot for each seed that reached the target, a bar at their mean. Gives the figure."""
    groups = by_name(result)
    figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.5 * len(groups)), layout="constrained")
    for row, runs in enumerate(groups.values()):
        seconds = [run["target_reached_s"] for run in runs if run["target_reached_s"] is not None]
        axes.plot(seconds, [row] * len(seconds), "o", ms=7, alpha=0.55, color=colour(row))
        text = "never" if not seconds else f"{np.mean(seconds):.0f} s"
        if 0 < len(seconds) < len(runs):
            text += f" ({len(seconds)} of {len(runs)} seeds)"
        if seconds:
            axes.plot([np.mean(seconds)], [row], "|", ms=22, mew=2.5, color=colour(row))
        axes.annotate(
            text, (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=colour(row),
        )  # fmt: skip
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xscale("log")
    ticks = [
        tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if _is_near(tick, result)
    ]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("virtual seconds; a dot for each seed, a bar for their mean")
    experiment = result["experiment"]
    figure.suptitle(
        f"{experiment['name']}: time to {100 * experiment['target_accuracy']:g} % accuracy",
        x=0.02, ha="left", fontweight="bold",
    )  # fmt: skip
    return figure


def _is_near(tick: float, result: dict[str, Any]) -> bool:
    reached = [run["target_reached_s"] for run in result["runs"] if run["target_reached_s"]]
    return bool(reached) and 0.5 * min(reached) <= tick <= 2 * max(reached)
