"""`asyncfl status`: what the nodes of a deployment say about themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from asyncfl.privacy.collusion import Collusion
from node.commands.common import Directory, JsonFlag, output, write_json
from node.commands.exclusion_page import describe_parts
from node.deployment_files import DeploymentDirectory
from node.exclusion_report import find_unsent_by_status
from node.supervisor.own_accuracy import describe_own_accuracy
from node.supervisor.report import size
from node.supervisor.watch import read_status, why_no_status

FRESH_SECONDS: Final = 5.0
"""A running node writes its status twice a second."""

MOST_OF_A_NAME: Final = 32
"""Characters of a line: longer names fold."""


def status(*, directory: Directory, json: JsonFlag = False) -> None:
    """Show every replica and client of DIR that keeps its state on this machine.

    [bold]Examples[/]

    asyncfl status run

    asyncfl status run --json
    """
    files = DeploymentDirectory.load(directory)
    deployment = files.deployment
    collusion = Collusion.of(deployment.parameters, len(deployment.all_rosters[-1].members), None)
    facts: dict[str, Any] = {
        "deployment": deployment.digest.hex(),
        "collusion": asdict(collusion),
        "rosters": [
            {"number": roster.number, "start_epoch": roster.start_epoch, "members": len(roster.members)}
            for roster in deployment.all_rosters
        ],
        "replicas": {entry.name: _described(files, entry.name) for entry in deployment.replicas},
        "clients": {
            entry.name: {
                **_described(files, entry.name),
                "takes_part": [list(span) for span in deployment.takes_part(entry.name)],
            }
            for entry in deployment.clients
        },
    }
    if json:
        write_json(facts, Path("-"))
        return
    output.print(f"[bold]{escape(deployment.name)}[/], deployment {deployment.digest.hex()[:16]}")
    if deployment.rosters:
        output.print(_rosters(facts))
    output.print(_replicas(facts["replicas"]))
    output.print(_clients(facts["clients"], several=bool(deployment.rosters)))
    furthest = max(facts["replicas"].values(), key=lambda said: said.get("entries", 0))
    for line in _exclusion(files, facts["replicas"]):
        output.print(line, soft_wrap=True)
    told = describe_own_accuracy(furthest.get("accuracy") or {})
    if told is not None:
        output.print(f"accuracy {told}", soft_wrap=True)
    if deployment.allow_misbehaviour:
        output.print(_drill(facts), soft_wrap=True)
    output.print(collusion.sentence(), soft_wrap=True, highlight=False, style="dim")
    proven = _proven(files, facts)
    if proven:
        output.print(
            f"[red]proven liars:[/] {escape(', '.join(proven))}   "
            f"[dim]asyncfl evidence list {escape(files.quoted)}[/]",
            soft_wrap=True,
        )
    if furthest.get("finished"):
        output.print(f"[green]training is over:[/] {escape(furthest['finished'])}", soft_wrap=True)
    stalls = (each.get("stall") for each in facts["replicas"].values() if each["running"])
    for stall in dict.fromkeys(sentence for sentence in stalls if sentence):
        output.print(f"[yellow]{escape(stall)}[/]", soft_wrap=True)
    gone = _silent(files, facts["replicas"])
    if gone:
        output.print(
            f"  silent at every replica: [bold]asyncfl retire {escape(files.quoted)} {escape(' '.join(gone))}[/]",
            soft_wrap=True,
        )


def _exclusion(files: DeploymentDirectory, replicas: dict[str, dict[str, Any]]) -> list[str]:
    """What is left out, and how much counts, as the replica tells that is furthest; what none of them has."""
    lines = []
    told = [said for said in replicas.values() if not said.get("misbehaving") and "exclusion" in said]
    furthest = max(told, key=lambda said: (said["exclusion"], said.get("entries", 0)), default={})
    if (number := furthest.get("exclusion", 0)) and "left_out" in furthest:
        names = {key.hex(): name for key, name in files.deployment.names.items()}
        out, counted = furthest["left_out"], furthest["counted"]["uploads"]
        clients = sorted(names.get(key, key) for key in out["clients"])
        what = describe_parts(out["entries"], clients, out["spans"]) or "nothing"
        have = sum(said["exclusion"] >= number for said in told)
        known = "in force" if have == len(told) else f"known to {have} of {len(told)} replicas here"
        uploads = sum(furthest["inclusion"].values())
        lines.append(f"exclusion {number} {known}: {what} left out; {counted} of {uploads} uploads count")
    if (unsent := find_unsent_by_status(files)) is not None:
        lines.append(f"[yellow]{escape(unsent)}[/]")
    return lines


def _proven(files: DeploymentDirectory, facts: dict[str, Any]) -> list[str]:
    """Against whom the nodes here hold evidence."""
    names = {key.hex(): name for key, name in files.deployment.names.items()}
    nodes = (*facts["replicas"].values(), *facts["clients"].values())
    culprits = {
        piece["culprit"]
        for said in nodes
        if not said.get("misbehaving")
        for piece in said.get("evidence") or ()
    }
    return sorted(names.get(culprit, culprit[:12]) for culprit in culprits)


def _described(files: DeploymentDirectory, name: str) -> dict[str, Any]:
    said = read_status(files, name)
    if not said:
        return {"running": False, "state": why_no_status(files, name)}
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


def _silent(files: DeploymentDirectory, replicas: dict[str, dict[str, Any]]) -> list[str]:
    """The clients whose retirement would help: silent at every running replica that says that too few are live.

    None where those left could not fill a cell either.
    """
    deployment = files.deployment
    said = [set(each.get("silent", ())) for each in replicas.values() if each["running"]]
    asked = any(
        "asyncfl retire" in (each.get("stall") or "") for each in replicas.values() if each["running"]
    )
    if not said or not asked:
        return []
    everywhere = set.intersection(*said)
    gone = [name for name in deployment.members if deployment.client(name).key.hex() in everywhere]
    return gone if len(deployment.members) - len(gone) >= deployment.parameters.cell_size else []


def _nodes(heading: str, names: Iterable[str]) -> Table:
    """A table whose first column shows names whole, however narrow the terminal is; states fold before they do."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    longest = max(map(len, names))
    table.add_column(
        heading,
        overflow="fold",
        no_wrap=longest <= MOST_OF_A_NAME,
        min_width=min(longest, MOST_OF_A_NAME),
    )
    table.add_column("state", min_width=len("unreadable"))
    return table


