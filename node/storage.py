"""Durable state: the tables of `asyncfl.effects.Table`, written by one thread, on disk when `commit` returns.

A commit is all or nothing. After one that failed there is no other: what is on disk is then some prefix of
what was asked, and only a restart may build on it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from asyncfl.effects import Delete, Put, Table
from asyncfl.errors import StorageError
from node.state_file import Lock, checksum, damaged, explained, is_sound, open_file
from node.steps import CommitStep, Observer, RowAction, RowStep, When, unobserved

MAX_PENDING_COMMITS: Final = 8
"""Further callers of `commit` wait: the queue to the disk stays bounded."""


class Storage:
    """An open state file. Made by `Storage.open`; `commit` and `close` belong to one event loop."""

    def __init__(
        self,
        path: Path,
        lock: Lock,
        thread: ThreadPoolExecutor,
        connection: sqlite3.Connection,
        observe: Observer,
    ) -> None:
        self.path = path
        self._lock = lock
        self._thread = thread
        self._connection = connection
        self._observe = observe
        self._pending = asyncio.Semaphore(MAX_PENDING_COMMITS)
        self._failure: StorageError | None = None
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, owner: bytes = b"", observe: Observer = unobserved) -> Self:
        """Open the state file at `path`, or create it, and hold it until `close`. Blocks.

        `owner` (deployment digest and public key) is written into a new file and must match an existing one.
        Raises `StorageError`: in use by another process, damaged, cut to nothing, robbed of its log, written by a
        newer program, another owner's, not readable or writable, disk full. Then an existing file was not changed.
        """
        lock = Lock.acquire(path)
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"storage-{path.parent.name}")
        try:
            lock.require_log()
            connection = thread.submit(open_file, path, owner, observe).result()
            lock.mark_open()
        except BaseException:
            thread.shutdown()
            lock.release()
            raise
        return cls(path, lock, thread, connection, observe)

    def load(self) -> dict[Table, dict[bytes, bytes]]:
        """The content of every table. Blocks. Raises `StorageError` for a damaged row."""
        return self._thread.submit(self._load).result()

    def _load(self) -> dict[Table, dict[bytes, bytes]]:
        content: dict[Table, dict[bytes, bytes]] = {}
        with explained(self.path):
            for table in Table:
                rows = content[table] = {}
                query = f'SELECT key, value, checksum FROM "{table}"'
                for key, value, stored in self._connection.execute(query):
                    if not is_sound(key, value, stored):
                        raise damaged(self.path, f"a row of table {table} fails its checksum")
                    rows[key] = value
        return content

    async def commit(self, writes: Sequence[Put | Delete]) -> None:
        """Apply `writes` in order in one transaction; returns once they are on disk (fsync).

        Raises `StorageError`, now and for every later commit, if the database refuses.
        """
        async with self._pending:
            if self._closed:
                raise StorageError(f"{self.path}: already closed")
            await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, writes)

    def _commit(self, writes: Sequence[Put | Delete]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            with explained(self.path):
                steps = [_step(write) for write in writes]
                self._connection.execute("BEGIN IMMEDIATE")
                for write, step in zip(writes, steps, strict=True):
                    self._observe(When.BEFORE, step)
                    if isinstance(write, Put):
                        self._connection.execute(
                            f'INSERT OR REPLACE INTO "{write.table}" VALUES (?, ?, ?)',
                            (write.key, write.value, checksum(write.key, write.value)),
                        )
                    else:
                        self._connection.execute(f'DELETE FROM "{write.table}" WHERE key = ?', (write.key,))
                self._observe(When.BEFORE, CommitStep())
                self._connection.execute("COMMIT")
                self._observe(When.AFTER, CommitStep())
                for step in steps:
                    self._observe(When.AFTER, step)
        except StorageError as error:
            self._failure = error
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise

    async def close(self) -> None:
        """Finish what is under way, close the file, and let go of it."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        finally:
            self._thread.shutdown(wait=False)
            self._lock.release()

    def _close(self) -> None:
        # Closing copies the write-ahead log into the file and deletes it; where that fails, it is read next time.
        with suppress(sqlite3.Error, StorageError):
            self._lock.mark_closed()
            self._connection.close()


def _step(write: Put | Delete) -> RowStep:
    action = RowAction.PUT if isinstance(write, Put) else RowAction.DELETE
    return RowStep(action, write.table, write.key)
