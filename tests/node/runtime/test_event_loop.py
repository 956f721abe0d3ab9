"""A replica's event loop is never blocked for long, whatever arrives."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.messages import Message, Pull, Stored, Upload
from node.blobs import BlobStore
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.transport import Endpoint

TASK = """
import torch

class Wide:
    def model(self): return torch.nn.Linear(1000, 1000)
    def train(self, module, client_index, settings, epoch): return 1, 0.0
    def evaluate(self, module): return 0.0

def factory(clients, seed): return Wide()
"""
LONGEST_MS = 50.0
CLIENTS = 8


class Uploader:
    """A client that does nothing but upload what was prepared."""

    def __init__(self, files: DeploymentDirectory, name: str, folder: Path) -> None:
        deployment = files.deployment
        federation, identity = deployment.federation(), files.identity(name)
        assignment, roster = Assignment(federation), federation.roster_at(1)
        cell = assignment.cell_of(identity.public, 1)
        context = masking.UploadContext(
            epoch=1, cell=cell, coordinator=assignment.line(cell)[0], roster=roster.number,
            roster_digest=roster.digest, base_version=bytes(32),
        )  # fmt: skip
        update = torch.full((federation.dimension,), 1e-5)
        protected = masking.protect(update, context, identity, federation)
        self.upload = Upload(manifest=protected.manifest)
        blobs = BlobStore(folder / name)
        blobs.write(protected.payload)
        self.stored = asyncio.Event()
        replica = deployment.replicas[0]
        self.endpoint = Endpoint(
            identity, federation.digest, handler=self, blobs=blobs, listen=None,
            dial={replica.key: replica.url}, accept=lambda _key: False,
        )  # fmt: skip

    def connected(self, peer: bytes) -> None:
        self.endpoint.send(peer, self.upload)

    def message(self, peer: bytes, message: Message) -> None:
        if isinstance(message, Pull):
            self.endpoint.send_blob(peer, message.blob, message.offset)
        elif isinstance(message, Stored):
            self.stored.set()

    def disconnected(self, peer: bytes, reason: str) -> None: ...

    def fetched(self, peer: bytes, digest: bytes) -> None: ...

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None: ...


@pytest.mark.slow
async def test_a_million_parameters_an_upload_block_the_loop_for_less_than_50_ms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is otherwise idle: what other processes take from this one counts as well."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def prepare() -> tuple[DeploymentDirectory, list[Uploader]]:
        (tmp_path / "wide_task.py").write_text(TASK)
        files = create_deployment(tmp_path / "run", NewDeployment(clients=CLIENTS, task="wide_task:factory"))
        return files, [Uploader(files, f"client-{number}", tmp_path / "blobs") for number in range(CLIENTS)]

    files, uploaders = await asyncio.to_thread(prepare)

    def status() -> dict[str, Any]:
        return json.loads(files.status_file("replica-0").read_text())  # type: ignore[no-any-return]

    replica = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node.cli", "node", "--role", "aggregator", "--deployment", str(files.root),
        "--name", "replica-0", stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for uploader in uploaders:
            await uploader.endpoint.start()
        async with asyncio.timeout(60):
            await asyncio.gather(*(uploader.stored.wait() for uploader in uploaders))
        await asyncio.sleep(1.0)
        measured = await asyncio.to_thread(status)
    finally:
        for uploader in uploaders:
            await uploader.endpoint.close()
        replica.terminate()
        await replica.wait()
    assert measured["uploads"]["stored"] == CLIENTS
    assert measured["loop_lag_ms"]["max"] < LONGEST_MS
