"""The content-addressed store on disk: uploads, models and opened sums, each a file named by its digest.

Layout: ``<root>/ab/abcdef…`` (64 hex digits) for what is complete, ``<root>/incoming/`` for what is being
written or received. A file moves into place by rename after fsync, and its directory is synced before the
call returns, so a complete name always holds complete content. Whatever lies in ``incoming`` at start is
left from an earlier process and is deleted.

All methods block on the disk: call them from worker threads. They may be called from several at once.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from asyncfl.digest import DIGEST_BYTES, content_digest
from asyncfl.errors import BlobMissing, InvalidItem, LocalProtocolError, StorageError
from node.state_file import RESUMES
from node.steps import FileAction, FileKind, Observer, observed, unobserved
from node.whole_files import make_directory, sync_directory

MAX_SUSPENDED: Final = 64
"""Interrupted receives that are kept for resumption; the oldest beyond that are deleted."""

_COPY: Final = (
    "every node that holds this blob has it under the same name: put a copy there and start the node again; where "
    "nobody has one, replace the node (docs/data-model.md)"
)
_BLOB_NAME: Final = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
_REMEDIES: Final = {
    errno.ENOSPC: f"the disk is full: free some space, {RESUMES}",
    errno.EDQUOT: f"the disk quota is used up: free some space or raise it, {RESUMES}",
    errno.EROFS: f"the file system is read-only: remount it writable, {RESUMES}",
    errno.EACCES: "permission denied: give this user write access to the state directory",
    errno.EPERM: "permission denied: give this user write access to the state directory",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.EIO: "the disk reports an input/output error: check the hardware",
}


class BlobStore:
    """Blobs under `root`, which is created if need be. Raises `StorageError`."""

    def __init__(self, root: Path | str, *, observe: Observer = unobserved) -> None:
        self.root = Path(root)
        self._observe = observe
        self._incoming = self.root / "incoming"
        self._lock = threading.Lock()
        self._suspended: OrderedDict[tuple[bytes, bytes], Incoming] = OrderedDict()
        self._active: set[tuple[bytes, bytes]] = set()
        self._counter = 0
        with storage_errors(self.root):
            make_directory(self._incoming)
            for leftover in self._incoming.iterdir():
                leftover.unlink()
            # Folders that a killed process has made, and not yet synced.
            sync_directory(self.root)

    def __repr__(self) -> str:
        return f"BlobStore({str(self.root)!r})"

    def path(self, digest: bytes) -> Path:
        """Where the blob of this digest is, or would be."""
        if len(digest) != DIGEST_BYTES:
            raise LocalProtocolError(f"a blob is named by {DIGEST_BYTES} bytes, not {len(digest)}")
        name = digest.hex()
        return self.root / name[:2] / name

    def has(self, digest: bytes) -> bool:
        return self.path(digest).exists()

    def size(self, digest: bytes) -> int:
        """In bytes. Raises `StorageError` when the blob is absent."""
        path = self.path(digest)
        with storage_errors(path):
            return path.stat().st_size

    def read(self, digest: bytes) -> bytes:
        """The whole blob, checked against its digest. Raises `StorageError` when it is absent or damaged."""
        path = self.path(digest)
        with storage_errors(path):
            data = path.read_bytes()
        if content_digest(data) != digest:
            raise StorageError(f"{path} is damaged (its content has another digest): {_COPY}")
        return data

    def read_into(self, digest: bytes, offset: int, target: memoryview) -> None:
        """Fill `target` with the blob's bytes from `offset` on; unchecked, for sending.

        Raises `StorageError` when the blob is absent or ends before that.
        """
        path = self.path(digest)
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while target:
                    count = os.preadv(descriptor, [target], offset)
                    if not count:
                        raise StorageError(f"{path} is shorter than it was: {_COPY}")
                    target = target[count:]
                    offset += count
            finally:
                os.close(descriptor)

    def write(self, data: bytes) -> bytes:
        """Store durably; returns the digest. A blob that is already there is left as it is."""
        digest = content_digest(data)
        if self.has(digest):
            # It may have got its name a moment ago, in another thread or in a process that was killed then.
            with storage_errors(self.path(digest)):
                sync_directory(self.path(digest).parent)
            return digest
        with self._lock:
            self._counter += 1
            temporary = self._incoming / f"{self._counter}.tmp"
        with storage_errors(temporary):
            try:
                with observed(self._observe, FileAction.CREATE, FileKind.BLOB):
                    descriptor = _create(temporary)
                try:
                    with observed(self._observe, FileAction.WRITE, FileKind.BLOB):
                        _write_all(descriptor, data)
                    with observed(self._observe, FileAction.SYNC, FileKind.BLOB):
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self._publish(temporary, digest, FileKind.BLOB)
            except OSError:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
        return digest

    def delete(self, digest: bytes) -> None:
        """Forget the blob; nothing happens when it is absent."""
        path = self.path(digest)
        with storage_errors(path), observed(self._observe, FileAction.DELETE, FileKind.BLOB):
            path.unlink(missing_ok=True)

    def digests(self) -> Iterator[bytes]:
        """The names of all complete blobs. What else lies among them is somebody else's, and left alone."""
        with storage_errors(self.root):
            for path in self.root.glob("??/*"):
                if _BLOB_NAME.fullmatch(path.name):
                    yield bytes.fromhex(path.name)

    def receive(self, source: bytes, digest: bytes, size: int) -> Incoming:
        """Begin, or resume, the receive of a blob from `source`.

        What one source sent is never continued by another: a liar's first half would spoil an honest
        sender's second. Raises `LocalProtocolError` while the same receive is under way.
        """
        key = (source, digest)
        with self._lock:
            if key in self._active:
                raise LocalProtocolError(f"blob {digest.hex()[:16]}… is already being received from there")
            self._active.add(key)
            resumed = self._suspended.pop(key, None)
        if resumed is not None and resumed.size == size:
            try:
                resumed._reopen()
            except StorageError:
                resumed._drop()
            else:
                return resumed
        try:
            return Incoming(self, source, digest, size)
        except StorageError:
            self._release(key)
            raise

    def _suspend(self, incoming: Incoming) -> None:
        with self._lock:
            self._active.discard(incoming.key)
            self._suspended[incoming.key] = incoming
            surplus = [
                self._suspended.popitem(last=False)[1] for _ in range(len(self._suspended) - MAX_SUSPENDED)
            ]
        for oldest in surplus:
            oldest._drop()

    def _release(self, key: tuple[bytes, bytes]) -> None:
        with self._lock:
            self._active.discard(key)

    def _publish(self, temporary: Path, digest: bytes, kind: FileKind) -> None:
        """Move a complete, synced file to its name, durably."""
        path = self.path(digest)
        with self._lock:
            # Whoever finds the folder made must find its name on disk too.
            make_directory(path.parent)
        with observed(self._observe, FileAction.RENAME, kind):
            temporary.rename(path)
        with observed(self._observe, FileAction.SYNC_FOLDER, kind):
            sync_directory(path.parent)


