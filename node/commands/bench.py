"""`asyncfl bench`: what protecting, opening and sending an update costs on this machine."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from node.commands.common import JsonFile, messages, output, write_json


def bench(
    *,
    dim: Annotated[int, typer.Option(min=1, help="Coordinates of the model.")] = 1 << 20,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each stage; the median counts.")] = 21,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    json: JsonFile = None,
) -> None:
    """Measure protecting (by stage, without and with noise), opening, sizes, and throughput of one replica.

    [bold]Examples[/]

    asyncfl bench

    asyncfl bench --dim 1048576 --json -
    """
    from node.bench_protect import bench_protect
    from node.bench_transport import bench_transport
    from node.logs import configure

    # Connections come and go while this measures; nobody wants to read that.
    configure(level="warning")
    messages.print("masking …")
    figures: dict[str, Any] = {"dim": dim, "threads": threads, **bench_protect(dim, repeat, threads)}
    messages.print("transport …")
    figures["transport"] = asyncio.run(bench_transport(dim))
    if json is not None:
        write_json(figures, json)
        if str(json) == "-":
            return
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in _flat(figures):
        table.add_row(escape(name), f"{value:,.2f}" if isinstance(value, float) else escape(f"{value}"))
    output.print(table)


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in figures.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows
