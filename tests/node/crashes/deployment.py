"""A deployment of real processes on this machine whose nodes can be told where to die, and what its disks must show."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from asyncfl.effects import Table
from asyncfl.replica.tasks import LEFT
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.privacy_events import read_table
from node.storage import Storage
from node.supervisor.watch import read_status
from tests.node.crashes import witness
from tests.node.crashes.faults import Fault
from tests.node.crashes.witness import Promise, Tables

DEADLINE: Final = 300.0
STATUS_SECONDS: Final = 1.5
"""A status may be so old."""


class Zygote:
    """The process that forks all others; its end is theirs."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.crashes.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()
        self._log.close()


class Nodes:
    """The processes of one deployment, by the name of their first node."""

    def __init__(self, root: Path, wanted: NewDeployment) -> None:
        self.root = root
        self.files = create_deployment(root / "run", wanted)
        self.replicas = [entry.name for entry in self.files.deployment.replicas]
        self.alive: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        """How the last process of each has ended."""
        self.crashes = 0
        self._zygote = Zygote(root / "zygote.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.poll()
        for pid in self.alive.values():
            os.kill(pid, signal.SIGKILL)
        self._zygote.close()

    # processes

    def start(self, *names: str, fault: Fault | None = None, lies: bool = False) -> None:
        """`lies`: a replica that signs wrong sums of shares."""
        assert names[0] not in self.alive
        self.alive[names[0]] = self._zygote.ask(
            do="start",
            root=str(self.files.root),
            role="aggregator" if names[0] in self.replicas else "client",
            names=names,
            log=str(self.log(names[0])),
            heard=str(self.root / f"{names[0]}.heard"),
            fault=None if fault is None else fault.encode(),
            lies=lies,
        )

    def poll(self) -> None:
        """Note which processes have ended."""
        for pid, code in self._zygote.ask(do="poll").items():
            name = next(name for name, known in self.alive.items() if known == int(pid))
            del self.alive[name]
            self.codes[name] = code

    def wait_end(self, name: str, seconds: float = DEADLINE) -> int:
        """Until the process has ended; its exit code, or the signal that killed it, negative."""
        self.until(f"the end of {name}", lambda: name not in self.alive, seconds)
        return self.codes[name]

    def kill(self, name: str) -> None:
        """SIGKILL from outside, wherever it happens to be."""
        os.kill(self.alive[name], signal.SIGKILL)
        self.wait_end(name)
        self.crashes += 1

    def ask_to_stop(self, name: str) -> None:
        os.kill(self.alive[name], signal.SIGTERM)

    def stop_all(self) -> None:
        names = list(self.alive)
        for name in names:
            self.ask_to_stop(name)
        for name in names:
            assert self.wait_end(name) == 0, self.log(name).read_text()

    def until(self, what: str, condition: Callable[[], Any], seconds: float = DEADLINE) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.poll()
            if condition():
                return
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}\n{self.logs()}"
            time.sleep(0.02)

    def crash(self, names: Sequence[str], fault: Fault) -> None:
        """Start a process, wait until it has killed itself at the fault, and look at its disk and what it had said."""
        self.start(*names, fault=fault)
        self.expect_crash(names)

    def expect_crash(self, names: Sequence[str]) -> None:
        """Wait until a process that was started with a fault has killed itself, and look at its disk."""
        code = self.wait_end(names[0])
        assert code == -signal.SIGKILL, (code, self.log(names[0]).read_text()[-2000:])
        self.crashes += 1
        for name in names:
            self.check_promises(name)

    def forget_unused_state(self, name: str) -> None:
        """Begin anew: allowed to a node that died before it had said anything to anybody."""
        key = self.files.identity(name).public.hex()
        assert not [promise for promise in self.promises() if promise.signer == key]
        shutil.rmtree(self.files.state(name), ignore_errors=True)

    # what they say

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.root.glob("*.log"))
        )

    def status(self, name: str) -> dict[str, Any]:
        return read_status(self.files, name)

    def all_up(self) -> bool:
        return all(self.status(name).get("pid") == pid for name, pid in self.alive.items())

    def reload(self) -> None:
        """The operator has changed the deployment file."""
        self.files = DeploymentDirectory.load(self.files.root)

    def promises(self) -> set[Promise]:
        return witness.read(self.root.glob("*.heard"))

    def steps(self, *names: str) -> set[str]:
        """The names of all steps that processes have noted."""
        return {line for name in names for line in (self.root / f"{name}.steps").read_text().splitlines()}

    def left(self, name: str) -> set[bytes]:
        """Which clients a running replica knows to have left, from a copy of its state."""
        owner = self.files.deployment.digest + self.files.identity(name).public
        rows = read_table(self.files.state(name) / "state.sqlite", owner, Table.META)
        return {key for key in rows if key.startswith(LEFT)}

    # what is on disk

    def durable(self, name: str) -> Tables:
        """What is on the disk of a node that does not run."""

        async def load() -> dict[Table, dict[bytes, bytes]]:
            owner = self.files.deployment.digest + self.files.identity(name).public
            storage = Storage.open(self.files.state(name) / "state.sqlite", owner=owner)
            try:
                return storage.load()
            finally:
                await storage.close()

        return asyncio.run(load())

    def check_promises(self, name: str) -> None:
        """Everything that others have heard from a node that is dead now is on its disk."""
        key = self.files.identity(name).public.hex()
        said = [promise for promise in self.promises() if promise.signer == key]
        if said or (self.files.state(name) / "state.sqlite").exists():
            assert witness.broken(said, self.durable(name)) == [], name

    def until_settled(self) -> None:
        """Until all replicas have held the same certified model for so long that no group is still to come."""
        agreed: tuple[str, float] | None = None

        def settled() -> bool:
            nonlocal agreed
            told = [self.status(name) for name in self.replicas]
            models = {json.dumps([status.get("certified"), status.get("version")]) for status in told}
            busy = any(status.get("groups_open", 1) for status in told) or told[0].get("certified") is None
            if busy or len(models) > 1 or not self.all_up():
                agreed = None
                return False
            model, now = models.pop(), time.monotonic()
            if agreed is None or agreed[0] != model:
                agreed = model, now
            patience = max(status["patience_s"] for status in told)
            return now - agreed[1] > STATUS_SECONDS + 2 * patience

        self.until("the replicas to agree", settled)

    def check_disks(self) -> None:
        """Every promise and every agreement, from the disks of all nodes, once they have stopped."""
        tables = {name: self.durable(name) for name in [*self.replicas, *self.clients()]}
        promises = self.promises()
        assert witness.contradictions(promises) == []
        assert witness.locked_twice(promises, [tables[name] for name in self.replicas]) == []
        ledgers = [tables[name][Table.ITEMS] for name in self.replicas]
        assert ledgers[0]
        assert all(ledger.keys() == ledgers[0].keys() for ledger in ledgers)
        models: dict[bytes, bytes] = {}
        for name in self.replicas:
            self.check_promises(name)
            for version, model in tables[name][Table.MODELS].items():
                assert models.setdefault(version, model) == model, "two models of one version"
            for item, voters in witness.votes_of(tables[name]).items():
                for voter in voters:
                    assert item in tables[self.replicas[voter]][Table.ITEMS], "an attestation without its row"
        opened = witness.opened(tables[self.replicas[0]])
        for name in self.clients():
            self.check_promises(name)
            self._check_client(name, tables[name], opened)

    def _check_client(self, name: str, tables: Tables, opened: dict[tuple[bytes, int], bytes]) -> None:
        key = self.files.deployment.client(name).key
        events = {int.from_bytes(epoch, "big") for epoch in tables[Table.PRIVACY]}
        mine = {epoch: manifest for (client, epoch), manifest in opened.items() if client == key}
        assert mine.keys() <= events, "an upload was opened without its privacy event"
        assert witness.pending_is_paid(tables)
        stored = {int.from_bytes(epoch, "big"): manifest for epoch, manifest in tables[Table.EPOCHS].items()}
        for epoch, manifest in mine.items():
            assert stored.get(epoch, manifest) == manifest, "another upload was opened than the client sent"

    def clients(self) -> list[str]:
        return [
            name for name in self.files.clients_here() if (self.files.state(name) / "state.sqlite").exists()
        ]
