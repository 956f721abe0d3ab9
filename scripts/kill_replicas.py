"""Kills t of n replicas at random moments, again and again, and starts each again later.

Training must go on all the time, and all replicas must end with the same model. With --beyond, t+1 replicas
are killed at once: training must stall, say why, and resume by itself when one of them is back.

    python scripts/kill_replicas.py --epochs 60
    python scripts/kill_replicas.py --replicas 7 --byzantine 2 --clients 28 --seed 3 --json outages.json
    python scripts/kill_replicas.py --beyond
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from node.commands.common import ExitCode, JsonFile, messages
from node.commands.supervise import watched_run, write_results
from node.commands.up import ClientProcesses
from node.deployment_creation import NewDeployment, create_deployment
from node.supervisor.demonstration import fresh_directory
from node.supervisor.outages import RandomOutages, Rates, TooManyOutages, rates


def main(
    *,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Made anew for the run.")] = Path(
        "kill-run"
    ),
    epochs: Annotated[int, typer.Option(min=6, help="Every client takes part up to this epoch.")] = 60,
    replicas: Annotated[int, typer.Option(min=4, help="n")] = 4,
    byzantine: Annotated[int, typer.Option(min=1, help="t")] = 1,
    clients: Annotated[int, typer.Option(min=4)] = 16,
    client_processes: ClientProcesses = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the moments, the victims and the training.")] = 0,
    beyond: Annotated[bool, typer.Option("--beyond", help="Kill t+1 at once; training must stall.")] = False,
    json: JsonFile = None,
) -> None:
    """Kill replicas of a localhost deployment at random, and report what that did to training."""
    fresh_directory(directory)
    files = create_deployment(
        directory, NewDeployment(replicas=replicas, byzantine=byzantine, clients=clients, seed=seed)
    )
    plan = TooManyOutages(byzantine, seed, epochs // 3) if beyond else RandomOutages(byzantine, seed)
    record = watched_run(files, epochs=epochs, client_processes=client_processes, plan=plan, baseline=False)
    found = rates(record)
    more: dict[str, Any] = {"seed": seed, "outages": [asdict(each) for each in found]}
    if isinstance(plan, TooManyOutages):
        record.failures += plan.failures()
        more |= {"stall_message": plan.said, "resumed_s": plan.resumed_s}
    elif not found:
        record.failures.append("training was over before anything was killed; give more --epochs")
    write_results(files, record, json=json, more=more)
    messages.print(table(found))
    if isinstance(plan, TooManyOutages) and plan.said is not None:
        messages.print(f"while {byzantine + 1} were down, the others said: {plan.said}", soft_wrap=True)
        if plan.resumed_s is not None:
            messages.print(f"the next entry came {plan.resumed_s:.1f} s after the first of them was started")
    if record.failures:
        raise typer.Exit(int(ExitCode.FAILED))


def table(found: list[Rates]) -> Table:
    """Entries a second before, during and after each outage."""
    shown = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", title_justify="left")
    shown.add_column("killed")
    for heading in ("at", "for", "entries/s before", "during", "after"):
        shown.add_column(heading, justify="right")
    for each in found:
        shown.add_row(
            ", ".join(each.replicas),
            f"{each.at:.1f} s",
            f"{each.seconds:.1f} s",
            *("–" if rate is None else f"{rate:.2f}" for rate in (each.before, each.during, each.after)),
        )
    return shown


if __name__ == "__main__":
    from node.cli import run_program

    run_program(main)
