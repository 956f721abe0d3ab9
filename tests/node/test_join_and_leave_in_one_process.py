"""The same in one process and on old files: replicas and clients learn of rosters from the network alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from asyncfl.client import Client
from asyncfl.effects import Machine
from asyncfl.replica import Replica
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.processes import _Node, _Process
from node.supervisor.watch import read_status
from node.training.loader import load_task
from node.training.workbench import Workbench
from node.transport import Endpoint

FAST = {"local_steps": 2}


class House:
    """Nodes of one deployment on an event loop in a thread of its own, each with its sockets and its disk."""

    patience = 90.0
    """Seconds that anything may take."""

    def __init__(self, files: DeploymentDirectory) -> None:
        self.files = files
        deployment = files.deployment
        task = load_task("digits", clients=len(deployment.first_clients), seed=deployment.task.seed)
        self.bench = Workbench(task, seed=deployment.task.seed)
        self.initial = files.initial_model()
        self.loop = asyncio.new_event_loop()
        self.stops: dict[str, asyncio.Event] = {}
        self.runs: dict[str, asyncio.Task[None]] = {}
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self, name: str, files: DeploymentDirectory | None = None) -> None:
        """A node that knows what `files` say, the first ones unless given."""
        asyncio.run_coroutine_threadsafe(self._start(name, files or self.files), self.loop).result(30)

    async def _start(self, name: str, files: DeploymentDirectory) -> None:
        deployment, identity = files.deployment, files.identity(name)
        federation = deployment.federation()
        process = _Process()
        is_replica = name.startswith("replica")

        def machine(durable: Any) -> Machine:
            if is_replica:
                return Replica(federation, identity, durable, self.initial)
            index = deployment.client_index(name)
            return Client(federation, identity, durable, trainer=self.bench.trainers([index])[index])

        node = _Node(
            process,
            files,
            identity,
            role="aggregator" if is_replica else "client",
            name=name,
            machine=machine,
        )
        if is_replica:
            node.blobs.write(self.initial)
        others = {r.key: r.url for r in deployment.replicas if r.key != identity.public}
        endpoint = Endpoint(
            identity,
            federation.digest,
            handler=node.runtime,
            blobs=node.blobs,
            listen=deployment.replica(name).address if is_replica else None,
            dial=others,
            accept=node.machine.accepts,
        )
        self.stops[name] = process.stop

        async def run() -> None:
            await node.runtime.run(endpoint, process.stop)
            await process.close()

        self.runs[name] = asyncio.create_task(run())

    def stop(self, name: str) -> None:
        """The node goes away, without a word to the others."""
        self.loop.call_soon_threadsafe(self.stops[name].set)
        self.until(f"end of {name}", self.runs[name].done)
        del self.runs[name], self.stops[name]

    def close(self) -> None:
        async def stop() -> None:
            for event in self.stops.values():
                event.set()
            await asyncio.gather(*self.runs.values())

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def status(self, name: str) -> dict[str, Any]:
        return read_status(self.files, name)

    def inclusion(self, files: DeploymentDirectory, client: str, replica: str) -> int:
        counts = self.status(replica).get("inclusion", {})
        return int(counts.get(files.deployment.client(client).key.hex(), 0))

    def until(self, what: str, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + self.patience
        while not condition():
            for name, run in self.runs.items():
                assert not run.done() or self.stops[name].is_set(), f"{name} ended: {run}"
            assert time.monotonic() < deadline, f"{what} did not happen"
            time.sleep(0.05)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with capture_logs():  # which would stand in the output of the commands
        made = House(create_deployment(tmp_path / "run", NewDeployment(clients=8, training=FAST)))
        for index in range(8):
            made.start(f"client-{index}")
        yield made
        made.close()


def command(*words: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, words), "--yes", "--json"])
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.mark.timeout(180)
def test_nodes_with_old_files_follow_the_rosters_that_the_operator_sends(house: House) -> None:
    old, root = house.files, house.files.root
    for index in range(3):
        house.start(f"replica-{index}")
    house.until("training", lambda: house.status("replica-0").get("epoch", 0) >= 2)

    joined = command("enroll", root, "client-8", "--margin", "2")
    assert joined["have_it"] == 3
    assert "nothing listens" in joined["replicas"]["replica-3"]["problem"]
    new = DeploymentDirectory.load(root)
    house.start("client-8", new)
    house.start("replica-3", old)
    house.until("uploads of the new one", lambda: house.inclusion(new, "client-8", "replica-0") >= 1)
    house.until("roster 1 at replica-3", lambda: house.status("replica-3").get("highest_roster") == 1)

    left = command("retire", root, "client-1", "--margin", "2")
    assert left["have_it"] == 4
    house.until("client-1 to rest", lambda: house.status("client-1").get("state") == "retired")
    epoch = house.status("replica-3")["epoch"]
    house.until("training to go on", lambda: house.status("replica-3")["epoch"] >= epoch + 3)
    assert house.inclusion(new, "client-8", "replica-3") >= 1


@pytest.mark.timeout(180)
def test_training_that_stands_still_for_want_of_clients_goes_on_when_the_dead_are_retired(
    house: House,
) -> None:
    for index in range(4):
        house.start(f"replica-{index}")
    house.until("training", lambda: house.status("replica-0").get("epoch", 0) >= 2)
    dead = [f"client-{index}" for index in range(3, 8)]
    for name in dead:
        house.stop(name)
    house.until("stall", lambda: "asyncfl retire" in (house.status("replica-0").get("stall") or ""))

    facts = command("retire", house.files.root, *dead, "--margin", "1")
    beyond = facts["start_epoch"] + 2
    house.until("training to go on", lambda: house.status("replica-0")["epoch"] >= beyond)
    house.until("no stall", lambda: house.status("replica-0")["stall"] is None)
