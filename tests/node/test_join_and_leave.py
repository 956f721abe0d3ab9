"""Real processes: clients join and leave while training runs, and a replica that was dead meanwhile learns of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.supervisor.watch import read_status

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "join-and-leave.md"
ASYNCFL = [sys.executable, "-P", "-m", "node.cli"]


class Deployment:
    """A deployment in `root`/run whose commands are those of the how-to page."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.stack = stack
        self.started: list[subprocess.Popen[str]] = []

    @property
    def files(self) -> DeploymentDirectory:
        return DeploymentDirectory.load(self.root / "run")

    def start(self, command: str, *more: str) -> None:
        """A command that goes on; its log is shown when it ends too early."""
        log = self.stack.enter_context((self.root / f"{len(self.started)}.log").open("w+"))
        process = subprocess.Popen(
            [*ASYNCFL, *command.split()[1:], *more], cwd=self.root, stdout=log, stderr=log, text=True
        )
        self.started.append(process)
        self.stack.callback(self._stop, process)

    def command(self, command: str, *more: str) -> dict[str, Any]:
        """A command that ends, with --json."""
        done = subprocess.run(
            [*ASYNCFL, *command.split()[1:], *more, "--json"],
            cwd=self.root, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        assert isinstance(value, dict)
        return value

    def status(self, name: str) -> dict[str, Any]:
        return read_status(self.files, name)

    def inclusion(self, client: str, replica: str = "replica-0") -> int:
        """How many uploads of `client` are in the model, as a replica counts."""
        key = self.files.deployment.client(client).key.hex()
        return int(self.status(replica).get("inclusion", {}).get(key, 0))

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for number, process in enumerate(self.started):
                assert process.poll() is None, (self.root / f"{number}.log").read_text()
            assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s: {self._told()}"
            time.sleep(0.1)

    def _told(self) -> str:
        keys = ("state", "epoch", "front", "highest_roster", "waiting_for", "stall")
        names = self.files.deployment.names.values()
        return str({name: {key: self.status(name).get(key) for key in keys} for name in names})

    def _stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    create_deployment(tmp_path / "run", NewDeployment(clients=8, training={"local_steps": 2}))
    with ExitStack() as stack:
        yield Deployment(tmp_path, stack)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clients_join_and_leave_while_training_runs_and_a_dead_replica_learns_of_it(made: Deployment) -> None:
    page = PAGE.read_text()
    up, enroll = "asyncfl up run --epochs 200", "asyncfl enroll run client-8 client-9"
    node = "asyncfl node --role client --deployment run --name client-8 --name client-9"
    retire = "asyncfl retire run client-3"
    assert all(command in page for command in (up, enroll, node, retire))

    made.start(up.replace("200", "100000"), "--client-processes", "1")
    made.until("training", lambda: made.inclusion("client-3") >= 2)

    # `up` starts a replica that was killed from outside again after a while.
    os.kill(made.status("replica-3")["pid"], signal.SIGKILL)
    joined = made.command(enroll, "--yes")
    assert (joined["roster"], joined["needed"]) == (1, 3)
    assert joined["have_it"] >= 3
    assert joined["start_epoch"] > made.files.deployment.parameters.window

    made.start(node)
    made.until("uploads of both", lambda: made.inclusion("client-8") >= 2 and made.inclusion("client-9") >= 2)
    made.until("roster 1 at replica-3", lambda: made.status("replica-3").get("highest_roster") == 1)
    made.until("their uploads at replica-3", lambda: made.inclusion("client-8", "replica-3") >= 2)

    left = made.command(retire, "--yes", "--margin", "2")
    assert (left["roster"], left["retiring"]) == (2, ["client-3"])
    made.until("client-3 to rest", lambda: made.status("client-3").get("state") == "retired")
    before, epoch = made.inclusion("client-3"), made.status("replica-0")["epoch"]
    made.until("training to go on", lambda: made.status("replica-0")["epoch"] >= epoch + 4)
    assert made.inclusion("client-3") - before <= 2, "a retired client's late uploads at most"

    facts = made.command("asyncfl status run")
    assert facts["clients"]["client-3"]["takes_part"] == [[1, left["start_epoch"] - 1]]
    assert facts["clients"]["client-8"]["takes_part"] == [[joined["start_epoch"], None]]
    assert {said["highest_roster"] for said in facts["replicas"].values()} == {2}
