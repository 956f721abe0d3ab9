"""Every point at which a node writes to its disk, read from the code, so that a new one cannot be forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncfl
from asyncfl.effects import Table
from node.steps import FileAction, FileKind, When

REPLICA: Final = "replica"
CLIENT: Final = "client"
NOT_A_NODE: Final = ("simulation", "adversary")
RECORD: Final = "record.py"
"""Of replicas alone, but read by whoever audits them."""
ROSTERS: Final = "put rosters"
LEAVES: Final = "put meta left:"
EVIDENCE: Final = "put evidence"
EXCLUSIONS: Final = "put exclusions"
ON_OCCASION: Final = {ROSTERS, LEAVES, EVIDENCE, EXCLUSIONS}
"""Reached only when something happens that is no part of every epoch."""


def writes(source: Path) -> Iterator[tuple[str, str]]:
    """(put or delete, table) of every `Put(Table.X, …)` and `Delete(Table.X, …)` in a file."""
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id not in {"Put", "Delete"} or not node.args:
            continue
        table = node.args[0]
        assert isinstance(table, ast.Attribute), f"{source}: a table that is not spelt out"
        yield node.func.id.lower(), Table[table.attr].value


def faults_of(source: Path) -> Iterator[tuple[str, When]]:
    """What the tests in a file kill at by name: `Fault(points.X, When.Y)`, or with `when`, which goes through both."""
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "Fault":
            continue
        point, *rest = map(ast.unparse, node.args)
        if point.startswith("points."):
            chosen = [when for when in When if rest[0] in ("when", f"When.{when.name}")]
            assert chosen, f"{source}: not said whether before or after {point}"
            yield from ((globals()[point.removeprefix("points.")], when) for when in chosen)


def rows_of(role: str) -> set[str]:
    """The (action, table) pairs in the code of a role, and in what both roles share, as `put locks`."""
    root = Path(asyncfl.__file__).parent
    others = (CLIENT,) if role == REPLICA else (REPLICA, RECORD)
    return {
        f"{action} {table}"
        for source in root.rglob("*.py")
        if source.relative_to(root).parts[0] not in (*NOT_A_NODE, *others)
        for action, table in writes(source)
    }


def table_of(point: str) -> str:
    """`put groups own:` -> `put groups`."""
    return " ".join(point.split()[:2])


REPLICA_ROWS: Final = (
    "put manifests", "put shares", "put seen", "put locks", "put groups own:", "put groups", "put items",
    "put models", "put certificates", "delete groups own:", "delete groups", "delete manifests", "delete shares",
)  # fmt: skip
CLIENT_ROWS: Final = (
    "put meta epoch", "put meta seen-entries", "put privacy", "put meta pending-upload", "put epochs",
    "put meta uploaded",
)  # fmt: skip
CREATION: Final = tuple(
    f"{action} {FileKind.DATABASE}"
    for action in (FileAction.CREATE, FileAction.WRITE, FileAction.RENAME, FileAction.SYNC_FOLDER)
)
FILES: Final = (
    *(
        f"{action} {kind}"
        for kind in (FileKind.BLOB, FileKind.RECEIVED)
        for action in (
            FileAction.CREATE,
            FileAction.WRITE,
            FileAction.SYNC,
            FileAction.RENAME,
            FileAction.SYNC_FOLDER,
        )
    ),
    f"{FileAction.DELETE} {FileKind.BLOB}",
    f"{FileAction.WRITE} {FileKind.STATUS}",
    f"{FileAction.RENAME} {FileKind.STATUS}",
    "commit",
)
KNOWN: Final = {*REPLICA_ROWS, *CLIENT_ROWS, *CREATION, *FILES, *ON_OCCASION}
