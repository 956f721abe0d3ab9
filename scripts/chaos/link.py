"""One link: from one party to one replica, over a TCP proxy whose weather can be changed at any time."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from random import Random
from typing import Final

from chaos.pipe import PIECE_BYTES, Pipe
from chaos.weather import FAIR, Fault, Weather

LOCALHOST: Final = "127.0.0.1"
_LINGER_NOT: Final = struct.pack("ii", 1, 0)


class Link:
    """Listens on `port` and carries to `target`. The dialler's deployment file names the port."""

    def __init__(self, target: tuple[str, int], random: Random) -> None:
        self.accepted = 0
        """Connections that the dialler has made."""
        self.accepted_at: list[float] = []
        """Their loop times."""
        self.port = 0
        self.target = target
        self._random = random
        self._weather = FAIR
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"ws://{LOCALHOST}:{self.port}"

    @property
    def weather(self) -> Weather:
        return self._weather

    @property
    def connections(self) -> int:
        """Connections of which an end is still held."""
        return len(self._connections)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOCALHOST, 0, limit=PIECE_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection that there is; new ones are carried as before."""
        for connection in list(self._connections):
            connection.reset()

    def set(self, weather: Weather) -> None:
        """From now on, for connections that there are and for new ones."""
        self._weather = weather
        if weather.fault is Fault.STUCK:
            self._open.clear()
        else:
            self._open.set()
        for connection in list(self._connections):
            connection.suffer(weather.fault)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self.accepted_at.append(asyncio.get_running_loop().time())
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await connection.run(self.target)
        finally:
            connection.reset()
            self._connections.discard(connection)

    @property
    def open_again(self) -> asyncio.Event:
        return self._open

    @property
    def random(self) -> Random:
        return self._random


class _Connection:
    """A dialled connection and the one beyond, which together pretend to be one."""

    def __init__(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._reader = reader
        self._writers = [writer]
        self._pipes: list[Pipe] = []

    async def run(self, target: tuple[str, int]) -> None:
        fault = self._link.weather.fault
        if fault in {Fault.RESET, Fault.LOST_DIALLER}:
            return
        if fault in {Fault.BLACK_HOLE, Fault.LOST_LISTENER}:
            while await self._reader.read(PIECE_BYTES):
                pass
            return
        await self._link.open_again.wait()
        reader, writer = await asyncio.open_connection(*target, limit=PIECE_BYTES)
        self._writers.append(writer)
        self._pipes = [self._pipe(self._reader, writer), self._pipe(reader, self._writers[0])]
        with suppress(ExceptionGroup):  # one end was reset, or is gone
            async with asyncio.TaskGroup() as group:
                for pipe in self._pipes:
                    group.create_task(pipe.run())

    def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> Pipe:
        return Pipe(
            source,
            sink,
            weather=lambda: self._link.weather,
            open_again=lambda: self._link.open_again,
            reset=self.reset,
            random=self._link.random,
        )

    def suffer(self, fault: Fault) -> None:
        """What a fault does to a connection that there is already."""
        if fault is Fault.RESET:
            self.reset()
        if fault in {Fault.BLACK_HOLE, Fault.LOST_DIALLER, Fault.LOST_LISTENER}:
            for pipe in self._pipes:
                pipe.swallows = True
        if fault is Fault.LOST_DIALLER:
            _reset(self._writers[0])
        if fault is Fault.LOST_LISTENER and len(self._writers) > 1:
            _reset(self._writers[1])

    def reset(self) -> None:
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: what is under way is lost, and the other side sees an error."""
    if writer.transport.is_closing():
        return
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
