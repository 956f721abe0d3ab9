"""`asyncfl privacy`: what each client's uploads have cost in privacy."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from asyncfl.errors import StorageError, UnsupportedEvent
from node.commands.common import Directory, ExitCode, JsonFlag, output, write_json
from node.deployment_files import DeploymentDirectory


def privacy(
    *,
    directory: Directory,
    delta: Annotated[
        float | None,
        typer.Option(help="Probability outside the guarantee.", show_default="the deployment's, or 1e-5"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="EPSILON", help="Tell what is left of this much epsilon.", show_default="the deployment's"
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show the epsilon that every client of DIR has spent, from its own record of uploads.

    Only clients that keep their state on this machine are known here; they may run meanwhile. Nothing is
    changed. Fails (exit code 1) when a record holds something that cannot be interpreted, 3 when one cannot
    be read.

    [bold]Examples[/]

    asyncfl privacy run

    asyncfl privacy run --delta 1e-6 --budget 8 --json
    """
    from asyncfl.privacy.accountant import check_delta
    from asyncfl.privacy.calibration import Budget

    files = DeploymentDirectory.load(directory)
    deployment = files.deployment
    if delta is None:
        delta = deployment.privacy.delta if deployment.privacy is not None else 1e-5
    check_delta(delta)
    if budget is None and deployment.privacy is not None:
        budget = deployment.privacy.epsilon
    allowed = None if budget is None else Budget(budget, delta)
    clients = {
        entry.name: _described(files, entry.name, entry.key, delta, allowed) for entry in deployment.clients
    }
    facts: dict[str, Any] = {
        "deployment": deployment.digest.hex(),
        "noise_multiplier": deployment.parameters.noise_multiplier,
        "min_group": deployment.parameters.min_group,
        "delta": delta,
        "budget": budget,
        "clients": clients,
    }
    if json:
        write_json(facts, Path("-"))
    else:
        _show(facts)
    problems = [said["kind"] for said in clients.values() if said["problem"]]
    if problems:
        raise typer.Exit(int(ExitCode.STORAGE if "storage" in problems else ExitCode.FAILED))


def _described(
    files: DeploymentDirectory, name: str, key: bytes, delta: float, budget: Any
) -> dict[str, Any]:
    """One client: uploads and epsilon, null where there is none to tell; `problem` says why, if so."""
    from asyncfl.privacy.ledger import PrivacyLedger
    from node.privacy_events import read_events

    deployment = files.deployment
    said: dict[str, Any] = {"known": False, "uploads": None, "epsilon": None, "private": None}
    said |= {"epsilon_left": None, "uploads_left": None, "problem": None, "kind": None}
    state = files.state(name) / "state.sqlite"
    if not state.exists():
        return said
    try:
        rows = read_events(state, deployment.digest + key)
        dimension = deployment.model.weights + deployment.model.buffers
        ledger = PrivacyLedger.read(rows, deployment.parameters, dimension)
    except UnsupportedEvent as error:
        return {**said, "known": True, "problem": str(error), "kind": "event"}
    except StorageError as error:
        return {**said, "known": True, "problem": str(error), "kind": "storage"}
    spent = ledger.spent(delta)
    said |= {"known": True, "uploads": ledger.uploads, "private": isfinite(spent)}
    # JSON has no infinity: without noise epsilon is null and `private` false.
    said["epsilon"] = spent if isfinite(spent) else None
    if budget is not None:
        said |= {"epsilon_left": ledger.left(budget), "uploads_left": ledger.uploads_left(budget)}
    return said


def _show(facts: dict[str, Any]) -> None:
    multiplier = facts["noise_multiplier"]
    if multiplier == 0:
        output.print(
            "[yellow]no differential privacy:[/] noise_multiplier is 0 in this deployment, so that uploads are "
            "masked in sums but no epsilon holds (asyncfl plan tells what a budget needs)",
            soft_wrap=True,
        )
    else:
        output.print(
            f"noise multiplier {multiplier:g}, groups of at least {facts['min_group']}; epsilon at delta "
            f"{facts['delta']:g}, per client, for all of its uploads (user level, zero-out adjacency)",
            soft_wrap=not output.is_terminal,
        )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("client", no_wrap=True)
    for heading in ("uploads", "epsilon", "left", "uploads left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for name, said in facts["clients"].items():
        note = said["problem"] or ("" if said["known"] else "never run here")
        table.add_row(
            name,
            _number(said["uploads"]),
            "unbounded" if said["private"] is False else _number(said["epsilon"]),
            _number(said["epsilon_left"]),
            _number(said["uploads_left"]),
            f"[red]{escape(note)}[/]" if said["problem"] else f"[dim]{escape(note)}[/]",
        )
    output.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
