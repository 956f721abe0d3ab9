"""A node that attacks the transport: in place of an endpoint, something that only knows how to disturb.

Its machine hears nothing and is not heard: to the others it is a replica, or a client, that is down, while its identity
is in the hands of somebody who knows their addresses.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from websockets.exceptions import WebSocketException

from asyncfl.errors import AsyncflError, ConfigurationError
from asyncfl.messages import Message
from asyncfl_misbehaviour.assaults import Assault, Score, Target

log = structlog.get_logger("misbehaviour")

PAUSE_SECONDS: Final = 0.2
"""Between two assaults on the same victim."""


class HostileNetwork:
    """Carries out `assault` on every target until it is closed; whoever dials it is kept waiting for ever.

    Implements `node.runtime.Network`.
    """

    def __init__(self, targets: Sequence[Target], assault: Assault, listen: tuple[str, int] | None) -> None:
        self.counters = Score()
        self._targets = tuple(targets)
        self._assault = assault
        self._listen = listen
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None

    async def start(self) -> None:
        """Begin. Raises `ConfigurationError` when the address cannot be listened on."""
        if self._listen is not None:
            try:
                self._listening = socket.create_server(self._listen)
            except OSError as error:
                host, port = self._listen
                raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
            self._listening.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listening, self._hear_out, self._listening)
        for target in self._targets:
            self._spawn(self._keep_at_it(target))

    async def close(self) -> None:
        """Stop everything that was begun."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, peer: bytes, message: Message) -> bool:
        return False

    def send_blob(self, peer: bytes, digest: bytes, offset: int) -> None: ...

    def fetch(self, peer: bytes, digest: bytes, size: int) -> None: ...

    async def _keep_at_it(self, target: Target) -> None:
        said = ""
        while True:
            self.counters.assaults += 1
            ended = "by itself"
            try:
                await self._assault(target, self.counters)
            except (OSError, TimeoutError, WebSocketException, AsyncflError) as error:
                self.counters.cut += 1
                ended = f"{type(error).__name__}: {error}"
            # The same end again is news to nobody.
            (log.debug if ended == said else log.info)("assault_ended", victim=target.peer, reason=ended)
            said = ended
            await asyncio.sleep(PAUSE_SECONDS)

    def _hear_out(self, listening: socket.socket) -> None:
        """Take whoever dials, and keep them waiting."""
        # By hand: `asyncio.Server.close` leaves open what it has accepted and not yet given to a protocol.
        with suppress(OSError):
            connection, _ = listening.accept()
            connection.setblocking(False)
            self._spawn(_listen_to(connection)).add_done_callback(lambda _: connection.close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _listen_to(connection: socket.socket) -> None:
    """Until the other side has had enough, without a word."""
    with suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
            pass
