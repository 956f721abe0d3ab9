"""Nodes that misbehave, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from node.supervisor.watch import read_status

from .besieged import REPLICA, Besieged

EXTRA = Path(__file__).parents[2] / "misbehaviour"


class Hostile:
    """`asyncfl node --misbehave` as a process, and what it says."""

    def __init__(self, besieged: Besieged, name: str, attacks: str, *more: str) -> None:
        self.files, self.name = besieged.files, name
        self.log = besieged.files.root / f"{name}.log"
        role = "aggregator" if name == REPLICA else "client"
        words = ["node", "--role", role, "--deployment", str(self.files.root), "--name", name]
        path = os.pathsep.join(filter(None, [str(EXTRA), os.environ.get("PYTHONPATH")]))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.cli", *words, "--misbehave", attacks, *more],
                stderr=log, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
            )  # fmt: skip

    @property
    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        status = read_status(self.files, self.name)
        # Some connect and say nothing; some never connect.
        felt = status.get("connected") or status.get("bytes_out")
        return bool(status.get("pid") == self.process.pid and felt)

    @property
    def misbehaved(self) -> int:
        """How often it did something else than an honest node, by its own account."""
        return int(read_status(self.files, self.name).get("misbehaved", 0))

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