class Incoming:
    """A blob on its way in: hashed as it is written. Ends with one of `finish`, `suspend`, `discard`."""

    def __init__(self, store: BlobStore, source: bytes, digest: bytes, size: int) -> None:
        self.key = (source, digest)
        self.size = size
        self.offset = 0
        """Bytes written so far; the next chunk begins here."""
        self._store = store
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self._path = store._incoming / f"{digest.hex()}.{source.hex()[:32]}.part"
        with storage_errors(self._path), observed(store._observe, FileAction.CREATE, FileKind.RECEIVED):
            self._descriptor = _create(self._path)

    def append(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Write the next bytes. Raises `StorageError`; then only `discard` is left."""
        with storage_errors(self._path), observed(self._store._observe, FileAction.WRITE, FileKind.RECEIVED):
            for chunk in chunks:
                if self.offset + len(chunk) > self.size:
                    raise LocalProtocolError(f"{self._path} would grow beyond its {self.size} bytes")
                _write_all(self._descriptor, chunk)
                self._hash.update(chunk)
                self.offset += len(chunk)

    def finish(self) -> None:
        """Verify and store durably.

        Raises `InvalidItem` for content of another digest, which is deleted, or `StorageError`.
        """
        if self.offset != self.size or self._hash.digest() != self.key[1]:
            self.discard()
            raise InvalidItem(f"what arrived for blob {self.key[1].hex()[:16]}… has another digest")
        try:
            with storage_errors(self._path):
                with observed(self._store._observe, FileAction.SYNC, FileKind.RECEIVED):
                    os.fsync(self._descriptor)
                self._store._publish(self._path, self.key[1], FileKind.RECEIVED)
        except StorageError:
            self.discard()
            raise
        self._close()
        self._store._release(self.key)

    def suspend(self) -> None:
        """Stop for now; the next `BlobStore.receive` of this blob from this source goes on from here."""
        self._close()
        self._store._suspend(self)

    def discard(self) -> None:
        """Give up and delete what was written."""
        self._close()
        self._drop()
        self._store._release(self.key)

    def _reopen(self) -> None:
        with storage_errors(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_size != self.offset:
                os.close(descriptor)
                raise StorageError(f"{self._path} changed while its receive was interrupted: starting again")
            os.lseek(descriptor, self.offset, os.SEEK_SET)
            self._descriptor = descriptor

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _drop(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into a `StorageError` that names the file and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissing(f"{error.filename or path}: there is no such file; {_COPY}") from error
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, os.strerror(error.errno or 0))
        raise StorageError(f"{error.filename or path}: {remedy}") from error


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
