"""The links themselves do to bytes what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest
from chaos.fabric import Fabric
from chaos.link import Link
from chaos.weather import FAIR, Fault, Weather

BYTES = Random(1).randbytes(200_000)
QUIET_S = 0.2
"""Nothing that should not come came in so long."""


class Echo:
    """Sends back what it gets, and notes how its connections end."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.connections = 0
        self._server: asyncio.Server

    async def start(self) -> tuple[str, int]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            self.ends.append("closed")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        self._server.close()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """A link to an echo, and who has dialled it."""

    def __init__(self, echo: Echo, link: Link) -> None:
        self.echo, self.link = echo, link
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.link.port)
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        await self.link.close()
        for writer in self._writers:
            writer.transport.abort()
        await self.echo.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    echo = Echo()
    made = Wire(echo, Link(await echo.start(), Random(1)))
    await made.link.start()
    yield made
    await made.close()
    assert made.link.connections == 0


async def send(connection: Connection, data: bytes) -> bytes:
    """What comes back of `data`, all of it."""
    reader, writer = connection
    writer.write(data)
    async with asyncio.timeout(10):
        return await reader.readexactly(len(data))


async def is_silent(connection: Connection) -> bool:
    """Whether neither data nor an end comes."""
    try:
        async with asyncio.timeout(QUIET_S):
            await connection[0].read(1)
    except TimeoutError:
        return True
    return False


async def end_of(connection: Connection) -> str:
    try:
        async with asyncio.timeout(10):
            while await connection[0].read(65536):
                pass
    except ConnectionError:
        return "reset"
    return "closed"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_fair_weather_changes_nothing_and_passes_ends_on(wire: Wire) -> None:
    server, link = wire.echo, wire.link
    connection = await wire.dial()
    assert await send(connection, BYTES) == BYTES
    connection[1].close()
    await until(lambda: server.ends == ["closed"])
    await until(lambda: link.connections == 0)


async def test_delay_jitter_and_a_cap_keep_order_and_take_time(wire: Wire) -> None:
    link = wire.link
    link.set(Weather(delay_s=0.05, jitter_s=0.05, bytes_per_s=1_000_000))
    loop = asyncio.get_running_loop()
    connection = await wire.dial()
    start = loop.time()
    assert await send(connection, BYTES) == BYTES
    assert loop.time() - start >= 0.2 + 0.1  # the bytes at that rate, and the delay there and back
    connection[1].close()


async def test_what_is_stuck_arrives_when_it_is_over(wire: Wire) -> None:
    server, link = wire.echo, wire.link
    connection = await wire.dial()
    await send(connection, b"before")
    link.set(Weather(fault=Fault.STUCK))
    connection[1].write(b"meanwhile")
    late = await wire.dial()
    assert await is_silent(connection)
    assert await is_silent(late)
    assert server.connections == 1
    link.set(FAIR)
    assert await connection[0].readexactly(9) == b"meanwhile"
    assert await send(late, b"late") == b"late"
    connection[1].close()
    late[1].close()


async def test_a_black_hole_swallows_all_and_lets_nobody_hear_of_an_end(wire: Wire) -> None:
    server, link = wire.echo, wire.link
    connection = await wire.dial()
    await send(connection, b"before")
    link.set(Weather(fault=Fault.BLACK_HOLE))
    connection[1].write(BYTES)
    new = await wire.dial()
    new[1].write(BYTES)
    assert await is_silent(connection)
    assert await is_silent(new)
    connection[1].close()
    await asyncio.sleep(QUIET_S)
    assert server.ends == []
    link.set(FAIR)
    new[1].close()
    assert await send(await wire.dial(), b"after") == b"after"
    assert server.ends == []


@pytest.mark.parametrize("fault", [Fault.LOST_LISTENER, Fault.LOST_DIALLER])
async def test_half_open_one_side_is_cut_and_the_other_hears_nothing(wire: Wire, fault: Fault) -> None:
    server, link = wire.echo, wire.link
    connection = await wire.dial()
    await send(connection, b"before")
    link.set(Weather(fault=fault))
    if fault is Fault.LOST_DIALLER:
        assert await end_of(connection) == "reset"
        await asyncio.sleep(QUIET_S)
        assert server.ends == []
    else:
        await until(lambda: server.ends == ["reset"])
        assert await is_silent(connection)
    connection[1].close()


async def test_connections_are_reset_in_the_middle_of_a_message(wire: Wire) -> None:
    link = wire.link
    link.set(Weather(reset_after=(1, 50_000)))
    came = []
    for _ in range(5):
        connection = await wire.dial()
        connection[1].write(BYTES)
        received = 0
        try:
            while data := await connection[0].read(65536):
                received += len(data)
        except ConnectionError:
            pass
        came.append(received)
    assert all(received < len(BYTES) for received in came)
    assert len(set(came)) > 1


async def test_corruption_changes_bits_and_no_lengths(wire: Wire) -> None:
    link = wire.link
    link.set(Weather(corrupt=1.0))
    connection = await wire.dial()
    changed = await send(connection, BYTES)
    different = sum((a ^ b).bit_count() for a, b in zip(changed, BYTES, strict=True))
    pieces = 2 * len(BYTES) / 16384
    assert 1 <= different <= 4 * pieces + 200
    connection[1].close()


async def test_a_partition_lets_each_side_talk_within_itself_only() -> None:
    servers = {f"replica-{j}": Echo() for j in range(3)}
    fabric = Fabric(
        [*servers, "clients"], {name: await server.start() for name, server in servers.items()}, seed=1
    )
    await fabric.start()
    assert set(fabric.urls("replica-0")) == {"replica-1", "replica-2"}
    fabric.part(["replica-0", "clients"], ["replica-1", "replica-2"])
    open_ones = {ends for ends, link in fabric.links.items() if link.weather == FAIR}
    assert open_ones == {("clients", "replica-0"), ("replica-1", "replica-2"), ("replica-2", "replica-1")}
    assert len(fabric.between(["replica-0"])) == 5
    assert len(fabric.between(["replica-0"], ["replica-1"])) == 2
    slow = Weather(delay_s=0.1)
    spell = fabric.befall(slow, fabric.between(["replica-1"], ["replica-2"]))
    assert fabric.links["replica-1", "replica-2"].weather == slow
    fabric.lift(spell)
    assert fabric.links["replica-1", "replica-2"].weather == FAIR
    fabric.heal()
    assert all(link.weather == FAIR for link in fabric.links.values())
    await fabric.close()
    for server in servers.values():
        await server.close()
