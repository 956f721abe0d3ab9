"""What a process takes at one moment, as the kernel counts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process. `memory` is resident and not shared with files (code and libraries), in bytes."""

    seconds: float
    memory: int
    descriptors: int
    threads: int
    entries: int
    """In the ledger of that replica; 0 for clients."""


@dataclass
class Life:
    """One process from its start to its end."""

    name: str
    role: str
    pid: int
    samples: list[Sample] = field(default_factory=list)


def read(pid: int, seconds: float, entries: int) -> Sample | None:
    """None: it has just ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            memory = process.memory_info()
            return Sample(
                seconds, memory.rss - memory.shared, process.num_fds(), process.num_threads(), entries
            )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


@dataclass(frozen=True, slots=True)
class Disk:
    """What the state of a node takes on disk, in bytes."""

    seconds: float
    database: int
    blobs: int
    blob_files: int
    entries: int


def read_disk(state: Path, seconds: float, entries: int) -> Disk:
    database = blobs = files = 0
    for path in state.rglob("*"):
        try:
            size = path.stat().st_size
        except OSError:
            continue  # deleted meanwhile
        if path.name.startswith("state.sqlite"):
            database += size
        elif path.is_file() and "blobs" in path.parts:
            blobs += size
            files += 1
    return Disk(seconds, database, blobs, files, entries)
