"""The SQLite file of a node: how it is made, locked, checked, migrated, and refused.

- a file under its final name is always complete: a new one is built beside it and renamed;
- one process at a time (a lock file, released by the kernel when its holder dies);
- a file that is damaged, newer than this program or another node's is refused and left as it is.

What each table holds is in `docs/data-model.md`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self
from zlib import crc32

from asyncfl.errors import StorageError
from node.steps import FileAction, FileKind, Observer, observed, unobserved
from node.whole_files import make_directory, sync_directory

APPLICATION_ID: Final = int.from_bytes(b"asfl")
"""Marks a SQLite file as ours (`PRAGMA application_id`)."""

_TABLE: Final = (
    'CREATE TABLE "{}" (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID'
)
_FIRST_TABLES: Final = (
    "meta", "manifests", "shares", "seen", "locks", "groups", "items",
    "models", "epochs", "privacy",
)  # fmt: skip
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    # 0 -> 1. Spelt out, not taken from `Table`: a step once released never changes.
    (
        "CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        *(_TABLE.format(name) for name in _FIRST_TABLES),
    ),
    # 1 -> 2. Rosters after the first.
    (_TABLE.format("rosters"),),
    # 2 -> 3. What proves that somebody lied.
    (_TABLE.format("evidence"),),
    # 3 -> 4. What the operator took out of the model; certified versions, for audit.
    (_TABLE.format("exclusions"), _TABLE.format("certificates")),
)
"""Step i turns schema i into i+1. Every schema keeps `about`, so that any program can say whose a file is."""
SCHEMA_VERSION: Final = len(MIGRATIONS)

BUSY_SECONDS: Final = 1.0
"""How long to wait for a lock that a reader (a backup, a curious user) may hold for a moment."""
JOURNAL_BYTES: Final = 16 << 20
"""The write-ahead log is cut back to this size after a checkpoint."""

_WRITABLE: Final = (
    "the directory of a node's state must lie on a writable disk with free space and belong to its user"
)
_NO_RETURN: Final = (
    "Nothing was changed. Do not start this node from an older copy, or from nothing, under its identity: "
    "what it has signed or sent may be forgotten. It counts as faulty; to replace it, the operator makes a "
    "new deployment file (see docs/data-model.md)"
)
RESUMES: Final = "then start the node again: it resumes where it was"
_EXPLANATIONS: Final = {
    sqlite3.SQLITE_FULL: f"the disk is full; free some space, {RESUMES}",
    sqlite3.SQLITE_BUSY: "in use by another process; a node runs once at a time, so stop that process first",
    sqlite3.SQLITE_READONLY: f"cannot be written; {_WRITABLE}",
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened; {_WRITABLE}",
    sqlite3.SQLITE_PERM: f"permission denied; {_WRITABLE}",
    sqlite3.SQLITE_IOERR: f"reading or writing failed; check the disk and its free space, {RESUMES}",
}
_DAMAGE: Final = {
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE,
}  # fmt: skip


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into a `StorageError` that names the file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGE:
            raise damaged(path, str(error)) from error
        raise StorageError(f"{path}: {_EXPLANATIONS.get(code, 'the database refused')} ({error})") from error
    except UnicodeDecodeError as error:
        # SQLite's own message quotes what it found in the file.
        raise damaged(path, "its schema is no text") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; {_WRITABLE}") from error


def damaged(path: Path, detail: str) -> StorageError:
    """The error for a file that cannot be trusted."""
    return StorageError(f"{path}: the database is damaged ({detail}). {_NO_RETURN}")


def checksum(key: bytes, value: bytes) -> int:
    """CRC-32 of a row: SQLite checks its pages' structure only, and a flipped bit in a lock must be seen."""
    return crc32(value, crc32(key))


def is_sound(key: object, value: object, stored: object) -> bool:
    """Whether a row is what was written; a flipped bit can also change a column's type."""
    return isinstance(key, bytes) and isinstance(value, bytes) and checksum(key, value) == stored


