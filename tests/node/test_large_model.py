"""Whole deployments of real processes with a model of a million parameters: the event loop, memory, the result."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory

from .large_model_task import STEP

HERE = Path(__file__).parent
PARAMETERS = 1_000_000
LONGEST_S = 0.05
STARTUP_S = 90.0
EPOCH_S = 30.0
RECENT_ROWS = 14
"""After so many rows a replica holds all that it keeps of them (`asyncfl.fold.CACHED_STATES` states)."""


class Pauses:
    """A thread that does nothing but wake up: what makes it late stops the whole machine for as long."""

    INTERVAL_S = 0.01

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pauses", daemon=True)

    def __enter__(self) -> "Pauses":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):  # not permitted: then other programs count as pauses, too
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(3))
        while True:
            due = time.monotonic() + self.INTERVAL_S
            if self._ended.wait(self.INTERVAL_S):
                return
            self._late.append((due, time.monotonic()))

    def within(self, first: float, last: float) -> float:
        """Seconds of [first, last] in which the machine did not even run this."""
        return sum(max(0.0, min(last, woke) - max(first, due)) for due, woke in self._late)


@dataclass
class Outcome:
    """What a run left."""

    root: Path
    statuses: list[dict[str, Any]]
    lags: list[float]
    """Of the measured replica: lag of each heartbeat in seconds, less what the machine took."""
    raw_lags: list[float]
    memory: list[list[int]]
    """Resident bytes of each replica, once a second."""
    seconds: float

    @property
    def peaks(self) -> list[int]:
        return [max(series) for series in self.memory]

    def model(self) -> np.ndarray:
        """The certified model, float32 [d]."""
        name = self.statuses[0]["certified"]["model"]
        data = (self.root / "state" / "replica-0" / "blobs" / name[:2] / name).read_bytes()
        return np.frombuffer(data, dtype="<f4")

    def describe(self) -> str:
        ordered, raw = sorted(self.lags), sorted(self.raw_lags)
        return (
            f"{self.seconds:.1f} s; loop lag max {ordered[-1] * 1e3:.1f} ms, "
            f"p99 {ordered[len(ordered) * 99 // 100] * 1e3:.1f} ms of {len(ordered)} heartbeats "
            f"(with what the machine took: {raw[-1] * 1e3:.1f}, {raw[len(raw) * 99 // 100] * 1e3:.1f}); "
            f"memory MiB {[[value >> 20 for value in series] for series in self.memory]}"
        )


def deploy(root: Path, *, replicas: int, byzantine: int, clients: int, epochs: int) -> Outcome:
    """Run a deployment to its end: replica-0 measured, all clients in one process that yields to others."""
    sys.path.append(str(HERE))
    try:
        files = create_deployment(
            root,
            NewDeployment(
                replicas=replicas, byzantine=byzantine, clients=clients, task="large_model_task:constant"
            ),
        )
    finally:
        sys.path.remove(str(HERE))
    beats = root / "beats.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
        # Else the allocator keeps large blocks for itself, more or fewer of them from run to run.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    }

    def start(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        return process

    node = ("-m", "node.cli", "node", "--deployment", str(root))
    names = [argument for i in range(clients) for argument in ("--name", f"client-{i}")]
    with Pauses() as pauses, ExitStack() as stack:
        started = time.monotonic()
        processes = [start(str(HERE / "measured_replica.py"), str(root), "replica-0", str(beats))]
        processes += [
            start(*node, "--role", "aggregator", "--name", f"replica-{j}") for j in range(1, replicas)
        ]
        hosting = start(*node, "--role", "client", *names, "--epochs", str(epochs))
        os.setpriority(os.PRIO_PROCESS, hosting.pid, 10)
        memory: list[list[int]] = [[] for _ in processes]
        deadline = started + STARTUP_S + EPOCH_S * epochs
        while not is_over(files, replicas, clients):
            assert time.monotonic() < deadline, [read_status(files, f"replica-{j}") for j in range(replicas)]
            assert all(process.poll() is None for process in (*processes, hosting))
            for series, process in zip(memory, processes, strict=True):
                series.append(resident_bytes(process.pid))
            time.sleep(1.0)
        seconds = time.monotonic() - started
    statuses = [read_status(files, f"replica-{j}") for j in range(replicas)]
    measured = json.loads(beats.read_text())
    lags = [max(0.0, own - pauses.within(when - late, when)) for when, late, own, _ in measured]
    return Outcome(root, statuses, lags, [beat[1] for beat in measured], memory, seconds)


def read_status(files: DeploymentDirectory, name: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(files.status_file(name).read_text())
    except FileNotFoundError:
        return {}
    return value


def is_over(files: DeploymentDirectory, replicas: int, clients: int) -> bool:
    """All clients are done, and the replicas hold one certified ledger."""
    if not all(read_status(files, f"client-{i}").get("done") for i in range(clients)):
        return False
    statuses = [read_status(files, f"replica-{j}") for j in range(replicas)]
    if not all(status.get("certified") and status["groups_open"] == 0 for status in statuses):
        return False
    return (
        len({status["version"] for status in statuses} | {s["certified"]["version"] for s in statuses}) == 1
    )


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def assert_learned(outcome: Outcome, clients: int, epochs: int) -> None:
    """Nearly every upload is in, and every coordinate of the model has moved by their mean."""
    rows = outcome.statuses[0]["rows"]
    assert sum(rows.values()) >= 0.8 * clients * epochs
    model = outcome.model()
    assert model.size == PARAMETERS
    steps = sum(members / max(clients, members) for members in rows.values())
    # A row after a thin one expects fewer members, so its weight lies between the two.
    assert 0.99 * steps * STEP <= model.mean() <= 1.01 * epochs * STEP
    assert model.std() < STEP


@pytest.mark.timeout(300)
def test_the_loop_of_a_replica_stays_free_while_a_million_parameters_an_upload_arrive(tmp_path: Path) -> None:
    outcome = deploy(tmp_path / "run", replicas=1, byzantine=0, clients=4, epochs=2)
    print(outcome.describe())
    assert_learned(outcome, 4, 2)
    assert max(outcome.lags) < LONGEST_S, outcome.describe()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_replicas_train_a_million_parameters_and_none_blocks_its_loop(tmp_path: Path) -> None:
    outcome = deploy(tmp_path / "run", replicas=4, byzantine=1, clients=8, epochs=6)
    print(outcome.describe())
    assert_learned(outcome, 8, 6)
    assert len({status["certified"]["model"] for status in outcome.statuses}) == 1
    assert max(outcome.lags) < LONGEST_S, outcome.describe()
    assert max(outcome.peaks) < 800 << 20, outcome.describe()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_of_a_replica_holds_no_upload_of_each_client(tmp_path: Path) -> None:
    """Twenty clients more, and as many rows: some buffers for each channel, but not an upload (2.9 MB) each."""
    few, more = 4, 24
    outcomes = [
        deploy(tmp_path / str(clients), replicas=1, byzantine=0, clients=clients, epochs=RECENT_ROWS)
        for clients in (few, more)
    ]
    print(*(outcome.describe() for outcome in outcomes), sep="\n")
    growth = outcomes[1].peaks[0] - outcomes[0].peaks[0]
    assert growth < (more - few) * PARAMETERS * 23 // 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_of_a_replica_stops_growing_once_it_holds_the_recent_rows(tmp_path: Path) -> None:
    outcome = deploy(tmp_path / "run", replicas=1, byzantine=0, clients=4, epochs=4 * RECENT_ROWS)
    print(outcome.describe())
    (series,) = outcome.memory
    half = len(series) // 2
    assert max(series[half:]) - max(series[:half]) < 48 << 20, outcome.describe()
