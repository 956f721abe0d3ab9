"""Arrows point one way: `node -> asyncfl`, and `asyncfl` does no I/O of its own."""

import ast
from pathlib import Path

import pytest

import asyncfl

CORE = Path(asyncfl.__file__).parent
FORBIDDEN = {
    "node",
    "websockets",
    "asyncio",
    "sqlite3",
    "socket",
    "threading",
    "time",
    "random",
    "subprocess",
}
INTEGRATIONS = CORE / "integrations"
FRAMEWORKS = {"flwr"}
"""What integrations are with: optional, so nothing else may need it."""
ASYNCFL_MODULES = sorted(CORE.rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", ASYNCFL_MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_imports_no_io(path: Path) -> None:
    assert not imported_packages(path) & FORBIDDEN


@pytest.mark.parametrize("path", ASYNCFL_MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_frameworks_are_imported_by_integrations_alone_and_these_by_nobody(path: Path) -> None:
    if INTEGRATIONS not in path.parents:
        assert not imported_packages(path) & FRAMEWORKS
        assert "asyncfl.integrations" not in path.read_text()


def test_the_rule_sees_an_offender(tmp_path: Path) -> None:
    offender = tmp_path / "offender.py"
    offender.write_text("def f():\n    import sqlite3.dbapi2\n    from node.cli import main\n")
    assert imported_packages(offender) & FORBIDDEN == {"sqlite3", "node"}
