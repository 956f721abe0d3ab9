"""One supervisor at a time in a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.file_lock import locked

LOCK_FILE: Final = ".supervisor.lock"


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """One supervisor at a time in a directory. Raises `ConfigurationError` when there is another."""

    def busy(descriptor: int) -> str:
        return (
            f"{root} is being run by process {os.read(descriptor, 20).decode()}; "
            "wait for it, or stop it with Ctrl-C there"
        )

    with locked(
        root / LOCK_FILE,
        os.O_RDWR | os.O_CREAT,
        busy=busy,
        remedy="the deployment's directory must be writable",
    ) as descriptor:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
