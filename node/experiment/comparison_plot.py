"""The picture of a paired comparison: errors over updates, and how far each seed is from the reference."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from node.experiment.palette import by_name, colour, dash

LEAST_ERROR: Final = 0.01
"""Per cent: a logarithm has no zero."""


def draw_comparison(pyplot: Any, result: dict[str, Any]) -> Any:
    """Left, held-out errors over the uploads in the model; right, differences at the end. Gives the figure."""
    comparison = result["comparison"]
    paired = [run for run in comparison["runs"] if run["pairs"]]
    # Noise costs so many points that no other difference would be seen beside it.
    runs = [run for run in paired if run["epsilon"] is None] or paired
    figure, (curves, differences) = pyplot.subplots(
        1, 2, figsize=(12, 5), width_ratios=(3, 2), layout="constrained"
    )
    _curves(curves, result)
    _differences(differences, runs, list(by_name(result)), comparison["reference"])
    name = result["experiment"]["name"]
    figure.suptitle(f"{name}: against {comparison['reference']}", x=0.02, ha="left", fontweight="bold")
    return figure


def _curves(axes: Any, result: dict[str, Any]) -> None:
    """Seeds are thin lines, one point for each look."""
    clients = result["experiment"]["clients"]
    for index, (name, runs) in enumerate(by_name(result).items()):
        for number, run in enumerate(runs):
            points = np.array(run["accuracy_over_time"], dtype=float)
            errors = np.maximum(100 - 100 * points[:, 2], LEAST_ERROR)
            axes.plot(
                points[:, 1] / clients, errors, lw=1.4, alpha=0.75, color=colour(index), ls=dash(index),
                label=name if number == 0 else None,
            )  # fmt: skip
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    told = "125" if high > 10 * low else "123456789"
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(lambda value, place: f"{value:g}" if f"{value:g}"[0] in told else "")
    axes.set_title("held-out errors, % (logarithmic)", loc="left", fontsize=11)
    axes.set_xlabel("updates in the model, for each client")
    axes.legend(loc="best", frameon=True, framealpha=0.9)


def _differences(axes: Any, runs: list[dict[str, Any]], order: list[str], reference: str) -> None:
    """A dot for each seed, a bar for the mean and its standard error."""
    for place, run in enumerate(runs):
        values = [pair["difference"] for pair in run["pairs"]]
        shade = colour(order.index(run["run"]))
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
        axes.plot(place + np.array(spread), values, "o", ms=6, alpha=0.6, color=shade)
        axes.errorbar(
            place + 0.3, run["difference"], yerr=run["standard_error"] or 0.0, fmt="_", ms=16, capsize=5,
            color=shade,
        )  # fmt: skip
        axes.annotate(
            f"{run['difference']:+.2f}", (place + 0.3, run["difference"]), xytext=(12, 0),
            textcoords="offset points", va="center", color=shade,
        )  # fmt: skip
    axes.axhline(0, color="#444444", lw=1, zorder=0)
    axes.set_xticks(range(len(runs)), [run["run"].replace(", ", ",\n") for run in runs])
    axes.set_xlim(-0.5, len(runs) - 0.2)
    axes.set_title(f"last model, points above {reference}", loc="left", fontsize=11)
