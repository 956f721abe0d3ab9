"""Endpoints over links that fail in every way: noticed in time, dialled again, nothing wrong is ever delivered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chaos.weather import FAIR, Fault, Weather

from asyncfl.messages import CHUNK_BYTES, ItemRequest, Wait
from tests.node.transport.conftest import QUICK
from tests.node.transport.peers import HELLO, content

SOON = 10.0
"""For what takes a second at most on a quiet machine."""
SILENCE = {"silence_s": 0.5, "handshake_s": 1.0}
NOTICED_S = 0.5 + 2 * QUICK.heartbeat_s
"""Within this a side that hears nothing has given a channel up."""
BIG = ItemRequest(items=tuple(bytes([number]) * 32 for number in range(256)))


async def talk(one: Any, other: Any, until: Any) -> None:
    """Whether messages pass both ways, as soon as a channel stands."""
    for source, sink in ((one, other), (other, one)):
        heard = len(sink.messages)

        def passes(source: Any = source, sink: Any = sink, heard: int = heard) -> bool:
            return source.endpoint.send(sink.key, HELLO) and len(sink.messages) > heard

        await until(passes, SOON)


@pytest.mark.parametrize(
    "fault", [Fault.STUCK, Fault.BLACK_HOLE, Fault.LOST_LISTENER, Fault.LOST_DIALLER, Fault.RESET]
)
async def test_both_sides_notice_in_time_and_talk_again_when_it_is_over(
    net: Any, until: Any, fault: Fault
) -> None:
    server, client, link = await net.linked(**SILENCE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    link.set(Weather(fault=fault))
    for node in (client, server):
        await node.wait_for("disconnected", SOON)
    # Below: only that nobody waited for some other, longer deadline; machines under load are late.
    assert loop.time() - began < NOTICED_S + 3.0
    assert client.endpoint.peers == server.endpoint.peers == frozenset()
    await asyncio.sleep(0.3)
    link.set(FAIR)
    await talk(client, server, until)
    assert link.connections == 1


async def test_when_both_sides_dial_half_open_channels_of_either_end_and_one_new_one_stays(
    net: Any, until: Any
) -> None:
    """The side that still holds a dead channel of its own may refuse the other's new one: not for long."""
    first = await net.node("first", **SILENCE)
    to_first = await net.link(first)
    second = await net.node("second", dial={first.key: to_first.url}, **SILENCE)
    to_second = await net.link(second)
    again = await net.node(
        "first again", identity=first.identity, dial={second.key: to_second.url}, **SILENCE
    )
    to_first.target = ("127.0.0.1", again.endpoint.port)
    await first.endpoint.close()
    await talk(again, second, until)
    for fault in (Fault.LOST_DIALLER, Fault.LOST_LISTENER, Fault.BLACK_HOLE):
        for link in (to_first, to_second):
            link.set(Weather(fault=fault))
        await again.wait_for("disconnected", SOON)
        for link in (to_first, to_second):
            link.set(FAIR)
        await talk(again, second, until)
    assert len(again.endpoint.peers) == len(second.endpoint.peers) == 1


async def test_blobs_arrive_over_a_link_that_is_reset_again_and_again(net: Any) -> None:
    server, client, link = await net.linked()
    data = content(24 * CHUNK_BYTES)
    digest = await server.store(data)
    link.set(Weather(reset_after=(CHUNK_BYTES, 8 * CHUNK_BYTES), delay_s=0.002))
    async with asyncio.timeout(30):
        client.endpoint.fetch(server.key, digest, len(data))
        while (event := await client.events.get())[0] != "fetched":
            if event[0] == "fetch_failed":
                client.endpoint.fetch(server.key, digest, len(data))
    assert await client.load(digest) == data
    assert link.accepted >= 3


async def test_bytes_that_were_changed_on_the_way_never_reach_a_machine(net: Any, until: Any) -> None:
    server, client, link = await net.linked()
    sent = [Wait(epoch=number, reason=f"number {number}") for number in range(1, 2001)]
    data = content(8 * CHUNK_BYTES)
    digest = await server.store(data)
    link.set(Weather(corrupt=0.2))
    for message in sent:
        client.endpoint.send(server.key, message)
        server.endpoint.send(client.key, message)
        if message.epoch % 50 == 0:
            client.endpoint.fetch(server.key, digest, len(data))
            await asyncio.sleep(0.02)
    link.set(FAIR)
    await talk(client, server, until)
    assert link.accepted > 2, "no channel was cut"
    known = {*sent, HELLO}
    assert all(message in known for node in (client, server) for message in node.messages)
    client.endpoint.fetch(server.key, digest, len(data))
    await client.wait_for("fetched", SOON)
    assert await client.load(digest) == data


@pytest.mark.parametrize("fault", [Fault.STUCK, Fault.BLACK_HOLE, Fault.LOST_LISTENER])
async def test_what_is_queued_for_a_peer_that_takes_nothing_is_bounded_and_then_let_go(
    net: Any, fault: Fault
) -> None:
    server, client, link = await net.linked(control_bytes=1 << 20, **SILENCE)
    link.set(Weather(fault=fault))
    queue = client.endpoint._links[server.key]
    highest = 0
    while "disconnected" not in [event[0] for event in client.log]:
        for _ in range(100):
            client.endpoint.send(server.key, BIG)
        highest = max(highest, queue._control_bytes + queue.connection.transport.get_write_buffer_size())
        await asyncio.sleep(0.005)
    assert highest < (1 << 20) + 2 * CHUNK_BYTES + (1 << 18)
    assert not client.endpoint.send(server.key, BIG)
    assert queue.ended.is_set() or queue.stopped


async def test_a_link_that_refuses_everybody_is_dialled_less_and_less(net: Any, until: Any) -> None:
    server, client, link = await net.linked()
    link.set(Weather(fault=Fault.RESET))
    before = link.accepted
    await asyncio.sleep(1.0)
    # Waits are uniform in [0, 0.2 s] at most: 10 dials in 1 s on average.
    assert 2 <= link.accepted - before <= 40
    link.set(FAIR)
    await talk(client, server, until)


async def test_channels_that_die_young_do_not_make_a_storm(net: Any, until: Any) -> None:
    """A handshake that succeeds is no lasting success: the wait goes on growing."""
    server, client, link = await net.linked()
    link.set(Weather(reset_after=(1500, 3000)))
    link.cut()
    before = link.accepted
    for _ in range(50):
        client.endpoint.send(server.key, BIG)
        await asyncio.sleep(0.02)
    assert 2 <= link.accepted - before <= 40
    link.set(FAIR)
    await talk(client, server, until)


async def test_slow_and_unsteady_links_are_not_taken_for_dead_ones(net: Any) -> None:
    server, client, link = await net.linked()
    link.set(Weather(delay_s=0.2, jitter_s=0.2, bytes_per_s=800_000))
    data = content(3 * CHUNK_BYTES)
    digest = await server.store(data)
    client.endpoint.fetch(server.key, digest, len(data))
    await client.wait_for("fetched", 30)
    assert "disconnected" not in [event[0] for event in client.log + server.log]
