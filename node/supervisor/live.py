"""What a person sees of a run: a live page on a terminal, or a line now and then elsewhere."""

from __future__ import annotations

import time
from math import log2
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from node.supervisor.own_accuracy import describe_own_accuracy
from node.supervisor.record import Record, Stage
from node.supervisor.report import clock, size
from node.supervisor.watch import Phase, Snapshot

LINE_SECONDS: Final = 5.0
"""Between progress lines where there is no terminal."""
REFRESH_SECONDS: Final = 0.2
RECENT: Final = 6
COLOURS: Final = {
    Phase.STARTING: "yellow", Phase.UP: "green", Phase.CATCHING_UP: "cyan", Phase.KILLED: "bold red",
    Phase.MISBEHAVING: "bold magenta",
}  # fmt: skip
_BARS: Final = "▁▂▃▄▅▆▇█"


class PlainProgress:
    """A line for everything that happens, and one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, record: Record) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            self._print(record, progress_line(record))

    def say(self, record: Record, text: str) -> None:
        self._print(record, text)

    def _print(self, record: Record, text: str) -> None:
        self._console.print(f"{clock(record.seconds):>5}  {text}", markup=False, soft_wrap=True)


class LivePage:
    """A page that is redrawn in place; the last one stays."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._said: list[str] = []
        self._last = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, record: Record) -> None:
        now = time.monotonic()
        if now - self._last >= REFRESH_SECONDS or record.stage is Stage.DONE:
            self._last = now
            self._live.update(page(record, self._said), refresh=True)

    def say(self, record: Record, text: str) -> None:
        self._said.append(f"{clock(record.seconds):>5}  {text}")
        self._live.update(page(record, self._said), refresh=True)


def progress_line(record: Record) -> str:
    """The run in one line."""
    snapshot = record.snapshot
    states = ", ".join(
        f"{replica.name} {replica.phase}" for replica in snapshot.replicas if replica.phase is not Phase.UP
    )
    parts = [
        f"{record.stage}: {_progress(record)}",
        f"{snapshot.entries} entries",
        f"{snapshot.counted} of {snapshot.sent} uploads in",
        f"{snapshot.done} of {len(snapshot.clients)} clients done",
    ]
    if record.accuracies:
        parts.append(f"accuracy {record.accuracies[-1].accuracy:.3f}")
    if states:
        parts.append(states)
    if record.waiting_for and record.stage is not Stage.TRAINING:
        parts.append(f"waiting for {record.waiting_for}")
    elif record.stage is Stage.TRAINING and snapshot.stalls:
        parts.append(snapshot.stalls[0])
    return "; ".join(parts)


def _progress(record: Record) -> str:
    """An earlier run of the deployment may have gone beyond what this one was asked for."""
    epoch, last = record.snapshot.epoch, record.epochs
    return f"epoch {epoch} of {last}" if epoch <= last else f"epoch {epoch}, beyond the {last} asked for"


def page(record: Record, said: list[str]) -> Panel:
    """The whole live page."""
    snapshot = record.snapshot
    parts: list[Table | Text] = [_headline(record), Text(), _replicas(snapshot), Text(), _figures(record)]
    if record.waiting_for and record.stage is not Stage.TRAINING:
        parts += [Text(), Text(f"waiting for {record.waiting_for}", style="yellow")]
    elif record.stage is Stage.TRAINING and snapshot.stalls:
        parts += [Text(), Text(snapshot.stalls[0], style="bold yellow")]
    if said:
        parts += [Text(), Text("\n".join(said[-RECENT:]), style="dim")]
    return Panel(
        Group(*parts),
        title=f"[bold]asyncfl[/] {escape(record.name)}",
        title_align="left",
        subtitle="Ctrl-C stops everything" if record.stage is not Stage.DONE else None,
        subtitle_align="right",
        border_style="blue" if not record.failures else "red",
        padding=(1, 2),
        width=100,
    )


def _headline(record: Record) -> Table:
    snapshot = record.snapshot
    table = Table.grid(padding=(0, 2))
    table.add_row(
        Text(record.stage.value, style="bold"),
        ProgressBar(total=record.epochs, completed=min(snapshot.epoch, record.epochs), width=40),
        Text(_progress(record), style="bold"),
        f"[bold]{snapshot.entries}[/] entries",
        clock(record.seconds),
    )
    return table


def _replicas(snapshot: Snapshot) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    # Wide enough for anything, so that the page does not move about; and 80 columns hold it all.
    for heading, width in {"replica": 9, "state": 13}.items():
        table.add_column(heading, min_width=width, no_wrap=True)
    for heading in ("entries", "epoch", "peers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("received", "sent"):
        table.add_column(heading, justify="right", min_width=8, no_wrap=True)
    for replica in snapshot.replicas:
        table.add_row(
            replica.name,
            Text(f"● {replica.phase}", style=COLOURS[replica.phase]),
            str(replica.entries),
            str(replica.epoch),
            f"{replica.peers}+{replica.clients}" if replica.answers else "–",
            size(replica.bytes_in),
            size(replica.bytes_out),
            style=None if replica.answers or replica.phase is Phase.MISBEHAVING else "dim",
        )
    return table


def _figures(record: Record) -> Table:
    snapshot = record.snapshot
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    epochs = [f"{count} at epoch {epoch}" for epoch, count in snapshot.client_epochs]
    done = [f"{snapshot.done} done"] if snapshot.done else []
    table.add_row("clients", "   ".join([*epochs, *done]) or "starting")
    waiting = max((replica.uploads_waiting for replica in snapshot.replicas if replica.answers), default=0)
    left_out = snapshot.included - snapshot.counted
    besides = f"   {left_out} left out" if left_out else ""
    table.add_row(
        "uploads",
        f"{snapshot.sent} sent   {snapshot.counted} in the model{besides}   {waiting} waiting for a group",
    )
    if snapshot.evidence:
        culprits = len({proof.culprit for proof in snapshot.evidence})
        parties = "1 party" if culprits == 1 else f"{culprits} parties"
        table.add_row("evidence", f"[red]against {parties}[/]   [dim]asyncfl evidence list[/]")
    if record.accuracies:
        values = [point.accuracy for point in record.accuracies]
        table.add_row("accuracy", f"[bold green]{values[-1]:.3f}[/]  [green]{sparkline(values)}[/]")
    else:
        table.add_row("accuracy", "[dim]–[/]")
    told = describe_own_accuracy(snapshot.own_accuracy)
    if told is not None:
        table.add_row("clients' own", told)
    for name, attacks in record.misbehaving.items():
        table.add_row(f"[magenta]{name}[/]", f"[magenta]{escape(attacks)}[/]")
    return table


def sparkline(values: list[float], width: int = 48) -> str:
    """The last `width` accuracies as little bars, one step higher with every halving of the error."""
    heights = (int(-log2(max(1 - value, 2.0**-7))) for value in values[-width:])
    return "".join(_BARS[height] for height in heights)
