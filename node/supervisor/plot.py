"""The picture of a run: accuracy over time, the ledger's growth, and what each replica was doing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asyncfl.errors import StorageError
from node.supervisor.plan import Action
from node.supervisor.record import Record
from node.supervisor.watch import Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe-Ito colours: told apart by everybody, also in grey.
BLUE: Final = "#0072B2"
GREEN: Final = "#009E73"
RED: Final = "#D55E00"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#8A8F98"
INK: Final = "#22262B"
PHASE_COLOURS: Final = {
    Phase.STARTING: ORANGE, Phase.UP: GREEN, Phase.CATCHING_UP: SKY, Phase.KILLED: "#F3D3C2", Phase.ENDED: RED,
}  # fmt: skip


def draw(record: Record, path: Path) -> None:
    """Write the picture as PNG to `path`. Raises `StorageError`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style: Any = {
        "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": "#C5C9CF",
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
        "axes.spines.right": False, "figure.facecolor": "white", "axes.axisbelow": True,
    }  # fmt: skip
    with pyplot.rc_context(style):
        lanes = len(record.phases)
        figure, (top, middle, bottom) = pyplot.subplots(
            3, 1, sharex=True, figsize=(10, 5.6 + 0.28 * lanes),
            gridspec_kw={"height_ratios": [5, 1.8, 0.32 * lanes + 0.2], "hspace": 0.14},
        )  # fmt: skip
        try:
            _accuracy(top, record)
            _entries(middle, record)
            _lanes(bottom, record)
            _outages((top, middle, bottom), record)
            bottom.set_xlabel("seconds since the start")
            bottom.set_xlim(0, max(1.0, record.seconds))
            figure.suptitle(_title(record), x=0.065, y=0.965, ha="left", fontsize=14, fontweight="bold")
            figure.subplots_adjust(left=0.1, right=0.97, top=0.89, bottom=0.09)
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise StorageError(f"{path}: cannot write the picture: {error.strerror}") from None
        finally:
            pyplot.close(figure)


def _title(record: Record) -> str:
    killed = record.replicas_with(Action.KILL)
    if not killed:
        return f"{record.name}: accuracy over time"
    return f"{record.name}: accuracy over time, while {' and '.join(killed)} {'is' if len(killed) == 1 else 'are'} killed"


def _accuracy(axes: Axes, record: Record) -> None:
    points = record.accuracies
    values = [point.accuracy for point in points]
    axes.set_ylabel("accuracy, held-out data")
    axes.grid(axis="y", color="#E6E8EB", linewidth=0.8)
    if record.baseline is not None:
        axes.axhline(record.baseline, color=GREY, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.annotate(
            f"FedAvg in one process, same number of updates: {record.baseline:.3f}", (0.01, record.baseline),
            xycoords=("axes fraction", "data"), xytext=(0, 5), textcoords="offset points", color=GREY, fontsize=9,
        )  # fmt: skip
    if points:
        axes.plot(
            [point.seconds for point in points], values, color=BLUE, linewidth=2, marker="o", markersize=3.5,
            solid_capstyle="round",
        )  # fmt: skip
        axes.annotate(
            f"{values[-1]:.3f}", (points[-1].seconds, values[-1]), xytext=(-4, -16), textcoords="offset points",
            color=BLUE, fontweight="bold", ha="right",
        )  # fmt: skip
    axes.set_ylim(max(0.0, min(values, default=0.0) - 0.05), 1.02)


def _entries(axes: Axes, record: Record) -> None:
    times = [seconds for seconds, _ in record.entries]
    counts = [count for _, count in record.entries]
    axes.set_ylabel("entries")
    axes.grid(axis="y", color="#E6E8EB", linewidth=0.8)
    if times:
        times, counts = [*times, record.seconds], [*counts, counts[-1]]
        axes.fill_between(times, counts, step="post", color=BLUE, alpha=0.14, linewidth=0)
        axes.step(times, counts, where="post", color=BLUE, linewidth=1.4)
    axes.set_ylim(bottom=0)


def _lanes(axes: Axes, record: Record) -> None:
    names = list(record.phases)
    for lane, name in enumerate(names):
        changes = [*record.phases[name], (record.seconds, Phase.ENDED)]
        for (start, phase), (stop, _) in pairwise(changes):
            axes.barh(
                lane, stop - start, left=start, height=0.62, color=PHASE_COLOURS[phase], linewidth=0,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    seen = {phase for changes in record.phases.values() for _, phase in changes}
    handles = [
        axes.barh(0, 0, color=colour, label=phase) for phase, colour in PHASE_COLOURS.items() if phase in seen
    ]
    if handles:
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0, -0.34), ncols=len(handles), frameon=False,
            fontsize=9, handlelength=1.2, handleheight=0.9, borderaxespad=0, columnspacing=1.4,
        )  # fmt: skip


def _outages(panels: tuple[Axes, ...], record: Record) -> None:
    """Shade the time in which a replica was down, and mark kill and restart."""
    for event in record.events:
        killed = event.action is Action.KILL
        colour = RED if killed else GREEN
        for axes in panels:
            axes.axvline(event.seconds, color=colour, linewidth=1.3, linestyle="-" if killed else (0, (4, 2)))
        panels[0].annotate(
            f"{event.replica} {'killed' if killed else 'restarted'}", (event.seconds, 0.03),
            xycoords=("data", "axes fraction"), xytext=(5, 0), textcoords="offset points", color=colour, fontsize=9,
        )  # fmt: skip
