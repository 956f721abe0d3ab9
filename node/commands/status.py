"""`asyncfl status`: what the nodes of a deployment say about themselves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from node.commands.common import Directory, JsonFlag, output, write_json
from node.deployment_files import DeploymentDirectory
from node.supervisor.report import size
from node.supervisor.watch import read_status

FRESH_SECONDS: Final = 5.0
"""A running node writes its status twice a second."""


def status(*, directory: Directory, json: JsonFlag = False) -> None:
    """Show every replica and client of DIR that keeps its state on this machine.

    [bold]Examples[/]

    asyncfl status run

    asyncfl status run --json
    """
    files = DeploymentDirectory.load(directory)
    deployment = files.deployment
    facts: dict[str, Any] = {
        "deployment": deployment.digest.hex(),
        "replicas": {entry.name: _described(files, entry.name) for entry in deployment.replicas},
        "clients": {entry.name: _described(files, entry.name) for entry in deployment.clients},
    }
    if json:
        write_json(facts, Path("-"))
        return
    output.print(f"[bold]{escape(deployment.name)}[/], deployment {deployment.digest.hex()[:16]}")
    output.print(_replicas(facts["replicas"]))
    output.print(_clients(facts["clients"]))
    stalls = (each.get("stall") for each in facts["replicas"].values() if each["running"])
    for stall in dict.fromkeys(sentence for sentence in stalls if sentence):
        output.print(f"[yellow]{escape(stall)}[/]", soft_wrap=True)


def _described(files: DeploymentDirectory, name: str) -> dict[str, Any]:
    said = read_status(files, name)
    if not said:
        return {"running": False, "state": "never run here"}
    running = _lives(said.get("pid")) and time.time() - said.get("time", 0) < FRESH_SECONDS
    return {**said, "running": running, "state": said.get("state") if running else "not running"}


def _lives(pid: Any) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replicas(facts: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("replica", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("entries", "epoch", "version", "peers", "received", "sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, said in facts.items():
        table.add_row(
            name,
            _state(said),
            str(said.get("entries", "–")),
            str(said.get("epoch", "–")),
            said.get("version", "–")[:8],
            f"{said['connected']}+{said['connected_clients']}" if said["running"] else "–",
            size(said["bytes_in"]) if "bytes_in" in said else "–",
            size(said["bytes_out"]) if "bytes_out" in said else "–",
        )
    return table


def _clients(facts: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("client", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("epoch", "uploads"):
        table.add_column(heading, justify="right")
    table.add_column("waits for")
    for name, said in facts.items():
        waiting = said.get("waiting_for") if said["running"] else None
        table.add_row(
            name, _state(said), str(said.get("epoch", "–")), str(said.get("sent", "–")), escape(waiting or "")
        )
    return table


def _state(said: dict[str, Any]) -> str:
    colour = "green" if said["running"] else "dim"
    return f"[{colour}]{str(said['state']).replace('_', ' ')}[/]"
