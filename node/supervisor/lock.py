"""One supervisor at a time in a directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asyncfl.errors import ConfigurationError, StorageError

LOCK_FILE: Final = ".supervisor.lock"


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """One supervisor at a time in a directory. Raises `ConfigurationError` when there is another."""
    path = root / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; the deployment's directory must be writable") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{root} is being run by process {os.read(descriptor, 20).decode()}; "
                "wait for it, or stop it with Ctrl-C there"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)
