"""What `asyncfl demo` does before the run: a fresh directory of its own, and the kill and restart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from asyncfl.errors import ConfigurationError, StorageError
from node.supervisor.lock import exclusive
from node.supervisor.plan import Action, Moment, ScriptedPlan, Step

MARKER: Final = ".asyncfl-demo"
"""In a directory that `asyncfl demo` made, and may therefore delete."""


def fresh_directory(root: Path) -> None:
    """Make `root` an empty directory of ours; an earlier demonstration there is deleted.

    Raises `ConfigurationError` when it holds anything else or is in use, `StorageError`.
    """
    try:
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise ConfigurationError(f"{root} is no directory; name another one: asyncfl demo DIR")
        if root.is_dir() and any(root.iterdir()):
            if not (root / MARKER).is_file():
                raise ConfigurationError(
                    f"{root} holds something that `asyncfl demo` did not make, so it is left alone; "
                    "name another directory: asyncfl demo DIR"
                )
            with exclusive(root):
                shutil.rmtree(root)
        root.mkdir(parents=True, exist_ok=True)
        (root / MARKER).write_text(
            "Made by `asyncfl demo`, which deletes this directory when it runs again.\n"
        )
    except OSError as error:
        raise StorageError(
            f"{error.filename or root}: {error.strerror}; name one on a writable disk: asyncfl demo DIR"
        ) from None


def demo_plan(victim: str, epochs: int) -> ScriptedPlan:
    """Kill `victim` after a third of the epochs, start it again after two thirds."""
    down, up = max(1, epochs // 3 + 1), max(2, 2 * epochs // 3 + 1)
    return ScriptedPlan(
        [Step(Action.KILL, victim, Moment(epoch=down))], [Step(Action.RESTART, victim, Moment(epoch=up))]
    )
