"""A task is found by its name; whatever is wrong with the name or the code behind it is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asyncfl.errors import ConfigurationError
from node.training.loader import load_task
from node.training.supervised import SupervisedTask

OWN_TASK = """
class Mine:
    def __init__(self, clients, seed, width): self.got = (clients, seed, width)
    def model(self): ...
    def train(self, module, client_index, settings, epoch): ...
    def evaluate(self, module): ...

def factory(clients, seed, width=8): return Mine(clients, seed, width)
def half(clients, seed): return [1]
def failing(clients, seed): raise OSError("no disk")
number = 3
"""


@pytest.fixture
def own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules own_task and broken_* on the path."""
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    (tmp_path / "broken_import.py").write_text("import no_such_dependency")
    (tmp_path / "broken_body.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_task", "broken_import", "broken_body"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("own_task")
def test_an_own_factory_gets_clients_seed_and_the_options() -> None:
    task = load_task("own_task:factory", clients=5, seed=7, options={"width": 3})
    assert task.got == (5, 7, 3)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("own_task")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nonsense", {}, "unknown task 'nonsense': use digits, npz:PATH or MODULE:FACTORY"),
        (":factory", {}, "unknown task"),
        ("own_task:", {}, "unknown task"),
        ("no_such_module:f", {}, "no module named 'no_such_module' here or on PYTHONPATH"),
        ("own_task.sub:f", {}, "importing 'own_task.sub' failed|no module named"),
        ("broken_import:f", {}, "importing 'broken_import' failed: No module named 'no_such_dependency'"),
        ("broken_body:f", {}, "importing 'broken_body' failed: ZeroDivisionError"),
        ("own_task:missing", {}, "module 'own_task' has no attribute 'missing'"),
        ("own_task:number", {}, "'number' in 'own_task' is a int, not a function"),
        ("own_task:half", {}, r"returned a list without model, train, evaluate\(\)"),
        ("own_task:factory", {"depth": 2}, r"does not take \(clients, depth, seed\).*'depth'"),
        ("own_task:factory", {"seed": 2}, "option 'seed' is set by the deployment itself"),
        ("digits", {"color": 1}, "does not take.*'color'"),
        ("digits", {"partition": "sorted"}, "unknown partition 'sorted'"),
    ],
)
def test_a_task_that_cannot_be_had_is_refused_with_the_cause(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_task(name, clients=4, options=options)


@pytest.mark.usefixtures("own_task")
def test_an_error_of_the_factory_itself_is_not_disguised() -> None:
    with pytest.raises(OSError, match="no disk"):
        load_task("own_task:failing", clients=4)


def test_a_module_in_the_current_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task_lying_here.py").write_text(OWN_TASK)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert load_task("task_lying_here:factory", clients=1)


def test_a_federation_without_clients_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="0 clients"):
        load_task("digits", clients=0)


def test_too_many_clients_for_the_data_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigurationError, match="1437 training examples cannot be split over 1000 clients"):
        load_task("digits", clients=1000)


def test_digits_are_built_in() -> None:
    assert isinstance(load_task("digits", clients=4), SupervisedTask)


def test_importing_the_loader_does_not_import_torch() -> None:
    code = "import node.training.loader, node.training.defaults, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
