"""What a soak shows while it runs, and when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chaos.stage import Stage
from chaos.verdict import MIB, Growth

LAST_EVENTS = 6


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class SoakView:
    """A page that is redrawn in a terminal; elsewhere a line for each event."""

    def __init__(self, console: Console, stage: Stage, seconds: float) -> None:
        self._console = console
        self._stage = stage
        self._seconds = seconds
        self._told = 0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> SoakView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Draw what there is now."""
        if self._live is not None:
            self._live.update(self._page(), refresh=True)
            return
        for seconds, text in self._stage.story.events[self._told :]:
            self._console.print(f"{clock(seconds):>6}  {text}", highlight=False, soft_wrap=True)
        self._told = len(self._stage.story.events)

    def _page(self) -> RenderableType:
        story = self._stage.story
        entries = story.entries[-1][1] if story.entries else 0
        head = Table.grid(expand=True, padding=(0, 2, 0, 0))
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        head.add_row(
            Text(f"{clock(story.seconds)} of {clock(self._seconds)}", style="bold"),
            ProgressBar(total=self._seconds, completed=min(self._seconds, story.seconds)),
            f"{entries} entries",
        )
        events = Table.grid(padding=(0, 2, 0, 0))
        events.add_column(justify="right", style="dim")
        events.add_column(no_wrap=True, overflow="ellipsis")
        for seconds, text in story.events[-LAST_EVENTS:]:
            events.add_row(clock(seconds), text)
        return Group("", head, "", self._processes(), "", events)

    def _processes(self) -> Table:
        shown = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        shown.add_column("process", no_wrap=True)
        shown.add_column("", no_wrap=True)
        for heading in ("up for", "MiB", "descriptors", "threads"):
            shown.add_column(heading, justify="right", no_wrap=True)
        cast = self._stage.cast
        for name, child in self._stage.deployment.children.items():
            life = next((life for life in reversed(self._stage.story.lives) if life.name == name), None)
            attacks = name in cast.liars + cast.malicious
            if life is None or not life.samples or not child.running or not self._stage.is_up(name):
                shown.add_row(name, Text("down" if not child.running else "paused", style="yellow"))
                continue
            last = life.samples[-1]
            shown.add_row(
                name,
                Text("attacks", style="red") if attacks else Text("up", style="green"),
                clock(last.seconds - life.samples[0].seconds),
                f"{last.memory / MIB:.0f}",
                str(last.descriptors),
                str(last.threads),
            )
        return shown


def growth_table(growths: Sequence[Growth]) -> Table:
    """The lives that were long enough to judge, and how many were not."""
    shown = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    shown.add_column("process", no_wrap=True)
    for heading in ("life", "MiB", "MiB/hour", "allowed", "descriptors", "threads"):
        shown.add_column(heading, justify="right", no_wrap=True)
    short = [growth for growth in growths if growth.mib_per_hour is None]
    for growth in growths:
        if growth.mib_per_hour is None or growth.allowed_mib_per_hour is None:
            continue
        shown.add_row(
            growth.name,
            clock(growth.seconds),
            f"{growth.memory_mib:.0f}",
            Text(f"{growth.mib_per_hour:+.1f}", style="red" if growth.failures else "green"),
            f"{growth.allowed_mib_per_hour:.0f}",
            f"{growth.descriptors[0]} → {growth.descriptors[1]}",
            f"{growth.threads[0]} → {growth.threads[1]}",
        )
    if short:
        most = max(growth.most_descriptors for growth in short)
        shown.add_row(
            Text(f"{len(short)} shorter lives", style="dim"),
            clock(median(growth.seconds for growth in short)),
            f"{max(growth.memory_mib for growth in short):.0f}",
            "",
            "",
            f"≤ {most}",
        )
    return shown
