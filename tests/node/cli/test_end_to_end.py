"""Real processes, sockets and disks: a whole run, and how it ends when it is interrupted or killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.supervisor.watch import read_status

from .conftest import Program
from .test_children import eventually, gone

ASYNCFL = [sys.executable, "-m", "node.cli"]


@pytest.fixture
def alone(tmp_path: Path) -> DeploymentDirectory:
    """One replica and two clients, the fewest whose updates are masked."""
    wanted = NewDeployment(replicas=1, byzantine=0, clients=2)
    return create_deployment(tmp_path / "run", wanted)


@pytest.mark.timeout(240)
def test_a_run_goes_on_without_a_killed_replica_which_comes_back_with_the_same_model(
    asyncfl: Program, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    options = ["metrics=true", "metrics_cap=40", "weighting=examples", "examples_cap=150"]
    chosen = [word for option in options for word in ("--parameter", option)]
    assert asyncfl("init", root, "--clients", 8, *chosen).code == 0
    arguments = ["up", root, "--epochs", 8, "--kill", "replica-2@3", "--restart", "replica-2@5"]
    outcome = subprocess.run(
        [*ASYNCFL, *map(str, arguments), "--client-processes", "2", "--json", "-"],
        capture_output=True, text=True, timeout=220, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["ok"]
    assert result["failures"] == []
    assert (result["killed"], result["restarted"]) == (["replica-2"], ["replica-2"])
    assert result["epochs"] == 8
    assert result["entries_after_kill"] > 0
    assert set(result["model_digest"]) == {f"replica-{i}" for i in range(4)}
    assert len(set(result["model_digest"].values())) == 1
    assert sum(result["inclusion"].values()) == result["uploads"]["included"] <= result["uploads"]["sent"]
    assert result["accuracy"] > 0.5
    last = result["own_accuracy"]["8"]
    assert 0.5 * last["count"] < last["correct"] < last["count"]
    assert result["upload_bytes"]["overhead"] > 0
    for name in ("report.txt", "result.json", "accuracy.png", "model.safetensors"):
        assert (root / "result" / name).stat().st_size > 0
    # Without a terminal, progress is plain lines.
    assert "killed replica-2 (SIGKILL)" in outcome.stderr
    assert "\x1b[" not in outcome.stderr

    said = json.loads(asyncfl("evaluate", root, "--json").stdout)
    assert said["model"] == result["model_digest"]["replica-0"]
    assert said["accuracy"] == pytest.approx(result["accuracy"])
    assert asyncfl("export", root, tmp_path / "model.safetensors").code == 0
    exported, kept = (
        load_file(tmp_path / "model.safetensors"),
        load_file(root / "result" / "model.safetensors"),
    )
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) for name in kept)
    best = json.loads(asyncfl("export", root, tmp_path / "best.safetensors", "--best", "--json").stdout)
    assert load_file(tmp_path / "best.safetensors").keys() == kept.keys()
    assert 0 < best["rows"] < 8
    assert best["own_accuracy"] > 0.5
    facts = json.loads(asyncfl("status", root, "--json").stdout)
    assert not any(each["running"] for each in (*facts["replicas"].values(), *facts["clients"].values()))


class Running:
    """`asyncfl up` as a process, with the processes that it has started."""

    def __init__(self, files: DeploymentDirectory) -> None:
        self.files = files
        self.log = (files.root / "up.log").open("w+")
        self.process = subprocess.Popen(
            [*ASYNCFL, "up", str(files.root), "--epochs", "100000", "--client-processes", "1"],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def children(self) -> list[int]:
        """Once the replica, the clients' process and the evaluator are there and training is under way."""

        def under_way() -> bool:
            assert self.process.poll() is None, self.text()
            return read_status(self.files, "client-0").get("sent", 0) > 0

        assert eventually(under_way, 60)
        pids = [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        assert len(pids) == 3
        return pids

    def text(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()


@pytest.fixture
def running(alone: DeploymentDirectory) -> Iterator[Running]:
    run = Running(alone)
    yield run
    if run.process.poll() is None:
        run.process.kill()
    run.process.wait()
    run.log.close()


def test_a_second_up_is_refused_and_ctrl_c_ends_every_child_of_the_first(
    asyncfl: Program, running: Running
) -> None:
    pids = running.children()
    second = asyncfl("up", running.files.root)
    assert second.code == 2
    assert f"process {running.process.pid}" in second.stderr
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 130
    assert all(gone(pid) for pid in pids)
    assert "interrupted" in running.text()
    assert "Traceback" not in running.text()


def test_a_supervisor_killed_with_sigkill_leaves_no_orphan(running: Running) -> None:
    pids = running.children()
    running.process.kill()
    running.process.wait()
    assert eventually(lambda: all(gone(pid) for pid in pids), 30)


def test_a_port_in_use_ends_the_run_with_2_and_names_it(asyncfl: Program, alone: DeploymentDirectory) -> None:
    host, port = alone.deployment.replica("replica-0").address
    with socket.socket() as taken:
        taken.bind((host, port))
        taken.listen()
        outcome = asyncfl("up", alone.root)
    assert outcome.code == 2
    assert "replica-0" in outcome.stderr
    assert str(port) in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demonstration_passes(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [*ASYNCFL, "demo", str(tmp_path / "demo"), "--json", "-"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["accuracy"] >= 0.93
    assert result["accuracy"] >= result["baseline_accuracy"] - 0.02


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("beyond", [False, True], ids=["t at random", "t+1 at once"])
def test_killing_replicas_by_the_script(tmp_path: Path, beyond: bool) -> None:
    script = Path(__file__).parents[3] / "scripts" / "kill_replicas.py"
    command = [sys.executable, str(script), str(tmp_path / "run"), "--epochs", "40", "--json", "-"]
    outcome = subprocess.run(command + ["--beyond"] * beyond, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert len(set(result["model_digest"].values())) == 1
    assert result["outages"]
    if beyond:
        assert "3 are needed" in result["stall_message"]


def test_processes_killed_from_outside_are_started_again_and_training_goes_on(running: Running) -> None:
    running.children()
    for name in ("replica-0", "client-0"):
        os.kill(read_status(running.files, name)["pid"], signal.SIGKILL)
    sent = read_status(running.files, "client-0")["sent"]

    def goes_on() -> bool:
        assert running.process.poll() is None, running.text()
        return read_status(running.files, "client-0").get("sent", 0) > sent + 3

    assert eventually(goes_on, 60)
    assert running.text().count("killed from outside (SIGKILL)") == 2
