"""The picture of a run: accuracy over time, the ledger's growth, and what each replica was doing."""

from __future__ import annotations

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
GREY: Final = "#7A8088"
INK: Final = "#22262B"
PHASE_COLOURS: Final = {
    Phase.STARTING: ORANGE,
    Phase.UP: GREEN,
    Phase.CATCHING_UP: SKY,
    Phase.KILLED: "#F3D3C2",
    Phase.MISBEHAVING: "#CC79A7",
}
TICKS: Final = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
LEAST_ERROR: Final = 0.004
"""Error shown as none at all on the accuracy axis, whose steps are halvings of the error."""
_STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#C5C9CF",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
}


def draw(record: Record, path: Path) -> None:
    """Write the picture as PNG to `path`. Raises `StorageError`."""
    # Not pyplot: its backend is process-wide, and belongs to the notebook that this may run in.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = _STYLE
    with rc_context(style):
        lanes = len(record.phases)
        ratios = [5, 1.8, 0.32 * lanes + 0.2]
        figure = Figure(figsize=(10, 5.8 + 0.28 * lanes))
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=ratios)
        _accuracy(top, record)
        _entries(middle, record)
        _lanes(bottom, record)
        _outages((top, middle, bottom), record)
        bottom.set_xlim(_ready(record), max(_ready(record) + 1.0, record.seconds))
        bottom.set_xlabel("seconds since the start", loc="right")
        figure.suptitle(_title(record), x=0.1, y=0.965, ha="left", fontsize=14, fontweight="bold")
        figure.subplots_adjust(left=0.1, right=0.97, top=0.9, bottom=0.1, hspace=0.14)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise StorageError(f"{path}: cannot write the picture: {error.strerror}") from None


def _title(record: Record) -> str:
    killed = record.replicas_with(Action.KILL)
    if not killed:
        return f"{record.name}: accuracy over time"
    return f"{record.name}: accuracy over time, with {' and '.join(killed)} killed"


def _ready(record: Record) -> float:
    """A second before the first replica was up: what is before that is only the start of the processes."""
    ups = [seconds for changes in record.phases.values() for seconds, phase in changes if phase is Phase.UP]
    return max(0.0, min(ups, default=0.0) - 1.0)


def _accuracy(axes: Axes, record: Record) -> None:
    from numpy import clip, exp2, log2

    points = record.accuracies
    values = [point.accuracy for point in points]
    known = [*values, *([record.baseline] if record.baseline is not None else [])]
    axes.set_yscale(
        "function",
        functions=(
            lambda accuracy: -log2(clip(1 - accuracy, LEAST_ERROR, None)),
            lambda height: 1 - exp2(-height),
        ),
    )
    top = max([0.98, *(min(1.0, value + (1 - value) / 3) for value in known)])
    axes.set_ylim(0.0, top)
    axes.set_yticks([tick for tick in TICKS if tick <= top], minor=False)
    axes.set_yticklabels([f"{tick:g}" for tick in TICKS if tick <= top])
    axes.minorticks_off()
    axes.set_ylabel("accuracy on held-out data\n(equal steps halve the error)")
    axes.grid(axis="y", color="#E6E8EB", linewidth=0.8)
    if record.baseline is not None:
        axes.axhline(record.baseline, color=GREY, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.annotate(
            f"FedAvg in one process, as many updates: {record.baseline:.3f}",
            (0.008, record.baseline),
            xycoords=("axes fraction", "data"),
            xytext=(0, 5),
            textcoords="offset points",
            color=GREY,
            fontsize=9,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    if points:
        times = [point.seconds for point in points]
        axes.plot(times, values, color=BLUE, linewidth=1.8, marker="o", markersize=3.5, clip_on=False)
        axes.annotate(
            f"{values[-1]:.3f}",
            (times[-1], values[-1]),
            xytext=(-2, -18),
            textcoords="offset points",
            color=BLUE,
            fontweight="bold",
            ha="right",
        )


def _entries(axes: Axes, record: Record) -> None:
    times = [seconds for seconds, _ in record.entries]
    counts = [count for _, count in record.entries]
    axes.set_ylabel("ledger\nentries")
    axes.grid(axis="y", color="#E6E8EB", linewidth=0.8)
    if times:
        times, counts = [*times, record.seconds], [*counts, counts[-1]]
        axes.fill_between(times, counts, step="post", color=BLUE, alpha=0.14, linewidth=0)
        axes.step(times, counts, where="post", color=BLUE, linewidth=1.4)
    axes.set_ylim(bottom=0)


def _lanes(axes: Axes, record: Record) -> None:
    names = list(record.phases)
    for lane, name in enumerate(names):
        changes = record.phases[name]
        ends = [start for start, _ in changes[1:]] + [record.seconds]
        for (start, phase), stop in zip(changes, ends, strict=True):
            axes.barh(lane, stop - start, left=start, height=0.62, color=PHASE_COLOURS[phase], linewidth=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    seen = {phase for changes in record.phases.values() for _, phase in changes}
    shown = [phase for phase in PHASE_COLOURS if phase in seen]
    handles = [axes.barh(0, 0, color=PHASE_COLOURS[phase], label=str(phase)) for phase in shown]
    if handles:
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=axes.transAxes,
            borderaxespad=2.6,
            ncols=len(handles),
            frameon=False,
            fontsize=9,
            handlelength=1.2,
            columnspacing=1.4,
        )


def _outages(panels: tuple[Axes, ...], record: Record) -> None:
    """Mark every kill and restart; a label that would run into the next one goes a line up."""
    line = 0
    span = max(1.0, record.seconds - _ready(record))
    for index, event in enumerate(record.events):
        killed = event.action is Action.KILL
        colour = RED if killed else GREEN
        for axes in panels:
            axes.axvline(event.seconds, color=colour, linewidth=1.3, linestyle="-" if killed else (0, (4, 2)))
        close = index > 0 and event.seconds - record.events[index - 1].seconds < 0.17 * span
        line = (line + 1) % 4 if close else 0
        panels[0].annotate(
            f"{event.replica} {'killed' if killed else 'restarted'}",
            (event.seconds, 0.03 + 0.05 * line),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
        )
