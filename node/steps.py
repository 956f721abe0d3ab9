"""Every step that a node takes towards its disk, told to an observer before it is taken and once it has been.

An ordinary node has no observer, and no option or variable of the environment gives it one. Tests hand one to
`node.processes` that kills the process at a step, refuses it as a full disk would, or keeps a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from asyncfl.effects import Table


class When(StrEnum):
    BEFORE = "before"
    AFTER = "after"


class RowAction(StrEnum):
    PUT = "put"
    DELETE = "delete"


class FileAction(StrEnum):
    CREATE = "create"
    WRITE = "write"
    SYNC = "sync"
    RENAME = "rename"
    SYNC_FOLDER = "sync folder"
    DELETE = "delete"


class FileKind(StrEnum):
    DATABASE = "database"
    """A new state file, built beside its place."""
    BLOB = "blob"
    """One that this node has made itself, and every deletion."""
    RECEIVED = "received blob"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class RowStep:
    """One row of a transaction. Before: nothing of the transaction is on disk. After: all of it is."""

    action: RowAction
    table: Table
    key: bytes


@dataclass(frozen=True, slots=True)
class CommitStep:
    """A transaction, with its fsync."""


@dataclass(frozen=True, slots=True)
class FileStep:
    action: FileAction
    kind: FileKind


Step = RowStep | CommitStep | FileStep
Observer = Callable[[When, Step], None]
"""Called from any thread. An `OSError` that it raises before a step counts as the system's refusal of it."""


def unobserved(when: When, step: Step) -> None:
    """The observer of every ordinary node."""


@contextmanager
def observed(observe: Observer, action: FileAction, kind: FileKind) -> Iterator[None]:
    """Around one step on a file."""
    step = FileStep(action, kind)
    observe(When.BEFORE, step)
    yield
    observe(When.AFTER, step)
