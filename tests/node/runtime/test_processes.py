"""Real processes: they stop when told to, end with their parent, and say what is wrong with which code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> DeploymentDirectory:
    return create_deployment(tmp_path_factory.mktemp("deployment") / "run", NewDeployment(clients=4))


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(files: DeploymentDirectory) -> Iterator[Start]:
    """Starts `asyncfl node`; kills whatever is left at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(role: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "node.cli", "node", "--role", role, "--deployment", str(files.root)]
        process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "COLUMNS": "400"},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_status(
    files: DeploymentDirectory, name: str, process: subprocess.Popen[str]
) -> dict[str, object]:
    path = files.status_file(name)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if path.exists() and (status := json.loads(path.read_text()))["pid"] == process.pid:
            assert isinstance(status, dict)
            return status
        time.sleep(0.05)
    raise AssertionError(f"{name} wrote no status")


def error_of(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=90)[1]


def test_nodes_stop_as_asked_and_their_state_says_so(files: DeploymentDirectory, start: Start) -> None:
    replica = start("aggregator", "--name", "replica-0", "--log", "json")
    clients = start("client", "--name", "client-0", "--name", "client-1")
    assert wait_for_status(files, "replica-0", replica)["role"] == "aggregator"
    assert wait_for_status(files, "client-0", clients)["role"] == "client"
    assert wait_for_status(files, "client-1", clients)["name"] == "client-1"
    replica.send_signal(signal.SIGTERM)
    clients.send_signal(signal.SIGINT)
    lines = [json.loads(line) for line in error_of(replica).splitlines()]
    error_of(clients)
    assert (replica.returncode, clients.returncode) == (0, 0)
    assert [line["event"] for line in lines][:2] == ["colluders_assumed", "started"]
    assert lines[-1]["event"] == "stopped"
    for name in ("replica-0", "client-0", "client-1"):
        assert json.loads(files.status_file(name).read_text())["state"] == "stopped"


def test_a_process_ends_when_its_parent_is_gone(files: DeploymentDirectory, start: Start) -> None:
    process = start("aggregator", "--name", "replica-1", "--exit-with-parent")
    wait_for_status(files, "replica-1", process)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    error_of(process)
    assert process.returncode == 0


def test_a_port_in_use_is_a_configuration_error_that_names_it(
    files: DeploymentDirectory, start: Start
) -> None:
    host, port = files.deployment.replica("replica-2").address
    with socket.create_server((host, port)):
        process = start("aggregator", "--name", "replica-2")
        error = error_of(process)
    assert process.returncode == 2
    assert f"{host}:{port}: the port is in use" in error
    assert "Traceback" not in error


def test_a_damaged_state_file_is_a_storage_error_that_names_it(
    files: DeploymentDirectory, start: Start
) -> None:
    path = files.state("client-3") / "state.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"noise" * 1000)
    process = start("client", "--name", "client-2", "--name", "client-3")
    error = error_of(process)
    assert process.returncode == 3
    assert str(path) in error
    assert "damaged" in error
    assert "Traceback" not in error
    assert path.read_bytes() == b"noise" * 1000
