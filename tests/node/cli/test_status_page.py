"""`asyncfl status` on a narrow terminal, and of states that say nothing."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node.cli import app
from node.deployment_files import DeploymentDirectory

from .conftest import Program


def shown(root: Path, columns: int = 80) -> list[str]:
    done = CliRunner().invoke(app, ["status", str(root)], env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert done.exit_code == 0
    return done.stdout.splitlines()


def say(files: DeploymentDirectory, name: str, **changes: Any) -> None:
    path = files.status_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    status = {
        "deployment": files.deployment.digest.hex(), "pid": os.getpid(), "time": time.time() + 60,
        "state": "catching_up", "entries": 123456, "epoch": 41234, "version": "ab" * 32,
        "connected": 15, "connected_clients": 250, "bytes_in": 123_456_789, "bytes_out": 987_600_000,
    }  # fmt: skip
    path.write_text(json.dumps({**status, **changes}))


def renamed(files: DeploymentDirectory, name: str) -> DeploymentDirectory:
    """The deployment with `name` for replica-0."""
    path = files.root / "deployment.toml"
    path.write_text(path.read_text().replace('"replica-0"', f'"{name}"'))
    return DeploymentDirectory.load(files.root)


@pytest.mark.parametrize("name", ["replica-0", "hospital-north-01", "northern-university-hospital-001"])
def test_names_are_whole_on_80_columns(copied: DeploymentDirectory, name: str) -> None:
    files = renamed(copied, name)
    say(files, name)
    say(files, "replica-1", deployment="00" * 32)
    lines = shown(files.root)
    assert all(len(line.rstrip()) <= 80 for line in lines if line.startswith(("replica", name)))
    assert any(re.match(rf"{name} ", line) for line in lines)
    for other in ("replica-1", "replica-3", "client-0", "client-5"):
        assert any(line.startswith(f"{other} ") for line in lines)


@pytest.mark.parametrize("name", ["replica-0", "hospital-north-01"])
def test_figures_are_whole_on_80_columns(copied: DeploymentDirectory, name: str) -> None:
    files = renamed(copied, name)
    say(files, name)
    page = "\n".join(shown(files.root))
    assert "…" not in page
    for figure in ("123456", "41234", "abababab", "15+250", "123.5", "987.6"):
        assert figure in page


def test_a_name_longer_than_the_terminal_folds(copied: DeploymentDirectory) -> None:
    name = "".join(f"-{number:02d}" for number in range(10, 31)).lstrip("-")
    files = renamed(copied, name)
    column = "".join(line.split(" ")[0] for line in shown(files.root, 60))
    assert name in column


@pytest.mark.parametrize("content", [b"zz", b"{}", b"[1]", b"\xff", b'{"deployment": 7}', b""])
def test_a_damaged_status_is_called_unreadable(
    asyncfl: Program, copied: DeploymentDirectory, content: bytes
) -> None:
    for name in ("replica-0", "client-1"):
        say(copied, name)
        copied.status_file(name).write_bytes(content)
    say(copied, "replica-2", deployment="00" * 32)
    facts = json.loads(asyncfl("status", copied.root, "--json").stdout)
    assert facts["replicas"]["replica-0"] == {"running": False, "state": "unreadable status"}
    assert facts["clients"]["client-1"]["state"] == "unreadable status"
    assert facts["replicas"]["replica-2"]["state"] == "of another deployment"
    assert facts["replicas"]["replica-3"]["state"] == "never run here"
    assert "unreadable status" in asyncfl("status", copied.root).stdout


def test_commands_that_are_shown_can_be_pasted(asyncfl: Program, tmp_path: Path) -> None:
    root = tmp_path / "my dir"
    made = asyncfl("init", root, "--clients", "6")
    assert f"next: asyncfl up '{root}' --epochs 20" in made.stdout
    for command in ("audit", "evaluate"):
        assert f"asyncfl up '{root}'" in asyncfl(command, root).stderr
    assert f"asyncfl init '{tmp_path / 'no dir'}'" in asyncfl("status", tmp_path / "no dir").stderr
