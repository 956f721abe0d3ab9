"""One live, authenticated channel to one peer: who may send what next, and what arrives.

Control messages go first; one blob chunk rides along in every frame while there are any, so that neither
starves the other. The socket's back-pressure stops the writer, and with it reading ahead from the disk. A
disk that is behind stops the reader, and with it the peer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from asyncfl.channel import MAX_PARTS, MAX_PLAIN_BYTES, Channel
from asyncfl.errors import DeadlineExceeded, MalformedMessage, RemoteProtocolError
from asyncfl.messages import Chunk, Message, Missing, decode_message
from node.transport.connections import Guarded
from node.transport.incoming import Fetches
from node.transport.limits import Limits
from node.transport.outgoing import Outgoing

log = structlog.get_logger("transport")

REPLACED: Final = 4001
"""WebSocket close code: the same identity opened a newer channel."""
DUPLICATE: Final = 4002
"""WebSocket close code: both sides dialled at once and the other channel stays."""
COALESCED_BYTES: Final = 1 << 18
"""Control messages are put together into one frame up to about this size."""
FRAME_OVERHEAD: Final = 4
BUSY_S: Final = 0.005
"""After this long without a pause the reader lets others run."""


@dataclass(slots=True)
class Counters:
    """What an endpoint has seen since it was made; bytes are those of frames, encryption included."""

    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    dropped: int = 0
    """Messages that were not sent: no channel, or its queue was full."""
    handshakes_refused: int = 0
    malformed: int = 0
    """Channels closed because of what their peer sent."""


class Link:
    """Runs until the channel ends, then says why."""

    def __init__(
        self,
        connection: Guarded,
        channel: Channel,
        *,
        initiated: bool,
        limits: Limits,
        counters: Counters,
        outgoing: Callable[[Callable[[], None]], Outgoing],
        deliver: Callable[[bytes, Message], None],
    ) -> None:
        self.peer = channel.peer
        self.connection = connection
        self.initiated = initiated
        self.close_code: int | None = None
        self.retired = False
        self.ended = asyncio.Event()
        self.outgoing = outgoing(self._wake)
        self.fetches: Fetches
        self._channel = channel
        self._limits = limits
        self._counters = counters
        self._deliver = deliver
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._work = asyncio.Event()
        self._stopped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._stop_code: int = CloseCode.NORMAL_CLOSURE

    def send(self, encoded: bytes) -> bool:
        """Queue a control message. False when the peer has not taken what is queued already."""
        if (
            self._stopped.done()
            or len(self._control) >= self._limits.control_messages
            or self._control_bytes + len(encoded) > self._limits.control_bytes
        ):
            return False
        self._control.append(encoded)
        self._control_bytes += len(encoded)
        self._work.set()
        return True

    def stop(self, reason: str, code: int = CloseCode.NORMAL_CLOSURE, *, abruptly: bool = False) -> None:
        """End the channel; `run` returns `reason`. Nothing is delivered from now on."""
        if not self._stopped.done():
            self._stop_code = code
            self._stopped.set_result(reason)
        if abruptly:
            self.connection.drop()

    @property
    def stopped(self) -> bool:
        return self._stopped.done()

    async def run(self) -> str:
        """Carry messages until the channel ends. Returns the reason, a sentence for a log."""
        duties = {"read": self._read(), "write": self._write(), "blobs": self.outgoing.run()}
        tasks = [
            asyncio.create_task(duty, name=f"{name} {self.peer.hex()[:16]}") for name, duty in duties.items()
        ]
        waited_for: list[asyncio.Future[None] | asyncio.Future[str]] = [*tasks, self._stopped]
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            reason, code = self._why(tasks)
            for task in tasks:
                task.cancel()
            await self._say_goodbye(code, reason)
        finally:
            self.stop("cancelled")
            self.connection.drop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.ended.set()
        return reason

    def _why(self, tasks: list[asyncio.Task[None]]) -> tuple[str, int]:
        if self._stopped.done():
            return self._stopped.result(), self._stop_code
        error = next(task.exception() for task in tasks if task.done())
        self.stop("closed")
        if isinstance(error, ConnectionClosed):
            if error.rcvd is not None:
                self.close_code = error.rcvd.code
                return f"the peer closed the connection, saying: {error.rcvd}", CloseCode.NORMAL_CLOSURE
            if error.sent is None:
                return "the connection was lost", CloseCode.NORMAL_CLOSURE
            error = MalformedMessage(f"WebSocket: {error.sent}")  # refused by the layer below
        if isinstance(error, MalformedMessage):
            self._counters.malformed += 1
        if isinstance(error, RemoteProtocolError | DeadlineExceeded):
            return f"{type(error).__name__}: {error}", CloseCode.PROTOCOL_ERROR
        log.error("channel_failed", peer=self.peer.hex()[:16], exc_info=error)
        return f"a bug on this side: {error!r}", CloseCode.INTERNAL_ERROR

    async def _say_goodbye(self, code: int, reason: str) -> None:
        if self.connection.writable:  # else a goodbye would only queue behind what the peer does not take
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.close_s):
                    await self.connection.close(code, reason.encode()[:100].decode(errors="ignore"))

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        resumed = loop.time()
        while True:
            frame = await self.connection.recv(decode=False)
            self._counters.bytes_in += len(frame)
            for part in self._channel.open(frame):
                if self._stopped.done():
                    return
                self._counters.messages_in += 1
                if await self.fetches.take_expected(part):
                    continue
                message = decode_message(part)
                if isinstance(message, Chunk):
                    await self.fetches.take(message)
                elif isinstance(message, Missing):
                    self.fetches.missing(message.blob)
                else:
                    self._deliver(self.peer, message)
            if loop.time() - resumed > BUSY_S:
                await asyncio.sleep(0)
                resumed = loop.time()

    async def _write(self) -> None:
        while True:
            parts = self._next_parts()
            if not parts:
                self._work.clear()
                await self._work.wait()
                continue
            frame = self._channel.seal(parts)
            try:
                async with asyncio.timeout(self._limits.stalled_write_s):
                    await self.connection.send(frame)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the peer took no data for {self._limits.stalled_write_s:g} s (waited for room to send)"
                ) from None
            self._counters.bytes_out += len(frame)
            self._counters.messages_out += len(parts)

    def _next_parts(self) -> list[bytes | bytearray]:
        parts: list[bytes | bytearray] = []
        room = COALESCED_BYTES
        while self._control and len(parts) < MAX_PARTS - 1 and (not parts or len(self._control[0]) <= room):
            part = self._control.popleft()
            self._control_bytes -= len(part)
            room -= len(part) + FRAME_OVERHEAD
            parts.append(part)
        if sum(map(len, parts)) <= MAX_PLAIN_BYTES // 2:
            chunk = self.outgoing.take()
            if chunk is not None:
                parts.append(chunk)
        return parts

    def _wake(self) -> None:
        self._work.set()
