"""What a deployment leaves behind when it has ended, and should not: processes, sockets, half-written files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from node.blobs import MAX_SUSPENDED

KEPT: Final = {"state.sqlite", "state.sqlite-wal", "state.sqlite-shm", "state.sqlite.lock", "status.json"}
"""Files of a state directory beside `blobs/`."""
TRACES: Final = ("Traceback (most recent call last)", "a bug on this side", "node_failed", "job_failed")
"""Words in a log that no misfortune excuses."""


def processes(root: Path) -> list[str]:
    """Processes that run with `root` on their command line, but this one."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["pid"] != psutil.Process().pid and any(str(root) in word for word in words):
            found.append(f"process {process.info['pid']} still runs: {' '.join(words)[-120:]}")
    return found


def listeners(ports: Iterable[int]) -> list[str]:
    """Ports of ours on which somebody still listens."""
    mine = set(ports)
    return [
        f"port {connection.laddr.port} is still listened on"
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in mine
    ]


def files(root: Path) -> list[str]:
    """Drafts below the directories of all parties, and more partial blobs than a node keeps to resume."""
    found = []
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        inside = path.relative_to(root).parts
        draft = path.suffix in {".new", ".tmp"} or path.name.startswith(".deployment.toml.")
        stray = "state" in inside and "blobs" not in inside and path.name not in KEPT
        if draft or stray:
            found.append(f"left behind: {path.relative_to(root)}")
    for folder in root.rglob("incoming"):
        if (partial := sum(1 for _ in folder.iterdir())) > MAX_SUSPENDED:
            found.append(f"left behind: {partial} partial blobs in {folder.relative_to(root)}")
    return found


def complaints(log: str, name: str) -> list[str]:
    """Lines of a log that tell of a failure of the program itself, with what led to them."""
    lines = log.splitlines()
    return [
        f"{name}: " + " / ".join(line.strip() for line in lines[max(0, number - 1) : number + 2])[:300]
        for number, line in enumerate(lines)
        if any(trace in line for trace in TRACES)
    ]
