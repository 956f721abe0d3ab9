"""One direction of one connection: bytes go in, and come out late, slowly, changed or not at all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from chaos.weather import Weather

PIECE_BYTES: Final = 16 << 10
IN_FLIGHT_BYTES: Final = 1 << 20
"""What a slow link holds; beyond that the sender is not read from, as on a real one."""
ARRIVES_S: Final = 0.01
"""Between the last bytes and a reset, which would overtake them."""


class Pipe:
    """Carries from `source` to `sink` until one of them ends. `reset` cuts the whole connection."""

    def __init__(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        weather: Callable[[], Weather],
        open_again: Callable[[], asyncio.Event],
        reset: Callable[[], None],
        random: Random,
    ) -> None:
        self.carried = 0
        self.swallows = False
        """Set once and for all: what comes in from now on is lost, also the news that its sender is gone."""
        self._source = source
        self._sink = sink
        self._weather = weather
        self._open_again = open_again
        self._reset = reset
        self._random = random
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._left: int | None = None
        """Bytes until this connection is reset; None: it is not to be."""

    async def run(self) -> None:
        """Until the source ends and all of it is delivered, or either side fails."""
        async with asyncio.TaskGroup() as group:
            giving = group.create_task(self._give())
            await self._take()
            if self.swallows:
                giving.cancel()  # the sink is told nothing, and stays

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        free_at = last_due = 0.0
        while True:
            await self._open_again().wait()
            data = await self._source.read(PIECE_BYTES)
            await self._open_again().wait()  # it may have got stuck while we waited for data
            if self.swallows:
                if not data:
                    return
                continue
            if not data:
                self._ended = True
                self._changed.set()
                return
            weather, now = self._weather(), loop.time()
            free_at = max(free_at, now) + (len(data) / weather.bytes_per_s if weather.bytes_per_s else 0.0)
            late = weather.delay_s + self._random.uniform(0.0, weather.jitter_s)
            last_due = max(last_due, free_at + late)
            self._pieces.append((last_due, self._weathered(data, weather)))
            self._held += len(data)
            self._changed.set()
            while self._held > IN_FLIGHT_BYTES:
                self._room.clear()
                await self._room.wait()

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._pieces:
                if self._ended:
                    self._sink.close()
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            due, data = self._pieces.popleft()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._open_again().wait()
            self._held -= len(data)
            self._room.set()
            if self.swallows:
                continue
            data = data[: self._until_reset()]
            self._sink.write(data)
            await self._sink.drain()
            self.carried += len(data)
            if self._left is not None:
                self._left -= len(data)
                if self._left == 0:
                    await asyncio.sleep(ARRIVES_S)
                    self._reset()

    def _until_reset(self) -> int | None:
        bounds = self._weather().reset_after
        if bounds is None:
            self._left = None
        elif self._left is None:
            self._left = self._random.randint(*bounds)
        return self._left

    def _weathered(self, data: bytes, weather: Weather) -> bytes:
        if not weather.corrupt or self._random.random() >= weather.corrupt:
            return data
        changed = bytearray(data)
        changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)
