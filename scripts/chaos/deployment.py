"""A deployment of real processes on this machine, every link of which runs through a proxy.

Each party has a directory of its own, as parties on several machines have: with its keys only, and with a
deployment file whose addresses are those of its links (addresses are not part of the deployment's digest). Where
a replica listens is said by `--listen`.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos.fabric import Fabric
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DEPLOYMENT_FILE, DeploymentDirectory
from node.supervisor.children import STOP_SECONDS, Child, Children
from node.supervisor.run import node_command
from node.supervisor.watch import read_status

OPERATOR: Final = "operator"


class ChaoticDeployment:
    """The directories and processes of a deployment. `parties`: clients by the process that they share.

    Processes are `children` by name: each replica's, and each party's. To be used from an event loop, since
    the links live there; starting and killing blocks for a moment only.
    """

    def __init__(
        self,
        root: Path,
        wanted: NewDeployment,
        parties: Mapping[str, Sequence[str]],
        *,
        seed: int,
        client_options: Sequence[str] = (),
    ) -> None:
        """Writes everything but the parties' directories, which need the links' ports."""
        self.root: Final = root
        self.parties: Final = {name: tuple(clients) for name, clients in parties.items()}
        self.children: Final[dict[str, Child]] = {}
        self._client_options: Final = tuple(client_options)
        self.operator: Final = create_deployment(root / OPERATOR, wanted)
        self.replicas: Final = {entry.name: entry.address for entry in self.operator.deployment.replicas}
        self.fabric: Final = Fabric([*self.replicas, *self.parties], self.replicas, seed=seed)

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
            given = [*node_command(files, "client", self.parties[party]), *self._client_options]
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
        party = next((party for party, clients in self.parties.items() if name in clients), name)
        return DeploymentDirectory(self.root / party, self.operator.deployment)

    def status(self, name: str) -> dict[str, Any]:
        """The last status of replica or client `name`."""
        return read_status(self.files(name), name)

    def log(self, party: str) -> str:
        """All that a process has said, over all its lives."""
        return self.children[party].log.read_text(encoding="utf-8", errors="replace")
