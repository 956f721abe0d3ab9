"""All at once, on real processes: noise and budgets, weights, accuracy reports, budgets of work, members that come and
go, while t replicas and a quarter of the clients are killed with SIGKILL at random, again and again."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import pytest

from asyncfl.effects import Table
from asyncfl.messages import Item, Manifest
from asyncfl.wire import unpack
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.processes import upload_limit
from node.storage import Storage
from node.supervisor.watch import read_status

ASYNCFL = [sys.executable, "-P", "-m", "node.cli"]
CLIENTS = 16
REPLICAS = [f"replica-{j}" for j in range(4)]
PARTIES = [[f"client-{i}" for i in range(first, first + 4)] for first in range(0, CLIENTS, 4)]
"""The clients of one process: killing one kills a quarter of them."""
TRAINING = {
    "local_steps": 8,
    "seconds": 5.0,
    "proximal": 0.01,
    "decay": "exponential",
    "decay_epochs": 40,
    "decay_factor": 0.5,
}
PARAMETERS = {"metrics": True, "weighting": "examples", "examples_cap": 200, "concurrency": 6,
              "server_optimizer": "momentum", "server_momentum": 0.5}  # fmt: skip
DEADLINE = 100.0


class Running:
    """A deployment whose processes are ours to kill."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root, self.stack = root, stack
        self.alive: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0
        self.options: list[str] = []
        """Of client processes."""

    @property
    def files(self) -> DeploymentDirectory:
        return DeploymentDirectory.load(self.root / "run")

    def start(self, names: list[str]) -> None:
        role = "aggregator" if names[0] in REPLICAS else "client"
        command = [*ASYNCFL, "node", "--role", role, "--deployment", "run", "--exit-with-parent"]
        command += self.options if role == "client" else []
        for name in names:
            command += ["--name", name]
        log: TextIO = self.stack.enter_context((self.root / f"{names[0]}.log").open("a"))
        process = subprocess.Popen(command, cwd=self.root, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.alive[names[0]] = process
        self.stack.callback(self._end, process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()

    def kill(self, names: list[str]) -> None:
        process = self.alive.pop(names[0])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.kills += 1

    def stop_all(self) -> None:
        for process in self.alive.values():
            process.send_signal(signal.SIGTERM)
        for process in self.alive.values():
            # Its standard input stays open until it has ended: closing it would ask a second time, and at once.
            assert process.wait(30) == 0
            process.communicate()
        self.alive.clear()

    def everybody_is_up(self) -> bool:
        return all(self.status(name).get("pid") == process.pid for name, process in self.alive.items())

    def until(self, what: str, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}\n{self.logs()}"
            time.sleep(0.1)

    def command(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [*ASYNCFL, *words, "--json"],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        assert isinstance(value, dict)
        return value

    def status(self, name: str) -> dict[str, Any]:
        return read_status(self.files, name)

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.root.glob("*.log"))
        )

    def durable(self, name: str) -> dict[Table, dict[bytes, bytes]]:
        """What is on a node's disk, once it has ended."""

        async def load() -> dict[Table, dict[bytes, bytes]]:
            storage = Storage.open(self.files.state(name) / "state.sqlite", owner=self.owner(name))
            try:
                return storage.load()
            finally:
                await storage.close()

        return asyncio.run(load())

    def owner(self, name: str) -> bytes:
        return self.files.deployment.digest + self.files.identity(name).public


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(tmp_path, stack)


def everybody_is_done(running: Running, names: list[str]) -> bool:
    return all(running.status(name).get("done") for name in names)


def play(running: Running, seed: int, names: list[str]) -> None:
    """Kill and start at random until all clients of `names` are done; meanwhile one joins and one retires.

    Nobody is killed before everybody is up again: at most t replicas and a quarter of the clients are down at once.
    """
    rng = random.Random(seed)
    running.until("everybody to be up", running.everybody_is_up)
    started, next_kill = time.monotonic(), 1.0
    down: list[tuple[float, list[str]]] = []
    joined = retired = False
    while not (joined and retired and all(running.status(name).get("done") for name in names)):
        now = time.monotonic() - started
        assert now < DEADLINE, f"not done after {DEADLINE:g} s\n{running.logs()}"
        for group in [group for at, group in down if now >= at]:
            running.start(group)
        down = [(at, group) for at, group in down if now < at]
        if now >= next_kill and not down and running.everybody_is_up():
            victims = [[rng.choice(REPLICAS)], rng.choice(PARTIES)]
            for group in victims[: rng.choice((1, 2, 2))]:
                running.kill(group)
                down.append((now + rng.uniform(0.1, 3.0), group))
            next_kill = now + rng.uniform(1.0, 5.0)
        if not joined:
            joined = True
            running.command("enroll", "run", "client-16", "--yes", "--margin", "1")
            running.start(["client-16"])
        elif running.kills >= 2 and not retired:
            retired = True
            running.command("retire", "run", "client-3", "--yes", "--margin", "1")
        time.sleep(0.1)
    for _, group in down:
        running.start(group)
    running.until("everybody to be up again", running.everybody_is_up)


def agree(running: Running) -> bool:
    """Whether all replicas hold the same certified model."""
    told = [running.status(name) for name in REPLICAS]
    models = {json.dumps(status.get("certified"), sort_keys=True) for status in told}
    return len(models) == 1 and None not in [status.get("certified") for status in told]


def check_disks(running: Running, limit: int | None) -> None:
    """Every promise, from what is on the disks of all nodes."""
    deployment = running.files.deployment
    ledgers = [running.durable(name)[Table.ITEMS] for name in REPLICAS]
    assert all(ledger.keys() == ledgers[0].keys() for ledger in ledgers)
    items = [Item.decode(unpack(value)[0]) for value in ledgers[0].values()]
    included: dict[tuple[bytes, int], bytes] = {}
    for item in items:
        assert len(item.members) >= deployment.parameters.min_group
        for member in item.members:
            assert (member.client, member.epoch) not in included, "an upload was opened twice"
            included[member.client, member.epoch] = member.manifest
    names = [client.name for client in deployment.clients]
    for name in names:
        tables = running.durable(name)
        key = deployment.client(name).key
        events = {int.from_bytes(epoch, "big") for epoch in tables[Table.PRIVACY]}
        assert events, name
        assert limit is None or len(events) <= limit
        assert {epoch for client, epoch in included if client == key} <= events, "an upload without its event"
        for epoch, manifest in tables[Table.EPOCHS].items():
            other = included.get((key, int.from_bytes(epoch, "big")))
            assert other is None or other == manifest, "another upload was opened than the client sent"
        pending = tables[Table.META].get(b"pending-upload")
        assert not pending or Manifest.decode(pending).core.epoch in events
    last = {key: max(epoch for client, epoch in included if client == key) for key, _ in included}
    retired = deployment.client("client-3").key
    assert last[retired] < deployment.rosters[-1].start_epoch, "a retired client's upload of a later epoch"
    assert deployment.client("client-16").key in last, "the client that joined is in no group"


def run_under_kills(running: Running, seed: int, new: NewDeployment) -> None:
    """From the first process to the last, with everything on disk checked at the end."""
    create_deployment(running.root / "run", new)
    for names in [[name] for name in REPLICAS] + PARTIES:
        running.start(names)
    play(running, seed, [f"client-{i}" for i in range(CLIENTS) if i != 3])
    running.until("the replicas to agree", lambda: agree(running))
    running.stop_all()
    assert running.kills >= 3
    check_disks(running, upload_limit(running.files.deployment))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_with_noise_every_client_stops_at_its_budget(running: Running, seed: int) -> None:
    parameters = {**PARAMETERS, "allow_small_private_groups": True}
    run_under_kills(
        running,
        seed,
        NewDeployment(clients=CLIENTS, epsilon=40.0, epochs=12, training=TRAINING, parameters=parameters),
    )
    spent = running.command("privacy", "run")["clients"]
    assert all(facts["epsilon"] <= 40.0 for facts in spent.values())
    assert sum(facts["uploads"] == 12 for facts in spent.values()) >= CLIENTS - 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_without_noise_the_model_learns_by_weights_and_says_how_well(running: Running) -> None:
    running.options = ["--epochs", "14"]
    run_under_kills(running, 3, NewDeployment(clients=CLIENTS, training=TRAINING, parameters=PARAMETERS))
    assert running.command("evaluate", "run")["accuracy"] >= 0.85
    told = running.status("replica-0")["accuracy"]
    last = [told[epoch] for epoch in sorted(told, key=int)[-3:]]
    assert sum(row["correct"] for row in last) >= 0.8 * sum(row["count"] for row in last) > 0
