"""One process at a time, by a lock on an open file: it goes with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncfl.errors import ConfigurationError, StorageError


@contextmanager
def locked(path: Path, flags: int, *, busy: Callable[[int], str], remedy: str = "") -> Iterator[int]:
    """Hold the lock on `path`, opened with `flags`; yields the descriptor.

    Raises `ConfigurationError` with what `busy` makes of the descriptor while another process holds it, and
    `StorageError`, with `remedy` if there is one, for a file that cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}{remedy and '; '}{remedy}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(busy(descriptor)) from None
        yield descriptor
    finally:
        os.close(descriptor)
