"""Jobs in worker threads, and what they have written of which the machine has not heard yet."""

from __future__ import annotations

from threading import Lock
from typing import Any, Protocol

import structlog

from asyncfl.digest import content_digest
from asyncfl.effects import Blobs, Job
from asyncfl.errors import AsyncflError

log = structlog.get_logger("node")


class BlobFiles(Blobs, Protocol):
    """What the shell needs of `node.blobs.BlobStore`."""

    def delete(self, digest: bytes) -> None: ...


class Written:
    """The store as one job sees it. What the job writes is not deleted while it is among the jobs under way."""

    def __init__(self, blobs: BlobFiles, guard: Lock) -> None:
        self._blobs = blobs
        self._guard = guard
        self.digests: set[bytes] = set()

    def read(self, digest: bytes) -> bytes:
        return self._blobs.read(digest)

    def has(self, digest: bytes) -> bool:
        return self._blobs.has(digest)

    def write(self, data: bytes) -> bytes:
        # Known first, so that a file that is there already is not taken for ours and deleted a moment later.
        with self._guard:
            self.digests.add(content_digest(data))
        return self._blobs.write(data)


class JobBlobs:
    """The blobs of one node, for its jobs and for what is deleted beside them."""

    def __init__(self, blobs: BlobFiles) -> None:
        self._blobs = blobs
        self._guard = Lock()

    def open(self) -> Written:
        """The store for a job about to start."""
        return Written(self._blobs, self._guard)

    def delete(self, digest: bytes, under_way: list[Written]) -> None:
        """Delete a blob unless one of these jobs has written it. Blocks on the disk; raises `StorageError`."""
        with self._guard:
            if not any(digest in job.digests for job in under_way):
                self._blobs.delete(digest)


def run_job(job: Job, blobs: Blobs) -> Any:
    """Carry a job out, in a worker thread."""
    try:
        return job.run(blobs)
    except AsyncflError:
        raise
    except Exception:
        # Logged here, in the worker: a traceback reads source files.
        log.exception("job_failed", job=type(job).__name__)
        raise
