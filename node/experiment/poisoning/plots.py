"""The picture of an experiment with malicious clients: each rule's measures, in the clear and under groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.experiment.palette import colour
from node.experiment.pictures import write_picture
from node.experiment.plots import STYLE
from node.experiment.poisoning.report import MEASURES
from node.experiment.poisoning.summary import Line, lines


def draw_poisoning(result: dict[str, Any], folder: Path) -> Path:
    """Write `rules.png` into `folder`. Raises `StorageError`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    every = lines(result)
    measures = [name for name in MEASURES if any(cell[name] is not None for cell in result["cells"])]
    path, style = folder / "rules.png", dict[Any, Any](STYLE)
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(
            len(measures), 1, squeeze=False, sharex=True, layout="constrained",
            figsize=(2 + 1.9 * len(every), 0.6 + 2.9 * len(measures)),
        )  # fmt: skip
        for axes, measure in zip(panels[:, 0], measures, strict=True):
            _panel(axes, every, measure, result["experiment"]["rules"])
        panels[0, 0].legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.08), frameon=False, fontsize=9)
        panels[-1, 0].set_xticks(range(len(every)), [_label(line) for line in every], fontsize=9)
        figure.suptitle(result["experiment"]["name"], x=0.02, ha="left", fontweight="bold")
        write_picture(pyplot, figure, path)
    return path


def _label(line: Line) -> str:
    attack = line.label.replace("|", "\n| ").replace("+", "\n+ ")
    seen = "in the clear" if line.group == 1 else f"groups of {line.group}"
    return f"{attack}\n{100 * line.malicious:g} %, {seen}"


def _panel(axes: Any, every: list[Line], measure: str, rules: list[str]) -> None:
    """Bars of the mean, with the seeds as points."""
    width = 0.85 / len(rules)
    for index, rule in enumerate(rules):
        for place, line in enumerate(every):
            at = place - 0.425 + (index + 0.5) * width
            found = line.of(rule, measure) if rule in line.rules else None
            if found is None:
                continue
            axes.bar(
                at, 100 * found.mean, 0.9 * width, color=colour(index), label=rule if place == 0 else None
            )
            seeds = [100 * cell[measure] for cell in line.rules[rule]]
            axes.plot([at] * len(seeds), seeds, ".", color="black", ms=3)
    axes.set_title(f"{MEASURES[measure]}, %", loc="left", fontsize=11)
    axes.set_ylim(0, 102)
    axes.grid(axis="x", visible=False)
