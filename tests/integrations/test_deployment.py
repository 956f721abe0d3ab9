"""Flower's deployment: SuperLink, SuperNodes, both apps and `flwr run` as processes, over sockets of this machine.

Flower 1.41 speaks HTTP there; 1.39 was the last whose SuperNodes spoke gRPC. Skipped where Flower is not installed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'asyncfl[flower]'")

ROOT = Path(__file__).parents[2]
APP = ROOT / "docs" / "how-to"
PROGRAMS = Path(sys.executable).parent
CLIENTS, ROUNDS = 4, 2  # Each client's part of each round is a process that loads torch.
READY_SECONDS, RUN_SECONDS = 120.0, 600.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(READY_SECONDS + 3 * RUN_SECONDS)]


def free_ports(count: int) -> list[int]:
    """All open at once, so that none is given twice."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Federation:
    """A SuperLink and its SuperNodes, each of which starts the processes of its apps."""

    def __init__(self, root: Path, clients: int) -> None:
        self._root = root
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port, *ports = free_ports(1 + clients)
        home = root / "flower"
        home.mkdir()
        address = f'[superlink.local]\naddress = "127.0.0.1:{self._port}"\ninsecure = true\n'
        (home / "config.toml").write_text(address)
        # Processes find each other's programs on the path; apps are copied and must find this package.
        self._environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        link = ["--host", "127.0.0.1", "--port", str(self._port)]
        self._start("superlink", *link, "--disable-runtime-dependency-installation")
        for number, port in enumerate(ports):
            where = ["--superlink", f"127.0.0.1:{self._port}", "--port", str(port)]
            what = f"partition-id={number} num-partitions={clients}"
            self._start(f"supernode-{number}", *where, "--node-config", what)

    def _start(self, name: str, *options: str) -> None:
        with (self._root / f"{name}.log").open("wb") as log:
            program = PROGRAMS / f"flower-{name.partition('-')[0]}"
            self._processes[name] = subprocess.Popen(
                [program, "--insecure", *options],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for_the_superlink(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self._check()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"the SuperLink did not answer within {READY_SECONDS:.0f} s\n{self._logs()}")

    def flwr(self, *arguments: str) -> str:
        """What `flwr` prints. It waits for the SuperNodes too, for as long as the run may take."""
        try:
            done = subprocess.run(
                [PROGRAMS / "flwr", *arguments], env=self._environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace")
            pytest.fail(f"flwr {arguments[0]} did not end within {RUN_SECONDS:.0f} s\n{said}\n{self._logs()}")
        self._check()
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self._logs()}"
        return done.stdout

    def node(self, number: int) -> int:
        """The identity that the SuperLink gave to a client."""
        found = re.search(r"SuperNode ID: (\d+)", (self._root / f"supernode-{number}.log").read_text())
        assert found is not None, f"supernode-{number} was given no identity\n{self._logs()}"
        return int(found[1])

    def _check(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                pytest.fail(f"{name} ended with {process.returncode}\n{self._logs()}")

    def _logs(self) -> str:
        logs = sorted(self._root.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)

    def stop(self) -> None:
        """The apps' processes are in sessions of their own: found as descendants, before their parents are gone."""
        ours = [psutil.Process(process.pid) for process in self._processes.values() if process.poll() is None]
        everything = ours + [child for each in ours for child in each.children(recursive=True)]
        for each in ours:
            each.terminate()
        _, left = psutil.wait_procs(everything, timeout=10)
        for each in left:
            each.kill()
        _, left = psutil.wait_procs(left, timeout=10)
        for process in self._processes.values():
            process.wait(timeout=10)
        assert not left, f"processes that could not be killed: {left}"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    running = Federation(tmp_path, CLIENTS)
    try:
        running.wait_for_the_superlink()
        yield running
    finally:
        running.stop()


def test_the_how_to_program_runs_in_a_deployment(federation: Federation) -> None:
    """One client of four is malicious."""
    said = {}
    for name in ("fedaot", "median"):
        config = f"strategy='{name}' clients={CLIENTS} rounds={ROUNDS}"
        said[name] = federation.flwr("run", str(APP), "local", "--stream", "--run-config", config)
        found = re.search(rf"{name}: accuracy (\S+) after {ROUNDS} rounds", said[name])
        assert found is not None, said[name]
        assert float(found[1]) > 0.5, said[name]
    listed = json.loads(federation.flwr("list", "local", "--format", "json"))
    assert [run["status"] for run in listed["runs"]] == ["finished:completed"] * 2
    found = re.search(r"weights: ({.*})", said["fedaot"])
    assert found is not None, said["fedaot"]
    weights = ast.literal_eval(found[1])
    assert weights.keys() == {federation.node(number) for number in range(CLIENTS)}
    assert sum(weights.values()) == pytest.approx(1.0, abs=0.01)
    assert weights[federation.node(0)] < 0.5 * min(weights[federation.node(i)] for i in range(1, CLIENTS))
