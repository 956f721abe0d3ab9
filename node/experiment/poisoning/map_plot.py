"""The map: group size against the fraction of malicious clients, accuracy of each rule and epochs to separation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.experiment.pictures import write_picture
from node.experiment.plots import STYLE
from node.experiment.poisoning.configuration import NOBODY
from node.experiment.poisoning.summary import estimate

_COORDINATES = ("attack", "malicious", "group", "rule", "noise_multiplier")


def is_map(result: dict[str, Any]) -> bool:
    """Whether there are enough group sizes and fractions for one, and one noise."""
    experiment = result["experiment"]
    noises, fractions = experiment["noise_multiplier"], experiment["malicious"]
    return len(experiment["groups"]) > 2 and len(fractions) > 1 and len(noises) == 1


def draw_map(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write `map-ATTACK.png` into `folder` for every attack. Raises `StorageError`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    paths, style = [], dict[Any, Any](STYLE)
    attacks = dict.fromkeys(cell["attack"] for cell in result["cells"] if cell["attack"] != NOBODY)
    for number, attack in enumerate(attacks):
        path = folder / f"map-{number}.png"
        with pyplot.rc_context(style):
            figure = _figure(pyplot, result, attack)
            write_picture(pyplot, figure, path, 110)
        paths.append(path)
    return paths


def _figure(pyplot: Any, result: dict[str, Any], attack: str) -> Any:
    experiment = result["experiment"]
    rules = experiment["rules"]
    columns = min(3, len(rules) + 2)
    rows = -(-(len(rules) + 2) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, squeeze=False, layout="constrained", figsize=(4 * columns, 0.6 + 3 * rows)
    )
    panels = iter(axes.flat)
    clean = field(result, attack, rules[0], lambda cell: 100 * cell["clean_probability"])
    _panel(next(panels), experiment, clean, "clean groups, %", ("Greens", 0, 100))
    for rule in rules:
        found = field(result, attack, rule, lambda cell: 100 * cell["accuracy"])
        _panel(next(panels), experiment, found, f"{rule}: accuracy, %", ("Blues", 0, 100))
    parted = field(result, attack, rules[0], lambda cell: 100 * cell["attribution"]["separation"])
    _panel(next(panels), experiment, parted, "pairs in the right order, %", ("Oranges", 50, 100))
    for left in panels:
        left.axis("off")
    figure.suptitle(f"{experiment['name']}: {attack}", x=0.02, ha="left", fontweight="bold")
    return figure


def field(result: dict[str, Any], attack: str, rule: str, measure: Any) -> NDArray[np.float64]:
    """[fractions, sizes]: the mean over the seeds of `measure(cell)`; NaN where there is none."""
    experiment = result["experiment"]
    shape = (len(experiment["malicious"]), len(experiment["groups"]))
    values = np.full(shape, np.nan)
    for row, malicious in enumerate(experiment["malicious"]):
        for column, group in enumerate(experiment["groups"]):
            wanted = (attack, malicious, group, rule, experiment["noise_multiplier"][0])
            cells = [
                cell for cell in result["cells"]
                if tuple(cell[key] for key in _COORDINATES) == wanted
            ]  # fmt: skip
            found = estimate(measure(cell) for cell in cells)
            if found is not None:
                values[row, column] = found.mean
    return values


def _panel(
    axes: Any, experiment: dict[str, Any], values: NDArray[np.float64], title: str, style: tuple[str, float, float]
) -> None:  # fmt: skip
    """`style`: colour map, least and largest value."""
    colours, least, most = style
    axes.imshow(values, cmap=colours, vmin=least, vmax=most, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > least + 0.75 * (most - least) else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(experiment["groups"])), experiment["groups"])
    axes.set_yticks(
        range(len(experiment["malicious"])), [f"{100 * each:g} %" for each in experiment["malicious"]]
    )
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("group size")
    axes.grid(visible=False)
