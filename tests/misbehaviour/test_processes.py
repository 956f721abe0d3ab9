"""Nodes that misbehave as real processes: loud, and the honest ones go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.supervisor.watch import read_status

from .besieged import CLIENT, REPLICA, Besieged

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
        return bool(status.get("pid") == self.process.pid and status.get("bytes_out"))

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


@pytest.fixture
def hostile(besieged: Besieged) -> Iterator[list[Hostile]]:
    """A malicious replica and a malicious client."""
    started = [
        Hostile(besieged, REPLICA, "drop-updates,wrong-sums", "--colluder", CLIENT),
        Hostile(besieged, CLIENT, "flood-of-uploads"),
    ]
    yield started
    for each in started:
        each.end()


@pytest.mark.timeout(240)
def test_a_malicious_replica_and_a_malicious_client_stop_nobody_and_say_what_they_are(
    besieged: Besieged, hostile: list[Hostile]
) -> None:
    began = len(besieged.said)
    besieged.until("malice", lambda: all(each.is_up for each in hostile))
    epoch = besieged.epoch
    besieged.until("two epochs more", lambda: besieged.epoch >= epoch + 2)
    assert not besieged.errors(began)
    assert any(line["event"] == "connected" for line in besieged.said[began:])

    for each, label in zip(hostile, ("drop-updates, wrong-sums", "flood-of-uploads"), strict=True):
        assert besieged.status(each.name)["misbehaving"] == label
        said = each.log.read_text()
        assert "MISBEHAVIOUR" in said.splitlines()[0]
        assert "this_process_misbehaves_on_purpose" in said
        started = next(line for line in said.splitlines() if " started " in line)
        assert "misbehaving=" in started
        assert label in started
        assert "Traceback" not in said
    assert "misbehaving" not in besieged.status("replica-0")
    assert "misbehaving" not in besieged.status("client-0")
