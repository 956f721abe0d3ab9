"""Blobs on their way in from one peer, over one channel.

A `Fetch` asks with PULL, takes chunks in order, and ends with one call of `fetched` or `fetch_failed`. What
the peer may send is exactly what PULLs on this channel asked for: every PULL adds to an allowance that every
chunk uses up. Chunks within the allowance that nobody waits for any more (a fetch that was given up, the
overlap of two PULLs) are ignored; anything else is a `MalformedMessage`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from asyncfl.digest import DIGEST_BYTES
from asyncfl.errors import InvalidItem, MalformedMessage, StorageError
from asyncfl.messages import CHUNK_BYTES, Chunk, Pull, chunk_head
from node.blobs import BlobStore, Incoming
from node.transport.limits import Limits
from node.transport.outgoing import InThread

MAX_ALLOWANCES: Final = 1024
"""Blobs whose unanswered PULLs are remembered; the oldest are forgotten beyond that."""
_CHUNK_START: Final = chunk_head(bytes(DIGEST_BYTES), 0, 0)[:5]
GATHER_S: Final = 0.02
"""How long a few chunks wait for more before they are written."""


class _Fetch:
    """One blob being received."""

    def __init__(self, digest: bytes, size: int) -> None:
        self.digest = digest
        self.size = size
        self.expected = 0
        """Offset of the next chunk to take from the channel."""
        self.chunks: deque[bytes | memoryview] = deque()
        self.missing = False
        self.abandoned = False
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()

    @property
    def settled(self) -> bool:
        """Whether no further chunk will come."""
        return self.expected == self.size or self.missing or self.abandoned


class _Allowance:
    """How many bytes of a blob the peer may still send."""

    __slots__ = ("bytes", "overlap")

    def __init__(self) -> None:
        self.bytes = 0
        self.overlap = False
        """A PULL was sent while an earlier one was unanswered: two runs of chunks may follow each other."""


class Fetches:
    """All blobs that are received from one peer over one channel."""

    def __init__(
        self,
        peer: bytes,
        *,
        blobs: BlobStore,
        in_thread: InThread,
        limits: Limits,
        send: Callable[[Pull], bool],
        fetched: Callable[[bytes], None],
        failed: Callable[[bytes, str], None],
        disk_refused: Callable[[StorageError], None],
        predecessor: Fetches | None,
    ) -> None:
        self._peer = peer
        self._blobs = blobs
        self._in_thread = in_thread
        self._limits = limits
        self._send = send
        self._fetched = fetched
        self._failed = failed
        self._disk_refused = disk_refused
        self._predecessor = predecessor
        self._waiting: deque[_Fetch] = deque()
        self._wanted: set[bytes] = set()
        self._active: dict[bytes, _Fetch] = {}
        self._asked: dict[bytes, _Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._allowances: dict[bytes, _Allowance] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._wanted)

    def fetch(self, digest: bytes, size: int) -> None:
        """Begin, or queue, a fetch; one that is under way already is left alone."""
        if self._closed or digest in self._wanted:
            return
        self._wanted.add(digest)
        self._waiting.append(_Fetch(digest, size))
        self._start_waiting()

    async def take(self, chunk: Chunk) -> None:
        """Take a chunk from the channel; waits while the disk is behind. Raises `MalformedMessage`."""
        name = chunk.blob.hex()[:16]
        allowance = self._allowances.get(chunk.blob)
        if allowance is None:
            raise MalformedMessage(f"a chunk of blob {name}… that was not asked for")
        allowance.bytes -= len(chunk.data)
        if allowance.bytes < 0:
            raise MalformedMessage(f"more of blob {name}… than was asked for")
        fetch = self._asked.get(chunk.blob)
        if fetch is None:
            return
        if chunk.offset != fetch.expected:
            if allowance.overlap:
                return
            raise MalformedMessage(f"a chunk of blob {name}… at {chunk.offset} instead of {fetch.expected}")
        if fetch.expected + len(chunk.data) > fetch.size:
            raise MalformedMessage(f"blob {name}… goes on beyond its {fetch.size} bytes")
        await self._accept(fetch, chunk.data)

    async def take_expected(self, part: memoryview) -> bool:
        """Take an encoded chunk as it lies, if it is the very one that comes next; False for all others.

        A full-sized chunk at the right offset has one possible head: comparing it validates the message
        without decoding, and the data needs no copy.
        """
        if part[: len(_CHUNK_START)] != _CHUNK_START:
            return False
        digest = bytes(part[len(_CHUNK_START) : len(_CHUNK_START) + DIGEST_BYTES])
        fetch, allowance = self._asked.get(digest), self._allowances.get(digest)
        if fetch is None or allowance is None:
            return False
        size = min(CHUNK_BYTES, fetch.size - fetch.expected)
        head = chunk_head(digest, fetch.expected, size)
        if len(part) != len(head) + size or part[: len(head)] != head or not 0 < size <= allowance.bytes:
            return False
        allowance.bytes -= size
        await self._accept(fetch, part[len(head) :])
        return True

    async def _accept(self, fetch: _Fetch, data: bytes | memoryview) -> None:
        fetch.expected += len(data)
        fetch.chunks.append(data)
        fetch.arrived.set()
        while len(fetch.chunks) >= self._limits.unwritten_chunks and fetch.digest in self._asked:
            fetch.room.clear()
            await fetch.room.wait()

    def missing(self, digest: bytes) -> None:
        """The peer says that it does not have a blob. Raises `MalformedMessage` when it was not asked."""
        if self._allowances.pop(digest, None) is None:
            raise MalformedMessage(f"an answer about blob {digest.hex()[:16]}… that was not asked for")
        fetch = self._asked.get(digest)
        if fetch is not None:
            fetch.missing = True
            fetch.arrived.set()

    def close(self, reason: str) -> None:
        """The channel is gone: every fetch fails now; what has arrived is kept for a later one."""
        self._closed = True
        self._waiting.clear()
        for fetch in self._active.values():
            fetch.abandoned = True
            fetch.arrived.set()
            fetch.room.set()
        wanted, self._wanted = self._wanted, set()
        for digest in wanted:
            self._failed(digest, reason)

    async def wait_closed(self) -> None:
        """Until every worker thread has let go of its file."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._active) < self._limits.incoming_blobs:
            fetch = self._waiting.popleft()
            self._active[fetch.digest] = fetch
            task = asyncio.create_task(self._run(fetch), name=f"fetch {fetch.digest.hex()[:16]}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, fetch: _Fetch) -> None:
        reason: str | None = None
        try:
            reason = await self._receive(fetch)
        except StorageError as error:
            self._disk_refused(error)
            reason = str(error)
        except InvalidItem as error:
            reason = str(error)
        finally:
            del self._active[fetch.digest]
            self._asked.pop(fetch.digest, None)
            fetch.room.set()
        if fetch.abandoned:
            return
        self._wanted.discard(fetch.digest)
        self._start_waiting()
        if reason is None:
            self._fetched(fetch.digest)
        else:
            self._failed(fetch.digest, reason)

    async def _receive(self, fetch: _Fetch) -> str | None:
        """None once the blob is stored, else why it is not."""
        if self._predecessor is not None:
            await self._predecessor.wait_closed()  # it may still hold the same file
            self._predecessor = None
        if await self._in_thread(self._blobs.has, fetch.digest):
            return None
        incoming = await self._in_thread(self._blobs.receive, self._peer, fetch.digest, fetch.size)
        assert isinstance(incoming, Incoming)
        try:
            fetch.expected = incoming.offset
            if incoming.offset < fetch.size:
                self._ask(fetch)
            while incoming.offset < fetch.size:
                reason = await self._progress(fetch, incoming)
                if reason is not None:
                    await self._in_thread(incoming.suspend)
                    return reason
        except StorageError:
            await self._in_thread(incoming.discard)
            raise
        await self._in_thread(incoming.finish)
        allowance = self._allowances.get(fetch.digest)
        if allowance is not None and allowance.bytes == 0:
            del self._allowances[fetch.digest]
        return None

    async def _progress(self, fetch: _Fetch, incoming: Incoming) -> str | None:
        """Wait for chunks and write them; why not, when none came."""
        name = fetch.digest.hex()[:16]
        enough = min(self._limits.write_chunks, self._limits.unwritten_chunks)
        paused = False
        try:
            async with asyncio.timeout(self._limits.progress_s):
                await fetch.arrived.wait()
            # Few trips to a worker thread: gather some chunks, but write what there is when the peer pauses.
            async with asyncio.timeout(GATHER_S):
                while not fetch.settled and len(fetch.chunks) < enough:
                    fetch.arrived.clear()
                    await fetch.arrived.wait()
        except TimeoutError:
            paused = not fetch.chunks
        if paused:
            return (
                f"waited {self._limits.progress_s:g} s for the chunk at {incoming.offset} "
                f"of blob {name}…, which has {fetch.size} bytes"
            )
        fetch.arrived.clear()
        chunks = list(fetch.chunks)
        fetch.chunks.clear()
        fetch.room.set()
        if chunks:
            await self._in_thread(incoming.append, chunks)
        if fetch.missing and not fetch.chunks and incoming.offset < fetch.size:
            return f"the peer does not have blob {name}…"
        return "the channel was closed" if fetch.abandoned else None

    def _ask(self, fetch: _Fetch) -> None:
        allowance = self._allowances.pop(fetch.digest, None)
        if allowance is None:
            allowance = _Allowance()
        else:
            allowance.overlap = True
        allowance.bytes += fetch.size - fetch.expected
        self._allowances[fetch.digest] = allowance
        if len(self._allowances) > MAX_ALLOWANCES:
            for digest in self._allowances:
                if digest not in self._active:
                    del self._allowances[digest]
                    break
        self._asked[fetch.digest] = fetch
        self._send(Pull(blob=fetch.digest, offset=fetch.expected))
