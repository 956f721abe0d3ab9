"""`asyncfl plan` and `asyncfl privacy` as a person meets them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asyncfl.effects import Put, Table
from asyncfl.errors import StorageError
from asyncfl.privacy.accountant import Mechanism, epsilon
from asyncfl.wire import pack
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.privacy_events import read_events
from node.storage import Storage

MULTIPLIER, GROUP = 5.0, 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DeploymentDirectory:
    parameters = {"cell_size": GROUP, "min_group": GROUP, "noise_multiplier": MULTIPLIER}
    root = tmp_path_factory.mktemp("made") / "run"
    return create_deployment(root, NewDeployment(clients=GROUP, parameters=parameters))


@pytest.fixture
def files(made: DeploymentDirectory, tmp_path: Path) -> DeploymentDirectory:
    shutil.copytree(made.root, tmp_path / "run")
    return DeploymentDirectory.load(tmp_path / "run")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "160"})


def facts_of(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


def opened(files: DeploymentDirectory, name: str) -> Storage:
    return Storage.open(files.state(name) / "state.sqlite", owner=owner_of(files, name))


def owner_of(files: DeploymentDirectory, name: str) -> bytes:
    keys = {known: key for key, known in files.deployment.names.items()}
    return files.deployment.digest + keys[name]


async def write(storage: Storage, epochs: range, multiplier: float = MULTIPLIER) -> None:
    for epoch in epochs:
        event = pack((epoch, multiplier, GROUP))
        await storage.commit([Put(Table.PRIVACY, epoch.to_bytes(8, "big"), event)])


def settle(files: DeploymentDirectory, name: str) -> None:
    """As if the file had been written a while ago."""
    past = time.time() - 10
    os.utime(files.state(name) / "state.sqlite", (past, past))


async def uploads(files: DeploymentDirectory, name: str, count: int, multiplier: float = MULTIPLIER) -> None:
    storage = opened(files, name)
    await write(storage, range(1, count + 1), multiplier)
    await storage.close()
    settle(files, name)


async def test_epsilon_spent_and_left_per_client(files: DeploymentDirectory) -> None:
    await uploads(files, "client-0", 3)
    facts = facts_of(run("privacy", files.root, "--json", "--budget", "3"))
    assert facts["noise_multiplier"] == MULTIPLIER
    said = facts["clients"]["client-0"]
    expected = epsilon(Mechanism.of(files.deployment.parameters, 4810), 3, 1e-5)
    assert said["uploads"] == 3
    assert said["epsilon"] == expected
    assert said["epsilon_left"] == 3 - expected
    assert said["uploads_left"] > 0
    assert facts["clients"]["client-1"]["known"] is False
    shown = run("privacy", files.root).stdout
    assert f"{expected:.4f}" in shown
    assert "never run here" in shown


async def test_a_running_client_is_read_without_disturbing_it(files: DeploymentDirectory) -> None:
    storage = opened(files, "client-0")
    await write(storage, range(1, 6))
    settle(files, "client-0")
    before = {path.name: path.read_bytes() for path in files.state("client-0").iterdir()}
    said = facts_of(run("privacy", files.root, "--json"))["clients"]["client-0"]
    assert said["uploads"] == 5
    assert {path.name: path.read_bytes() for path in files.state("client-0").iterdir()} == before
    await write(storage, range(6, 8))
    assert facts_of(run("privacy", files.root, "--json"))["clients"]["client-0"]["uploads"] == 7
    await storage.close()


async def test_events_are_whole_prefixes_while_a_client_writes(files: DeploymentDirectory) -> None:
    storage = opened(files, "client-0")
    path = files.state("client-0") / "state.sqlite"
    owner = owner_of(files, "client-0")
    writer = asyncio.create_task(write(storage, range(1, 1500)))
    seen = []
    while not writer.done():
        rows = await asyncio.to_thread(read_events, path, owner)
        assert sorted(rows) == [epoch.to_bytes(8, "big") for epoch in range(1, len(rows) + 1)]
        seen.append(len(rows))
    await storage.close()
    assert seen == sorted(seen)
    settle(files, "client-0")
    assert len(read_events(path, owner)) == 1499


async def test_an_event_of_other_noise_is_a_failure_that_names_the_client(files: DeploymentDirectory) -> None:
    await uploads(files, "client-0", 1)
    await uploads(files, "client-1", 1, multiplier=1.0)
    facts = facts_of(run("privacy", files.root, "--json"), code=1)
    assert facts["clients"]["client-0"]["epsilon"] > 0
    said = facts["clients"]["client-1"]
    assert said["epsilon"] is None
    assert "noise multiplier 1 " in said["problem"]


async def test_a_damaged_state_file_is_told_and_the_others_are_shown(files: DeploymentDirectory) -> None:
    await uploads(files, "client-0", 1)
    await uploads(files, "client-1", 1)
    path = files.state("client-1") / "state.sqlite"
    path.write_bytes(b"no database" * 1000)
    settle(files, "client-1")
    facts = facts_of(run("privacy", files.root, "--json"), code=3)
    assert facts["clients"]["client-0"]["epsilon"] > 0
    assert str(path) in facts["clients"]["client-1"]["problem"]


def test_a_state_file_that_cannot_settle_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.privacy_events.PAUSE_SECONDS", 0.0)
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"x")
    future = time.time() + 0.02
    os.utime(path, (future, future))
    monkeypatch.setattr("node.privacy_events.SETTLED_NS", 10**12)
    with pytest.raises(StorageError, match="stop the node"):
        read_events(path, b"")


def test_uploads_without_noise_are_said_to_have_no_epsilon(tmp_path: Path) -> None:
    files = create_deployment(tmp_path / "run", NewDeployment(clients=4))
    asyncio.run(_one_upload_without_noise(files))
    result = run("privacy", files.root, "--budget", "8")
    assert "no differential privacy" in result.stdout
    assert "unbounded" in result.stdout
    said = facts_of(run("privacy", files.root, "--json"))["clients"]["client-0"]
    assert (said["epsilon"], said["private"]) == (None, False)


async def _one_upload_without_noise(files: DeploymentDirectory) -> None:
    storage = opened(files, "client-0")
    group = files.deployment.parameters.min_group
    await storage.commit([Put(Table.PRIVACY, (1).to_bytes(8, "big"), pack((1, 0.0, group)))])
    await storage.close()
    settle(files, "client-0")


def test_plan_prints_a_verdict_and_json() -> None:
    arguments = ["plan", "--epsilon", "1", "--delta", "1e-5", "--epochs", "120", "--clients", "1000"]
    shown = run(*arguments, "--min-group", "3")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("not usable")
    facts = facts_of(run(*arguments, "--min-group", "32", "--json"))
    assert {"noise_multiplier", "epsilon", "error", "verdict", "sweep"} <= set(facts)


def test_plan_with_colluders_tells_the_allowance_and_the_chance() -> None:
    shown = run("plan", "--epsilon", "1", "--malicious-fraction", "0.1")
    assert "19 members of a group are not counted on" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--epsilon", "0"],
        ["plan", "--epsilon", "1", "--delta", "2"],
        ["plan", "--epsilon", "1", "--clients", "5"],
        ["plan", "--epsilon", "1", "--malicious-fraction", "0.9"],
        ["privacy", "nowhere"],
        ["privacy", "nowhere", "--delta", "0"],
        ["privacy", "nowhere", "--budget", "-1"],
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["plan", "privacy"])
def test_the_commands_import_no_torch(command: str, made: DeploymentDirectory) -> None:
    arguments = ["plan", "--epsilon", "1"] if command == "plan" else ["privacy", str(made.root)]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom node.cli import app\n"
        f"assert CliRunner().invoke(app, {arguments!r}).exit_code == 0\nsys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_copy_that_a_checkpoint_may_have_overlapped_is_made_again(
    files: DeploymentDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await uploads(files, "client-0", 2)
    path, copies = files.state("client-0") / "state.sqlite", []
    whole = shutil.copyfile

    def torn_at_first(source: Path, target: Path) -> None:
        whole(source, target)
        if source == path:
            copies.append(target)
            if len(copies) == 1:
                target.write_bytes(target.read_bytes()[:4096])
                past = time.time() - 5
                os.utime(path, (past, past))

    monkeypatch.setattr("node.privacy_events.shutil.copyfile", torn_at_first)
    assert len(read_events(path, owner_of(files, "client-0"))) == 2
    assert len(copies) == 2


async def test_a_flipped_bit_in_an_event_is_damage(files: DeploymentDirectory) -> None:
    await uploads(files, "client-0", 1)
    path = files.state("client-0") / "state.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE privacy SET value = ?", (pack((1, 2 * MULTIPLIER, GROUP)),))
    connection.close()
    settle(files, "client-0")
    with pytest.raises(StorageError, match="checksum"):
        read_events(path, owner_of(files, "client-0"))
