"""The picture of what privacy each client has spent at the end of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from node.experiment.palette import by_name, colour


def draw_epsilon(pyplot: Any, result: dict[str, Any]) -> Any:
    """One row for each run with noise: epsilon of every client, seeds side by side. Gives the figure."""
    groups = {name: runs for name, runs in by_name(result).items() if all(run["epsilon"] for run in runs)}
    order = list(by_name(result))
    figure, rows = pyplot.subplots(
        len(groups), 1, squeeze=False, sharex=True, figsize=(9, 1.4 + 2.6 * len(groups)), layout="constrained"
    )
    for axes, (name, runs) in zip(rows[:, 0], groups.items(), strict=True):
        shift = np.linspace(-0.25, 0.25, len(runs)) if len(runs) > 1 else [0.0]
        for run, aside in zip(runs, shift, strict=True):
            staying = set(run["present_throughout"])
            for stays, marker, label in (
                (True, "o", "present throughout"),
                (False, "x", "joined late or left"),
            ):
                clients = [i for i in range(len(run["epsilon"])) if (i in staying) is stays]
                axes.plot(
                    np.array(clients) + aside, [run["epsilon"][i] for i in clients], marker, ms=5,
                    color=colour(order.index(name)) if stays else "#8a8a8a",
                    label=label if run is runs[0] and clients else None,
                )  # fmt: skip
        spread = max(run["epsilon_spread"] for run in runs)
        axes.set_title(
            f"{name}: {100 * spread:.1f} % between clients present throughout",
            loc="left",
            fontsize=11,
        )
        axes.set_ylabel("epsilon")
        axes.set_ylim(0, 1.25 * max(value for run in runs for value in run["epsilon"]))
        axes.set_xlim(-1, len(runs[0]["epsilon"]))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper right", ncols=2, frameon=False)
    rows[-1, 0].set_xlabel("client")
    experiment = result["experiment"]
    figure.suptitle(
        f"{experiment['name']}: epsilon of each client, delta {experiment['delta']:g}",
        x=0.02, ha="left", fontweight="bold",
    )  # fmt: skip
    return figure
