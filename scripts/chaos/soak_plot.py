"""The picture of a soak: memory, descriptors and entries over time, with what happened marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from chaos.plan import Kind
from chaos.stage import Story
from chaos.verdict import MIB

# Okabe-Ito colours: told apart by everybody, also in grey.
COLOURS: Final = {"replica": "#0072B2", "clients": "#009E73", "attackers": "#D55E00"}
MARKS: Final = {
    Kind.KILL: ("#D55E00", "killed"),
    Kind.RESTART: ("#E69F00", "restarted"),
    Kind.PAUSE: ("#CC79A7", "paused"),
    Kind.PART: ("#56B4E9", "cut off"),
    Kind.BEYOND: ("#22262B", "t+1 cut off"),
    Kind.WEATHER: ("#C5C9CF", "bad links"),
}
_STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#C5C9CF",
    "figure.facecolor": "white",
}


def draw(story: Story, attackers: tuple[str, ...], title: str, path: Path) -> None:
    """Write the picture as PNG to `path`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    style: Any = _STYLE
    with rc_context(style):
        figure = Figure(figsize=(10, 8))
        memory, descriptors, entries, lanes = figure.subplots(
            4, 1, sharex=True, height_ratios=[4, 2.4, 1.6, 1.6]
        )
        for life in story.lives:
            kind = "attackers" if life.name in attackers else life.role
            minutes = [sample.seconds / 60 for sample in life.samples]
            line = {"color": COLOURS[kind], "linewidth": 1.0, "alpha": 0.75}
            memory.plot(minutes, [sample.memory / MIB for sample in life.samples], **line)
            descriptors.plot(minutes, [sample.descriptors for sample in life.samples], **line)
        for began, ended, misfortune in story.happened:
            if misfortune.kind is Kind.KILL:
                for axes in (memory, descriptors, entries):
                    axes.axvline(began / 60, color="#F3D3C2", linewidth=0.8, zorder=0)
            if misfortune.kind in MARKS:
                lane = list(MARKS).index(misfortune.kind)
                width = max(0.05, (ended - began) / 60)
                lanes.barh(lane, width, left=began / 60, color=MARKS[misfortune.kind][0], height=0.7)
        entries.plot(
            [seconds / 60 for seconds, _ in story.entries],
            [count for _, count in story.entries],
            color="#22262B",
        )
        memory.set_ylabel("MiB, not shared")
        memory.set_ylim(bottom=0)
        descriptors.set_ylabel("descriptors")
        descriptors.set_ylim(bottom=0)
        entries.set_ylabel("entries")
        lanes.set_yticks(range(len(MARKS)), [words for _, words in MARKS.values()], fontsize=8)
        lanes.invert_yaxis()
        lanes.set_xlabel("minutes", loc="right")
        present = [kind for kind in COLOURS if any(
            kind == ("attackers" if life.name in attackers else life.role) for life in story.lives
        )]  # fmt: skip
        handles: list[Any] = [Line2D([], [], color=COLOURS[kind], label=kind) for kind in present]
        handles.append(Patch(color="#F3D3C2", label="somebody was killed"))
        memory.legend(handles=handles, ncols=len(handles), frameon=False, loc="lower right", fontsize=9)
        figure.suptitle(title, x=0.1, y=0.965, ha="left", fontsize=13, fontweight="bold")
        figure.subplots_adjust(left=0.1, right=0.97, top=0.92, bottom=0.07, hspace=0.12)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
