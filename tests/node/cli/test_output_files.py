"""What a user has written goes over no file that a deployment lives from, and over no device."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from node.cli import run_program
from node.commands.bench import bench
from node.deployment_files import DeploymentDirectory

from .conftest import Program
from .test_commands import with_model

OWN = (
    "deployment.toml", "model.safetensors", "operator.key", "exclusions.json", "keys/replica-0.key", "keys/new.key",
    "state/replica-1/status.json", "logs/replica-0.log", "result/result.json", ".supervisor.lock",
    "logs/../model.safetensors",
)  # fmt: skip


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def trained(copied: DeploymentDirectory) -> DeploymentDirectory:
    with_model(copied, "replica-1", 3, copied.initial_model())
    return copied


@pytest.mark.parametrize("name", OWN)
def test_export_leaves_the_deployments_own_files_alone(
    asyncfl: Program, trained: DeploymentDirectory, name: str
) -> None:
    before = contents(trained.root)
    outcome = asyncfl("export", trained.root, trained.root / name)
    assert outcome.code == 2
    assert "a deployment keeps its own files there" in outcome.stderr
    assert contents(trained.root) == before


def test_own_files_are_known_by_whatever_way_they_are_named(
    asyncfl: Program, trained: DeploymentDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(trained.root)
    (tmp_path / "link").symlink_to(trained.root)
    assert asyncfl("export", trained.root, tmp_path / "link" / "model.safetensors").code == 2
    keys = tmp_path / "safe"
    (trained.root / "keys").rename(keys)
    (trained.root / "keys").symlink_to(keys)
    assert asyncfl("export", trained.root, trained.root / "keys" / "replica-0.key").code == 2
    monkeypatch.chdir(trained.root)
    assert asyncfl("export", ".", "model.safetensors").code == 2
    # A deployment may call its initial model otherwise.
    text = Path("deployment.toml").read_text()
    Path("deployment.toml").write_text(text.replace('"model.safetensors"', '"first.safetensors"'))
    Path("model.safetensors").rename("first.safetensors")
    assert asyncfl("export", ".", "first.safetensors").code == 2
    assert sorted(contents(keys).values()) == sorted(
        data for path, data in before.items() if path.parent.name == "keys"
    )


def test_any_other_file_is_replaced(asyncfl: Program, trained: DeploymentDirectory, tmp_path: Path) -> None:
    for target in (tmp_path / "m.safetensors", trained.root / "trained.safetensors"):
        target.write_text("before")
        assert asyncfl("export", trained.root, target).code == 0
        assert target.stat().st_size > 1000


def test_what_is_no_regular_file_is_not_replaced(
    asyncfl: Program, trained: DeploymentDirectory, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(trained.model_file)
    for name in ("pipe", "folder", "link"):
        outcome = asyncfl("export", trained.root, tmp_path / name)
        assert outcome.code == 2
        assert "no regular file" in outcome.stderr
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("command", [("audit",), ("model", "list"), ("evidence", "list"), ("up",)])
def test_json_goes_over_no_own_file_and_no_device(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path, command: tuple[str, ...]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = contents(copied.root)
    for target, said in (
        (copied.root / "deployment.toml", "keeps its own files there"),
        (tmp_path / "pipe", "regular"),
    ):
        outcome = asyncfl(*command, copied.root, "--json", target)
        assert outcome.code == 2
        assert said in outcome.stderr
    assert contents(copied.root) == before
    assert (tmp_path / "pipe").is_fifo()


def test_json_replaces_an_ordinary_file(asyncfl: Program, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text("before")
    assert asyncfl("bench", "--dim", "1024", "--repeat", "1", "--json", tmp_path / "bench.json").code == 0
    assert json.loads((tmp_path / "bench.json").read_text())["dim"] == 1024


def test_a_script_refuses_as_the_program_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--json", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run_program(bench)
    assert ended.value.code == 2
    assert "no regular file" in capsys.readouterr().err
