"""A deployment of the smallest sensible size, made once, copied for whoever changes it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> DeploymentDirectory:
    """Read only: tests that write take `copied`."""
    return create_deployment(tmp_path_factory.mktemp("made") / "run", NewDeployment(clients=6))


@pytest.fixture
def copied(made: DeploymentDirectory, tmp_path: Path) -> DeploymentDirectory:
    shutil.copytree(made.root, tmp_path / "run")
    return DeploymentDirectory.load(tmp_path / "run")


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


class Program:
    """`asyncfl` in this process, which keeps its own logging: some commands set up theirs."""

    def __call__(self, *arguments: str | Path) -> Outcome:
        words: Sequence[str] = [str(argument) for argument in arguments]
        logging = structlog.get_config()
        try:
            result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})
        finally:
            structlog.configure(**logging)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def asyncfl() -> Program:
    return Program()
