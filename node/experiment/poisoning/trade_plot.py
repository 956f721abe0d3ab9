"""What group size trades: accuracy of each rule, with and without attackers, at several levels of noise.

The noise of a group's sum is the same for every size, and so is the privacy of its members; small groups have more of
these sums, and more noise in the model.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Final

from asyncfl.privacy.accountant import approximate_epsilon
from node.experiment.palette import colour
from node.experiment.pictures import write_picture
from node.experiment.plots import STYLE
from node.experiment.poisoning.configuration import NOBODY
from node.experiment.poisoning.summary import Line, lines

DELTA: Final = 1e-5


def is_trade(result: dict[str, Any]) -> bool:
    """Whether there are enough group sizes and levels of noise."""
    experiment = result["experiment"]
    return len(experiment["groups"]) > 2 and len(experiment["noise_multiplier"]) > 1


def draw_trade(result: dict[str, Any], folder: Path) -> Path:
    """Write `trade.png` into `folder`: a panel for each rule. Raises `StorageError`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    experiment, every = result["experiment"], lines(result)
    rules, groups = experiment["rules"], experiment["groups"]
    path, style = folder / "trade.png", dict[Any, Any](STYLE)
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(
            1, len(rules), squeeze=False, sharey=True, layout="constrained", figsize=(1.5 + 3.6 * len(rules), 4.6)
        )  # fmt: skip
        for axes, rule in zip(panels[0], rules, strict=True):
            _panel(axes, every, rule, experiment)
            axes.set_title(rule, loc="left", fontsize=11)
            axes.set_xscale("log", base=2)
            axes.set_xticks(groups, [str(group) for group in groups])
            axes.set_xlabel("group size (1: each update is seen)")
        panels[0, 0].set_ylabel("accuracy, %")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=2, loc="outside lower left", frameon=False, fontsize=9)
        figure.suptitle(
            f"{experiment['name']}: privacy, group size, robustness", x=0.02, ha="left", fontweight="bold"
        )
        write_picture(pyplot, figure, path)
    return path


def _panel(axes: Any, every: list[Line], rule: str, experiment: dict[str, Any]) -> None:
    threats = list(dict.fromkeys((line.attack, line.malicious) for line in every))
    for (index, noise), (attack, malicious) in product(enumerate(experiment["noise_multiplier"]), threats):
        shown = [
            (line.group, estimate)
            for line in every
            if (line.attack, line.malicious, line.noise) == (attack, malicious, noise) and rule in line.rules
            and (estimate := line.of(rule, "accuracy")) is not None
        ]  # fmt: skip
        axes.errorbar(
            [group for group, _ in shown],
            [100 * estimate.mean for _, estimate in shown],
            [100 * (estimate.spread or 0.0) for _, estimate in shown],
            color=colour(index), capsize=2, marker="o", ms=4, ls="-" if attack == NOBODY else "--",
            label=f"{_privacy(noise, experiment['epochs'])}; {_threat(attack, malicious)}",
        )  # fmt: skip


def _privacy(noise: float, epochs: int) -> str:
    if not noise:
        return "no noise: epsilon unbounded"
    return f"noise {noise:g}: epsilon {approximate_epsilon(noise, epochs, DELTA):.0f}"


def _threat(attack: str, malicious: float) -> str:
    return "nobody malicious" if attack == NOBODY else f"{attack}, {100 * malicious:g} % malicious"