class Lock:
    """The file beside a state file that its process holds, exclusively; the kernel lets go when the process dies.

    It holds the process number and, once the state file has been open, whether it was closed in order. Only then may
    the write-ahead log be absent: it holds what was committed last, and a node without it has forgotten promises.
    """

    _MARK: Final = 12
    """Where in the file the mark begins; the process number is before it."""
    _OPEN: Final = b"open  "
    _CLOSED: Final = b"closed"

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Hold the lock of the state file at `path`; makes its directory (mode 0700). Raises `StorageError`."""
        name = lock_file(path)
        with explained(name):
            make_directory(path.parent, mode=0o700)
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.pwrite(descriptor, str(os.getpid()).ljust(cls._MARK).encode(), 0)
            except BlockingIOError:
                holder = os.pread(descriptor, cls._MARK, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise StorageError(
                    f"{path}: in use by process {holder}; a node runs once at a time, so stop that process first"
                ) from None
            except OSError:
                os.close(descriptor)
                raise
        return cls(path, descriptor)

    def require_log(self) -> None:
        """Refuse a state file that was not closed in order and whose log is gone. Raises `StorageError`."""
        log = write_ahead_log(self._path)
        if self._read_mark() == self._OPEN and self._path.exists() and not log.exists():
            raise damaged(self._path, f"{log.name}, which holds what was written last, is gone")

    def mark_open(self) -> None:
        """The state file and its log are there and in use. Raises `StorageError`."""
        with explained(lock_file(self._path)):
            # Were the mark on disk and the log's name not, a power cut would make the file look robbed.
            sync_directory(self._path.parent)
            os.pwrite(self._descriptor, self._OPEN, self._MARK)

    def mark_closed(self) -> None:
        """The log is about to be copied into the state file, and to go. Raises `StorageError`."""
        with explained(lock_file(self._path)):
            os.pwrite(self._descriptor, self._CLOSED, self._MARK)
            os.fsync(self._descriptor)

    def release(self) -> None:
        os.close(self._descriptor)

    def _read_mark(self) -> bytes:
        with explained(lock_file(self._path)):
            return os.pread(self._descriptor, len(self._OPEN), self._MARK)


def lock_file(path: Path) -> Path:
    """Beside the state file at `path`."""
    return path.with_name(path.name + ".lock")


def write_ahead_log(path: Path) -> Path:
    """Where SQLite keeps what is committed and not yet in the state file at `path`."""
    return path.with_name(path.name + "-wal")


def require_no_orphans(path: Path, blobs: Path) -> None:
    """Refuse to start afresh where an earlier life of this node has left anything. Raises `StorageError`.

    A node whose state file is gone has forgotten its locks or secrets, and what it spent of its privacy budget;
    started anew under its old identity it could sign twice.
    """
    if path.exists():
        return
    with explained(path):
        traces = [write_ahead_log(path), path.with_name("status.json")]
        found = [trace for trace in traces if trace.exists()]
        if blobs.is_dir() and any(entry.is_file() for entry in blobs.rglob("*")):
            found.append(blobs)
        lock = lock_file(path)
        if lock.exists() and len(lock.read_bytes()) > Lock._MARK:
            found.append(lock)
    if found:
        raise StorageError(
            f"{path}: the state file is gone, but {found[0].name} is there: this node has run before. {_NO_RETURN}"
        )


def open_file(path: Path, owner: bytes, observe: Observer = unobserved) -> sqlite3.Connection:
    """A connection to the checked, migrated and exclusively held file at `path`, made where there is none.

    Explicit transactions only. Raises `StorageError`; then an existing file was not changed.
    """
    with explained(path):
        if not path.exists():
            _create(path, owner, observe)
        _inspect(path, owner)
        connection = _connect(path, "rw")
        try:
            # The first access takes the lock for good; with one connection no shared memory file is needed.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
            _migrate(connection)
            # What a killed process has written, but perhaps not synced, is read as if it were durable: it must be,
            # before anything is said that rests on it. A checkpoint syncs the log, then the file.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection


def _create(path: Path, owner: bytes, observe: Observer) -> None:
    draft = path.with_name(path.name + ".new")
    for leftover in ("", "-journal", "-wal", "-shm"):
        draft.with_name(draft.name + leftover).unlink(missing_ok=True)
    with observed(observe, FileAction.CREATE, FileKind.DATABASE):
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with observed(observe, FileAction.WRITE, FileKind.DATABASE), closing(_connect(draft, "rw")) as connection:
        # Here and not under the final name: this change has a journal of its own, and where a crash leaves that beside
        # the file, the file cannot be read without being written to.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _migrate(connection)
        connection.execute("INSERT INTO about VALUES ('owner', ?)", (owner,))
    with observed(observe, FileAction.RENAME, FileKind.DATABASE):
        draft.rename(path)
    with observed(observe, FileAction.SYNC_FOLDER, FileKind.DATABASE):
        sync_directory(path.parent)


def _inspect(path: Path, owner: bytes) -> None:
    """Read-only, so that a file that is refused stays exactly as it is."""
    if not path.is_file():
        raise StorageError(f"{path}: no file; put the node's state file back there. Nothing was changed")
    if path.stat().st_size == 0:
        raise damaged(path, "the file is empty")
    with closing(_connect(path, "ro")) as connection:
        if _number(connection, "application_id") != APPLICATION_ID:
            raise StorageError(
                f"{path}: a SQLite file, but not a state file of asyncfl; move it away. Nothing was changed"
            )
        found = _number(connection, "user_version")
        about = dict(connection.execute("SELECT name, value FROM about"))
        if found > SCHEMA_VERSION:
            program = about.get("program")
            writer = program.decode(errors="replace") if isinstance(program, bytes) else "of a newer version"
            raise StorageError(
                f"{path}: written by asyncfl {writer} (schema {found}); this is asyncfl {version('asyncfl')} "
                f"(schema {SCHEMA_VERSION}). Run asyncfl {writer} or newer. Nothing was changed"
            )
        if found < 1:
            # A file under its final name has had a schema from the start.
            raise damaged(path, f"its schema is number {found}")
        if about.get("owner") != owner:
            raise StorageError(
                f"{path}: the state of another node or deployment; every node keeps its own state directory, "
                "and a new deployment starts with empty ones. Nothing was changed"
            )
        report = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if report != "ok":
            raise damaged(path, str(report).replace("\n", " "))


def _migrate(connection: sqlite3.Connection) -> None:
    for step in range(_number(connection, "user_version"), SCHEMA_VERSION):
        connection.execute("BEGIN EXCLUSIVE")
        for statement in MIGRATIONS[step]:
            connection.execute(statement)
        connection.execute(
            "INSERT OR REPLACE INTO about VALUES ('program', ?)", (version("asyncfl").encode(),)
        )
        connection.execute(f"PRAGMA user_version = {step + 1}")
        connection.execute("COMMIT")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # isolation_level None: BEGIN and COMMIT are written out, never implied.
    return sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
