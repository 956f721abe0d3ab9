"""Read a table of a node's durable state without touching it, also while the node runs.

A running node holds its file exclusively, so a copy of the file and its write-ahead log is read. A copy that a
checkpoint of the node may have overlapped is thrown away: then the main file changed, or has only just. So is one in
which the node began its log anew: then part of the copy is older than the file, and would take back what is in it.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from asyncfl.effects import Table
from asyncfl.errors import StorageError
from node.state_file import damaged, explained, is_sound, open_file, require_no_orphans, write_ahead_log

SETTLED_NS: Final = 50_000_000
"""A main file that changed more recently may be in the middle of a checkpoint (file times tick in 1 to 10 ms)."""
LOG_HEADER_BYTES: Final = 32
"""SQLite's, with salts that change each time."""
ATTEMPTS: Final = 20
PAUSE_SECONDS: Final = 0.1


def read_events(path: Path, owner: bytes) -> dict[bytes, bytes]:
    """A client's rows of the privacy table; see `read_table`."""
    return read_table(path, owner, Table.PRIVACY)


def read_table(path: Path, owner: bytes, table: Table) -> dict[bytes, bytes]:
    """The rows of one table in the state file at `path`; see `read_tables`."""
    return read_tables(path, owner, (table,))[table]


def read_tables(path: Path, owner: bytes, tables: Iterable[Table]) -> dict[Table, dict[bytes, bytes]]:
    """The rows of some tables in the state file at `path`, all of one moment; the file stays as it is.

    `owner` is the deployment's digest and the node's public key. Raises `StorageError` as `Storage.open`
    does, and when the node writes so often that no copy succeeds.
    """
    with explained(path):
        require_no_orphans(path, path.with_name("blobs"))
    with tempfile.TemporaryDirectory(prefix="asyncfl-state-") as folder:
        copy = Path(folder) / path.name
        for _ in range(ATTEMPTS):
            if _copied(path, copy):
                break
            time.sleep(PAUSE_SECONDS)
        else:
            raise StorageError(f"{path}: written to all the time; try again, or stop the node first")
        try:
            return {table: _rows(copy, owner, table) for table in tables}
        except StorageError as error:
            raise StorageError(str(error).replace(str(copy), str(path))) from None


def _copied(path: Path, copy: Path) -> bool:
    """Copy the file, then its log; whether the file kept still meanwhile."""
    log = write_ahead_log(path)
    with explained(path):
        before, header = path.stat(), _header(log)
        if abs(time.time_ns() - before.st_mtime_ns) < SETTLED_NS:
            return False
        try:
            shutil.copyfile(path, copy)
            try:
                shutil.copyfile(log, write_ahead_log(copy))
            except FileNotFoundError:
                write_ahead_log(copy).unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise StorageError(
                f"{copy.parent}: no room for a copy of {path}, which its node may be writing to; free some space "
                "there, or set TMPDIR to a directory that has some"
            ) from None
        after = path.stat()
        same = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
        return same and header == _header(log)


def _header(log: Path) -> bytes:
    """Of the write-ahead log; another one each time that it begins anew. Empty where there is no log."""
    try:
        with log.open("rb") as file:
            return file.read(LOG_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _rows(copy: Path, owner: bytes, table: Table) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    with closing(open_file(copy, owner)) as connection, explained(copy):
        for key, value, stored in connection.execute(f'SELECT key, value, checksum FROM "{table}"'):
            if not is_sound(key, value, stored):
                raise damaged(copy, f"a row of table {table} fails its checksum")
            rows[key] = value
    return rows
