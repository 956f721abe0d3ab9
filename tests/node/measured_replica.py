"""Runs one replica like `asyncfl node` does, and reports how late its event loop was.

Usage: ``python measured_replica.py DEPLOYMENT NAME OUTPUT``. What other programs take from this one says nothing
of it: where permitted it runs at real-time priority, its loop first, and what threads of this process still
waited for a processor, as the kernel counts it, is taken off each lag. On an idle machine both change nothing.
OUTPUT is a JSON list of heartbeats: [monotonic time, lag, lag less starvation, processor time of the loop], seconds.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import node.processes
from node.looplag import INTERVAL_S, LoopLag

TASKS = Path("/proc/self/task")


def starved_seconds() -> dict[str, float]:
    """How long each thread of this process was ready and had no processor, by its number."""
    waited = {}
    for thread in os.listdir(TASKS):
        with suppress(OSError):  # it has ended
            descriptor = os.open(TASKS / thread / "schedstat", os.O_RDONLY)
            waited[thread] = int(os.read(descriptor, 100).split()[1]) / 1e9
            os.close(descriptor)
    return waited


def give_priority(threads: list[str]) -> None:
    """The loop's thread before the others of this process, and these before other programs."""
    with suppress(OSError):  # not permitted, or ended
        for thread in threads:
            priority = 2 if int(thread) == os.getpid() else 1
            os.sched_setscheduler(int(thread), os.SCHED_RR, os.sched_param(priority))


class MeasuredLag(LoopLag):
    """Keeps every heartbeat."""

    beats: ClassVar[list[tuple[float, float, float, float]]] = []

    async def run(self) -> None:
        waited, busy = starved_seconds(), time.thread_time()
        known: set[str] = set()
        while True:
            if new := sorted(waited.keys() - known):
                give_priority(new)
                known.update(new)
            due = time.monotonic() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            now = time.monotonic()
            late = max(0.0, now - due)
            before, waited = waited, starved_seconds()
            starved = {thread: seconds - before.get(thread, 0.0) for thread, seconds in waited.items()}
            own = starved.pop(str(os.getpid()))
            # Another thread that waits may hold the interpreter's lock meanwhile.
            machine = own + max(starved.values(), default=0.0)
            used, busy = time.thread_time() - busy, time.thread_time()
            self.beats.append((now, late, max(0.0, late - machine), used))


def main() -> None:
    directory, name, output = sys.argv[1:4]
    patch.object(node.processes, "LoopLag", MeasuredLag).start()
    node.processes.run_aggregator(Path(directory), name)
    Path(output).write_text(json.dumps(MeasuredLag.beats))


if __name__ == "__main__":
    main()
