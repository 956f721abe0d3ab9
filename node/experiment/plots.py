"""The pictures of an experiment: who took part how often, and accuracy over virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from node.experiment.comparison_plot import draw_comparison
from node.experiment.epsilon_plot import draw_epsilon
from node.experiment.palette import by_name, colour, dash
from node.experiment.pictures import write_picture
from node.experiment.target_plot import draw_target

STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "figure.facecolor": "white",
}
MAX_BINS = 40


def draw_plots(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `participation.png` and `accuracy.png` into `folder`, and what else the experiment asks for.

    That is `target.png` with a target, `epsilon.png` with noise, `comparison.png` with a reference.
    Raises `StorageError`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pictures = [("participation.png", _participation), ("accuracy.png", _accuracy)]
    if result["experiment"].get("target_accuracy") is not None:
        pictures.append(("target.png", draw_target))
    if any(run["epsilon"] for run in result["runs"]):
        pictures.append(("epsilon.png", draw_epsilon))
    if "comparison" in result:
        pictures.append(("comparison.png", draw_comparison))
    paths = [folder / name for name, _ in pictures]
    style: Any = STYLE
    with pyplot.rc_context(style):
        for path, (_, draw) in zip(paths, pictures, strict=True):
            figure = draw(pyplot, result)
            write_picture(pyplot, figure, path)
    return paths


def _participation(pyplot: Any, result: dict[str, Any]) -> Any:
    """One row for each run: how many clients (of all seeds) had how many uploads included."""
    groups = by_name(result)
    figure, rows = pyplot.subplots(
        len(groups), 1, squeeze=False, figsize=(9, 1.2 + 2 * len(groups)), layout="constrained"
    )
    for index, (axes, (name, runs)) in enumerate(zip(rows[:, 0], groups.items(), strict=True)):
        counts = [count for run in runs for count in run["inclusion"]]
        width = max(1, -(-(max(counts) + 1) // MAX_BINS))
        edges = np.arange(0, max(counts) + 1 + width, width) - 0.5
        axes.hist(counts, bins=edges, color=colour(index), edgecolor="white", linewidth=0.6)
        fairness = np.mean([run["jain"] or 0.0 for run in runs])
        axes.set_title(
            f"{name}: {min(counts)} to {max(counts)}, Jain's index {fairness:.3f}", loc="left", fontsize=11
        )
        axes.set_ylabel("clients")
        axes.set_xlim(-0.6, edges[-1] + 0.1 * width)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
    rows[-1, 0].set_xlabel("uploads of a client that are in the model")
    figure.suptitle(f"{result['experiment']['name']}: participation", x=0.02, ha="left", fontweight="bold")
    return figure


def _accuracy(pyplot: Any, result: dict[str, Any]) -> Any:
    """One panel for all classes, one for the chosen ones; the seeds of a run share a colour."""
    experiment, groups = result["experiment"], by_name(result)
    classes = experiment.get("classes")
    titles = ["all classes"] + ([f"classes {', '.join(map(str, classes))}"] if classes else [])
    figure, panels = pyplot.subplots(
        1,
        len(titles),
        sharey=True,
        squeeze=False,
        figsize=(9 if len(titles) == 1 else 12, 5),
        layout="constrained",
    )
    for column, (axes, title) in enumerate(zip(panels[0], titles, strict=True)):
        for index, (name, runs) in enumerate(groups.items()):
            for number, run in enumerate(runs):
                points = np.array(run["accuracy_over_time"], dtype=float)
                axes.plot(
                    points[:, 0], 100 * points[:, 2 + column], lw=1.8, alpha=1 if number == 0 else 0.45,
                    color=colour(index), ls=dash(index),
                    label=name if number == 0 else None,
                )  # fmt: skip
        target = experiment.get("target_accuracy")
        if target and column == 0:
            axes.axhline(100 * target, color="#666666", lw=1, zorder=0)
            axes.annotate(
                f"target {100 * target:g} %", (1, 100 * target), xycoords=("axes fraction", "data"),
                xytext=(0, -13), textcoords="offset points", ha="right", color="#444444",
            )  # fmt: skip
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("virtual seconds")
        axes.set_ylim(0, 102)
    panels[0, 0].set_ylabel("accuracy, %")
    panels[0, 0].legend(loc="lower right", frameon=True, framealpha=0.9)
    figure.suptitle(f"{experiment['name']}: accuracy over virtual time", x=0.02, ha="left", fontweight="bold")
    return figure
