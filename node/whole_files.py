"""Files that are there whole or not at all, and directories that are still there after a power cut."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """Write `path` so that a crash at any moment leaves the old file or the new one, durably once this returns.

    The draft lies beside it under a hidden name, private until it is whole. Raises `OSError`; `FileExistsError` where
    `replace` is off and the file exists. Then nothing was changed.
    """
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)
        else:
            # A link, unlike a rename, never takes the place of a file that has come meanwhile.
            os.link(draft, path)
            os.unlink(draft)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    sync_directory(path.parent)


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Make `path` and what is missing above it, durably; the last with `mode`. Raises `OSError`."""
    if path.is_dir():
        return
    make_directory(path.parent)
    # Another thread or process may have been quicker.
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """What was created, renamed or deleted in `path` is on disk when this returns. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
