"""A machine shared with others: what of a deployment this user may not read is named, and stops nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from asyncfl.digest import content_digest
from node.deployment_files import DeploymentDirectory
from node.supervisor.evaluation import find_blobs

from .conftest import Program

NOBODY = 65534


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may read everything: as root, the body runs as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared(made: DeploymentDirectory) -> Iterator[DeploymentDirectory]:
    """The state of replica-0, which has a model as replica-1 has, belongs to somebody else."""
    with TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        shutil.copytree(made.root, root / "run")
        files = DeploymentDirectory.load(root / "run")
        data = files.initial_model()
        digest = content_digest(data).hex()
        for replica in ("replica-0", "replica-1"):
            folder = files.state(replica) / "blobs" / digest[:2]
            folder.mkdir(parents=True)
            (folder / digest).write_bytes(data)
        for path in (root / "run").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (root / "run").chmod(0o755)
        files.state("replica-0").chmod(0)
        yield files
        files.state("replica-0").chmod(0o755)


def test_the_status_says_which_states_it_may_not_read(shared: DeploymentDirectory, asyncfl: Program) -> None:
    with somebody_else():
        shown = asyncfl("status", shared.root, "--json")
    replicas = json.loads(shown.stdout)["replicas"]
    assert replicas["replica-0"] == {"running": False, "state": "not readable"}
    assert replicas["replica-1"] == {"running": False, "state": "never run here"}


def test_a_model_is_taken_from_a_replica_that_may_be_read(shared: DeploymentDirectory) -> None:
    digest = content_digest(shared.initial_model()).hex()
    with somebody_else():
        (found,) = find_blobs(shared, digest)
    assert found.is_relative_to(shared.state("replica-1"))
