"""Replicas that keep nothing but the operator's statements, at a deployment's addresses, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from structlog.testing import capture_logs

from asyncfl.errors import InvalidItem, StorageError
from asyncfl.exclusions import Exclusions
from asyncfl.identity import Identity
from asyncfl.messages import (
    ExclusionRequest,
    ExclusionStatement,
    Front,
    Message,
    RosterRequest,
    RosterStatement,
)
from asyncfl.rosters import STATEMENTS_AT_ONCE, Rosters
from node.blobs import BlobStore
from node.deployment_files import DeploymentDirectory
from node.transport import Endpoint


@dataclass
class Script:
    """How one replica behaves. `claims`: the roster number that it reports, whatever it holds."""

    front: int = 20
    claims: int | None = None
    silent: bool = False
    takes: bool = True
    stranger: bool = False
    """Does not know the operator's key."""
    exclusions: tuple[ExclusionStatement, ...] = ()
    """What it holds at first."""
    rival: ExclusionStatement | None = None
    """An exclusion that reaches it just before the first that comes."""


@dataclass
class ToldReplica:
    """The handler of one endpoint; holds the rosters of `files` as they were when it was made."""

    files: DeploymentDirectory
    name: str
    script: Script
    heard: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity: Identity = self.files.identity(self.name)
        self.rosters = Rosters(self.files.deployment.federation())
        self.exclusions = Exclusions(self.files.deployment.federation())
        for statement in self.script.exclusions:
            self.exclusions.add(statement)
        self.endpoint: Endpoint

    def connected(self, peer: bytes) -> None: ...

    def disconnected(self, peer: bytes, reason: str) -> None: ...

    def fetched(self, peer: bytes, digest: bytes) -> None: ...

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None: ...

    def disk_refused(self, error: StorageError) -> None: ...

    def message(self, peer: bytes, message: Message) -> None:
        self.heard.append(message)
        if self.script.silent:
            return
        if isinstance(message, RosterRequest):
            self._say_front(peer)
            for statement in self.rosters.statements(message.after):
                self.endpoint.send(peer, statement)
        elif isinstance(message, RosterStatement) and self.script.takes:
            try:
                self.rosters.add(message)
            except InvalidItem:
                return
            self._say_front(peer)
        elif isinstance(message, ExclusionRequest):
            self._say_front(peer)
            for exclusion in self.exclusions.statements(message.after)[:STATEMENTS_AT_ONCE]:
                self.endpoint.send(peer, exclusion)
        elif isinstance(message, ExclusionStatement) and self.script.takes:
            for each in (self.script.rival, message):
                if each is not None:
                    self.exclusions.add(each)
            self._say_front(peer)

    def _say_front(self, peer: bytes) -> None:
        roster = self.rosters.highest if self.script.claims is None else self.script.claims
        unsigned = Front(
            front=self.script.front,
            patience=1000,
            roster=roster,
            finished=False,
            statement=self.exclusions.highest,
            signature=bytes(64),
        )
        signature = self.identity.sign(Front.KIND, self.files.deployment.digest, unsigned.body())
        self.endpoint.send(peer, unsigned.model_copy(update={"signature": signature}))


@contextmanager
def running(
    files: DeploymentDirectory, folder: Path, scripts: dict[str, Script]
) -> Iterator[dict[str, ToldReplica]]:
    """The replicas named in `scripts` run until the block ends."""
    replicas = {name: ToldReplica(files, name, script) for name, script in scripts.items()}
    started, stop = threading.Event(), asyncio.Event()
    loop, operator = asyncio.new_event_loop(), files.deployment.operator

    async def main() -> None:
        for name, replica in replicas.items():
            replica.endpoint = Endpoint(
                replica.identity,
                files.deployment.digest,
                handler=replica,
                blobs=BlobStore(folder / name),
                listen=files.deployment.replica(name).address,
                dial={},
                accept=lambda key, script=replica.script: key == operator and not script.stranger,
            )
            await replica.endpoint.start()
        started.set()
        await stop.wait()
        for replica in replicas.values():
            await replica.endpoint.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        with capture_logs():  # of the endpoints here, which would stand in the program's output
            assert started.wait(20), "the replicas did not start"
            yield replicas
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
