"""Deployments of real processes on this machine whose network is in our hands."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from chaos import switch
from chaos.fabric import Fabric
from chaos.switch import Switch
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DEPLOYMENT_FILE, DeploymentDirectory
from node.supervisor.children import STOP_SECONDS, Child, Children
from node.supervisor.run import node_command
from node.supervisor.watch import read_status

OPERATOR: Final = "operator"
PORT: Final = 7000
"""Of every replica, on a host of its own."""


class Processes:
    """The processes of a deployment: one of each replica, and one of each party of clients, by name."""

    def __init__(self, operator: DeploymentDirectory, parties: Mapping[str, Sequence[str]]) -> None:
        """`operator`: the directory with all keys. `parties`: clients by the process that they share."""
        self.operator: Final = operator
        self.parties: Final = {name: tuple(clients) for name, clients in parties.items()}
        self.replicas: Final = {entry.name: entry.address for entry in operator.deployment.replicas}
        self.children: Final[dict[str, Child]] = {}

    def start(self) -> None:
        for child in self.children.values():
            child.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """SIGTERM to all, also to the paused ones; SIGKILL to those left after `seconds`."""
        for name, child in self.children.items():
            if child.running:
                self.signal(name, signal.SIGCONT)
        Children(list(self.children.values())).stop(seconds)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process that runs."""
        pid = self.children[name].pid
        assert pid is not None
        os.kill(pid, number)

    def files(self, name: str) -> DeploymentDirectory:
        """The directory of the party of replica or client `name`."""
        return self.operator

    def status(self, name: str) -> dict[str, Any]:
        """The last status of replica or client `name`."""
        return read_status(self.files(name), name)

    def log(self, party: str) -> str:
        """All that a process has said, over all its lives."""
        return self.children[party].log.read_text(encoding="utf-8", errors="replace")


class ChaoticDeployment(Processes):
    """Every link runs through a proxy.

    Each party has a directory of its own, as parties on several machines have: with its keys only, and with a
    deployment file whose addresses are those of its links (addresses are not part of the deployment's digest). Where
    a replica listens is said by `--listen`. To be used from an event loop, since the links live there; starting and
    killing blocks for a moment only.
    """

    def __init__(
        self, root: Path, wanted: NewDeployment, parties: Mapping[str, Sequence[str]], *, seed: int
    ) -> None:
        """Writes everything but the parties' directories, which need the links' ports."""
        super().__init__(create_deployment(root / OPERATOR, wanted), parties)
        self.root: Final = root
        self.fabric: Final = Fabric([*self.replicas, *self.parties], self.replicas, seed=seed)

    async def close(self) -> None:
        """The links end."""
        await self.fabric.close()

    async def prepare(self) -> None:
        """Start the links and write every party's directory."""
        await self.fabric.start()
        for party in (*self.replicas, *self.parties):
            self._write(party)

    async def join(self, party: str, clients: Sequence[str]) -> None:
        """A party that was enrolled later: its links, directory and process, not yet started."""
        self.parties[party] = tuple(clients)
        await self.fabric.add(party)
        self._write(party)

    def command(self, party: str, *options: str) -> None:
        """From its next start on the process has these options more (and no longer those given before)."""
        files = DeploymentDirectory(self.root / party, self.operator.deployment)
        if party in self.replicas:
            host, port = self.replicas[party]
            given = [*node_command(files, "aggregator", [party]), "--listen", f"{host}:{port}"]
        else:
            given = node_command(files, "client", self.parties[party])
        self.children[party] = Child(party, [*given, *options], files.log_file(party))

    def _write(self, party: str) -> None:
        operator = DeploymentDirectory.load(self.operator.root)
        here = self.root / party
        (here / "keys").mkdir(parents=True)
        for name in self.parties.get(party, (party,)):
            shutil.copy2(operator.key_file(name), here / "keys")
        shutil.copy2(operator.model_file, here)
        urls = self.fabric.urls(party)
        deployment = operator.deployment.model_copy(
            update={
                "replicas": tuple(
                    entry.model_copy(update={"url": urls.get(entry.name, entry.url)})
                    for entry in operator.deployment.replicas
                )
            }
        )
        (here / DEPLOYMENT_FILE).write_text(deployment.render(), encoding="utf-8")
        assert DeploymentDirectory.load(here).deployment.digest == operator.deployment.digest
        self.command(party)

    def files(self, name: str) -> DeploymentDirectory:
        """The directory of the party of replica or client `name`."""
        party = next((party for party, clients in self.parties.items() if name in clients), name)
        return DeploymentDirectory(self.root / party, self.operator.deployment)


class HostedDeployment(Processes):
    """Every process is on a host of its own, in a network namespace; a switch carries their packets."""

    def __init__(
        self, root: Path, wanted: NewDeployment, parties: Mapping[str, Sequence[str]], *, seed: int
    ) -> None:
        self.addresses: Final = {
            **{f"replica-{j}": f"10.77.0.{j + 1}" for j in range(wanted.replicas)},
            **{party: f"10.77.1.{number + 1}" for number, party in enumerate(parties)},
        }
        urls = {
            name: f"ws://{address}:{PORT}" for name, address in self.addresses.items() if name not in parties
        }
        super().__init__(create_deployment(root / OPERATOR, replace(wanted, urls=urls)), parties)
        self.switch: Final = Switch(root / "switch", seed=seed)

    async def prepare(self) -> None:
        """Start the switch."""
        await self.switch.start()
        for name, address in self.addresses.items():
            role = "aggregator" if name in self.replicas else "client"
            program = node_command(self.operator, role, self.parties.get(name, (name,)))
            self.children[name] = Child(
                name, switch.command(self.switch.path, address, program), self.operator.log_file(name)
            )

    async def close(self) -> None:
        """The switch ends."""
        await self.switch.close()
