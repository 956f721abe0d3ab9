"""Blobs on their way to one peer: read from disk a little ahead, one chunk of each in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import cast

import structlog

from asyncfl.errors import BlobMissing, StorageError
from asyncfl.messages import CHUNK_BYTES, Missing, chunk_head, encode_message
from node.blobs import BlobStore
from node.transport.limits import Limits

log = structlog.get_logger("transport")

InThread = Callable[..., Awaitable[object]]


class Outgoing:
    """The transfers to one peer. `take` never waits; `run` keeps at most `chunks_ahead` chunks in memory."""

    def __init__(
        self, blobs: BlobStore, in_thread: InThread, limits: Limits, ready: Callable[[], None]
    ) -> None:
        self._blobs = blobs
        self._in_thread = in_thread
        self._limits = limits
        self._ready = ready
        self._offsets: OrderedDict[bytes, int] = OrderedDict()
        self._chunks: deque[bytes | bytearray] = deque()
        self._work = asyncio.Event()

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, digest: bytes, offset: int) -> bool:
        """Stream a blob from `offset` on (again, if it is under way). False: too many already."""
        if digest not in self._offsets and len(self._offsets) >= self._limits.outgoing_blobs:
            return False
        self._offsets[digest] = offset
        self._work.set()
        return True

    def take(self) -> bytes | bytearray | None:
        """The next encoded chunk, if one is ready."""
        if not self._chunks:
            return None
        self._work.set()
        return self._chunks.popleft()

    async def run(self) -> None:
        """Read ahead, for ever."""
        while True:
            while not self._offsets or len(self._chunks) > self._limits.chunks_ahead // 2:
                self._work.clear()
                await self._work.wait()
            digest, offset = next(iter(self._offsets.items()))
            chunks, end = await self._read(digest, offset)
            if self._offsets[digest] != offset:
                continue  # asked again meanwhile, from another offset
            self._chunks += chunks
            if end is None:
                del self._offsets[digest]
            else:
                self._offsets[digest] = end
                self._offsets.move_to_end(digest)
            self._ready()

    async def _read(self, digest: bytes, offset: int) -> tuple[list[bytes | bytearray], int | None]:
        count = self._limits.chunks_ahead - len(self._chunks)
        result = await self._in_thread(read_chunks, self._blobs, digest, offset, count)
        return cast(tuple[list[bytes | bytearray], int | None], result)


def read_chunks(
    blobs: BlobStore, digest: bytes, offset: int, count: int
) -> tuple[list[bytes | bytearray], int | None]:
    """(up to `count` encoded chunks, the offset after them or None at the blob's end).

    MISSING takes the place of a chunk that is not there.
    """
    chunks: list[bytes | bytearray] = []
    try:
        size = blobs.size(digest)
        while offset < size and len(chunks) < count:
            length = min(CHUNK_BYTES, size - offset)
            head = chunk_head(digest, offset, length)
            chunk = bytearray(len(head) + length)
            chunk[: len(head)] = head
            blobs.read_into(digest, offset, memoryview(chunk)[len(head) :])
            chunks.append(chunk)
            offset += length
    except BlobMissing:
        return [*chunks, encode_message(Missing(blob=digest))], None
    except StorageError as error:
        log.warning("blob_unreadable", error=str(error))
        return [*chunks, encode_message(Missing(blob=digest))], None
    if offset > size:
        return [encode_message(Missing(blob=digest))], None
    return chunks, offset if offset < size else None