def _replicas(facts: dict[str, dict[str, Any]]) -> Table:
    table = _nodes("replica", facts)
    for heading in ("entries", "epoch", "version", "peers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("in", "out"):
        table.add_column(heading, justify="right", min_width=5)
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


def _drill(facts: dict[str, Any]) -> str:
    """That nodes may misbehave here, and which of those that run do."""
    nodes = {**facts["replicas"], **facts["clients"]}
    told = [
        f"{name} ({said['misbehaving']})"
        for name, said in nodes.items()
        if said["running"] and said.get("misbehaving")
    ]
    who = f": {escape(', '.join(told))}" if told else ""
    return f"[bold yellow]a drill, in which nodes may misbehave on purpose{who}[/]"


def _rosters(facts: dict[str, Any]) -> str:
    """The newest roster, and how many of the running replicas have it."""
    newest = facts["rosters"][-1]
    running = [said for said in facts["replicas"].values() if said["running"]]
    told = f"roster {newest['number']}: {newest['members']} clients from epoch {newest['start_epoch']} on"
    if running:
        have = sum(said.get("highest_roster", 0) >= newest["number"] for said in running)
        told += f"; {have} of {len(running)} running replicas have it"
        in_force = sorted(said.get("roster", 0) for said in running)[len(running) // 2]
        if in_force < newest["number"]:
            told = f"roster {in_force} in force; {told}"
    return told


def _clients(facts: dict[str, dict[str, Any]], *, several: bool) -> Table:
    table = _nodes("client", facts)
    for heading in ("epoch", "uploads"):
        table.add_column(heading, justify="right", no_wrap=True)
    if several:
        table.add_column("takes part", no_wrap=True)
    table.add_column("waits for")
    for name, said in facts.items():
        waiting = said.get("waiting_for") if said["running"] else None
        cells = [name, _state(said), str(said.get("epoch", "–")), str(said.get("sent", "–"))]
        if several:
            cells.append(_takes_part(said["takes_part"]))
        table.add_row(*cells, escape(waiting or ""))
    return table


def _takes_part(spans: list[list[int | None]]) -> str:
    """Of the last time that a client was in a roster: the epochs."""
    first, last = spans[-1]
    if last is not None:
        return f"until epoch {last}"
    return "" if first == 1 else f"from epoch {first}"


def _state(said: dict[str, Any]) -> str:
    if said["running"] and said.get("misbehaving"):
        return "[bold red]misbehaving[/]"
    colour = "green" if said["running"] else "dim"
    return f"[{colour}]{str(said['state']).replace('_', ' ')}[/]"
