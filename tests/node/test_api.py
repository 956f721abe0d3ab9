"""`asyncfl.run`: found through the entry point, light to import, and works where an event loop is running."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import asyncfl
from asyncfl.errors import ConfigurationError
from node.api import run

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_entry_point_is_the_function() -> None:
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["asyncfl.api"]
    assert EntryPoint("run", declared["run"], "asyncfl.api").load() is run


def test_the_package_takes_it_from_the_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("run", "node.api:run", "asyncfl.api")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name: [point])
    monkeypatch.delitem(vars(asyncfl), "run", raising=False)
    assert asyncfl.run is run
    monkeypatch.delitem(vars(asyncfl), "run")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name: [])
    with pytest.raises(AttributeError, match="install it again"):
        _ = asyncfl.run
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        _ = asyncfl.walk


def test_importing_asyncfl_imports_neither_the_shell_nor_torch() -> None:
    code = "import asyncfl, sys; sys.exit(any(name in sys.modules for name in ('node', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mistakes_are_raised_before_anything_is_made(tmp_path: Path) -> None:
    mistakes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"epochs": 0}, "epochs=0"),
        ({"clients": 0}, "clients=0"),
        ({"client_processes": 9}, "client_processes=9"),
        ({"task": "nonsense"}, "nonsense"),
        ({"parameters": {"klip": 1}}, "klip"),
    )
    for wrong, named in mistakes:
        with pytest.raises(ConfigurationError, match=named):
            run(directory=tmp_path / "run", **{"clients": 8, **wrong})
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_begin_leaves_no_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigurationError, match="learnin"):
        run(training={"learnin": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(240)
async def test_a_run_in_a_thread_of_a_running_loop_gives_accuracy_and_model(tmp_path: Path) -> None:
    outcome = await asyncio.to_thread(
        run, clients=2, replicas=1, byzantine=0, epochs=2, directory=tmp_path / "run", progress=False
    )
    assert outcome.ok, outcome.result["failures"]
    assert outcome.accuracy is not None
    assert outcome.accuracy > 0.3
    assert outcome.baseline_accuracy is None
    assert outcome.directory == tmp_path / "run"
    assert outcome.result == json.loads((tmp_path / "run" / "result" / "result.json").read_text())
    assert sum(tensor.numel() for tensor in load_file(outcome.model).values()) == 4810
