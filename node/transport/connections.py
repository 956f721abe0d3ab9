"""WebSocket connections under tight limits until the peer is known.

`websockets` applies its own limits to a message, not to what comes before it. `Gate` bounds how many
incoming connections may be unauthenticated at once, in all and for one address, and how long; `Guarded`
counts every byte of a connection until `admit` and drops it beyond the limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import Any, Final, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from asyncfl.channel import MAX_FRAME_BYTES
from node.transport.limits import Limits

FIRST_FRAMES_BYTES: Final = 512
"""Largest WebSocket message before the handshake is complete."""
UNREAD_BYTES: Final = 4 * MAX_FRAME_BYTES
"""Our writer keeps the buffer below two frames. Answers to pings, which `websockets` sends by itself, do not
wait for room: a peer that pings without reading is cut at this size."""

# What it would say about strangers' failures, with tracebacks, is said by our own log in a line.
_silent = logging.getLogger("asyncfl.websockets")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class Gate:
    """The unauthenticated incoming connections of one endpoint."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refused = 0
        self._waiting: dict[GuardedServerConnection, asyncio.TimerHandle] = {}
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, connection: GuardedServerConnection) -> bool:
        """Count a new connection and start its deadline; False when there are too many already."""
        address = connection.address
        if (
            len(self._waiting) >= self.limits.unauthenticated
            or self._addresses[address] >= self.limits.unauthenticated_per_address
        ):
            self.refused += 1
            return False
        loop = asyncio.get_running_loop()
        self._waiting[connection] = loop.call_later(self.limits.handshake_s, connection.drop)
        self._addresses[address] += 1
        return True

    def leave(self, connection: GuardedServerConnection) -> None:
        """The connection was authenticated or is gone."""
        timer = self._waiting.pop(connection, None)
        if timer is not None:
            timer.cancel()
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]

    def drop_all(self) -> None:
        for connection in list(self._waiting):
            connection.drop()


class Guarded(Connection):
    """What both kinds of connection have in common."""

    def __init__(self, *args: Any, limits: Limits, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heard = self.loop.time()
        """Loop time at which the peer last sent anything."""
        self._admitted = False
        self._budget = limits.handshake_bytes

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        if not self._admitted:
            self._budget -= len(data)
            if self._budget < 0:
                self.drop()
                return
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNREAD_BYTES:
            self.drop()

    def admit(self) -> None:
        """The peer is authenticated: let whole frames through."""
        self._admitted = True
        self.protocol.max_message_size = MAX_FRAME_BYTES

    @property
    def writable(self) -> bool:
        """Whether the write buffer is below its limit."""
        return not self.paused

    @property
    def reading(self) -> bool:
        """Whether we are taking data: False while our own queue is full."""
        return not self.recv_messages.paused

    def beat(self) -> None:
        """Tell the peer that we are there (an unsolicited pong), unless data is waiting to go out anyway."""
        # A connection that `websockets` is closing may be half-closed already: writing to it is an error then.
        if self.writable and self.protocol.state is State.OPEN and not self.transport.is_closing():
            self.protocol.send_pong(b"")
            self.send_data()

    def drop(self) -> None:
        """Cut the connection at once, without a word."""
        self.transport.abort()


class GuardedServerConnection(Guarded, ServerConnection):
    """An incoming connection, counted by the gate until it is admitted."""

    def __init__(self, *args: Any, gate: Gate, **settings: Any) -> None:
        super().__init__(*args, limits=gate.limits, **settings)
        self._gate = gate
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name: Any = transport.get_extra_info("peername")
        self.address = str(name[0]) if isinstance(name, tuple) else ""
        if not self._gate.enter(self):
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self)
        super().connection_lost(exc)

    def admit(self) -> None:
        super().admit()
        self._gate.leave(self)


class GuardedClientConnection(Guarded, ClientConnection):
    """An outgoing connection."""


class _Connect(connect):
    """Goes where it is told and nowhere else: an unauthenticated server cannot redirect us."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def common_settings(limits: Limits) -> dict[str, Any]:
    """Settings for both sides. The keep-alive of `websockets` is off: a full write buffer stops it."""
    return {
        "compression": None,
        "logger": _silent,
        "ping_interval": None,
        "close_timeout": limits.close_s,
        "max_size": FIRST_FRAMES_BYTES,
        "max_queue": (2, 1),
        "write_limit": 1 << 18,
    }


def server_connection(gate: Gate) -> type[ServerConnection]:
    """The connection factory of an endpoint's server."""
    return cast(type[ServerConnection], partial(GuardedServerConnection, gate=gate))


async def dial(url: str, limits: Limits) -> GuardedClientConnection:
    """Connect. Raises `OSError`, `TimeoutError` or `websockets.WebSocketException`."""
    connection = await _Connect(
        url,
        create_connection=cast(type[ClientConnection], partial(GuardedClientConnection, limits=limits)),
        open_timeout=limits.handshake_s,
        proxy=None,
        user_agent_header=None,
        **common_settings(limits),
    )
    return cast(GuardedClientConnection, connection)
