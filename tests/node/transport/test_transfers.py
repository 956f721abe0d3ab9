"""Blobs over channels: they arrive whole, are resumed where they stopped, or fail with a reason."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from chaos.weather import FAIR, Weather

from asyncfl.digest import content_digest
from asyncfl.identity import Identity
from asyncfl.messages import CHUNK_BYTES, Chunk, Missing
from tests.node.transport.peers import HELLO, content, impostor


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
async def test_a_blob_of_any_size_arrives_whole_and_is_stored(net: Any, size: int) -> None:
    server, client = await net.pair()
    data = content(size)
    digest = await server.store(data)
    client.endpoint.fetch(server.key, digest, size)
    assert await client.wait_for("fetched") == ("fetched", server.key, digest)
    assert await client.load(digest) == data
    assert not list(await asyncio.to_thread(os.listdir, client.blobs.root / "incoming"))


async def test_a_blob_that_is_there_already_is_fetched_without_asking(net: Any) -> None:
    server, client = await net.pair()
    digest = await client.store(b"mine")
    sent = client.endpoint.counters.messages_out
    client.endpoint.fetch(server.key, digest, 4)
    await client.wait_for("fetched")
    assert client.endpoint.counters.messages_out == sent


async def test_a_blob_that_the_peer_lacks_fails_with_that_reason(net: Any) -> None:
    server, client = await net.pair()
    client.endpoint.fetch(server.key, bytes(32), 1000)
    assert "does not have blob" in (await client.wait_for("fetch_failed"))[3]
    assert client.endpoint.send(server.key, HELLO)
    await server.wait_for("message")


async def test_a_fetch_from_a_peer_that_is_not_connected_fails(net: Any) -> None:
    node = await net.node("alone")
    node.endpoint.fetch(bytes(32), bytes(32), 10)
    assert "not connected" in (await node.wait_for("fetch_failed"))[3]


async def test_a_connection_killed_in_the_middle_is_resumed_where_it_stopped(net: Any) -> None:
    server, client, link = await net.linked()
    data = content(8 * CHUNK_BYTES)
    digest = await server.store(data)
    offsets = []
    serve = server.endpoint.send_blob

    def watched(peer: bytes, blob: bytes, offset: int) -> None:
        offsets.append(offset)
        serve(peer, blob, offset)

    server.endpoint.send_blob = watched
    for _ in range(2):
        link.set(Weather(reset_after=(3 * CHUNK_BYTES, 3 * CHUNK_BYTES)))
        client.endpoint.fetch(server.key, digest, len(data))
        assert "disconnected" in (await client.wait_for("fetch_failed"))[3]
        link.set(FAIR)
        await client.wait_for("connected")
    client.endpoint.fetch(server.key, digest, len(data))
    await client.wait_for("fetched")
    assert await client.load(digest) == data
    assert offsets[0] == 0
    assert 0 < offsets[1] < offsets[2] < len(data)


async def test_failures_of_a_lost_connection_are_told_before_its_end(net: Any) -> None:
    server, client, link = await net.linked()
    server.serves = False
    client.endpoint.fetch(server.key, bytes(32), 1000)
    await server.wait_for("message")
    link.cut()
    await client.wait_for("disconnected")
    assert [event[0] for event in client.log][:3] == ["connected", "fetch_failed", "disconnected"]


async def test_a_fetch_without_progress_fails_and_says_what_it_waited_for(net: Any) -> None:
    server, client = await net.pair(progress_s=0.3)
    server.serves = False
    client.endpoint.fetch(server.key, b"b" * 32, 1000)
    reason = (await client.wait_for("fetch_failed", 2))[3]
    assert "waited 0.3 s for the chunk at 0" in reason
    assert (b"b" * 8).hex() in reason
    assert "1000 bytes" in reason


async def test_a_late_answer_to_a_fetch_that_was_given_up_disturbs_nothing(net: Any) -> None:
    server = await net.node("server", progress_s=0.2)
    peer = await impostor(net, server)
    data = content(1000)
    digest = content_digest(data)
    server.endpoint.fetch(peer.key, digest, 1000)
    await peer.pull()
    await server.wait_for("fetch_failed")
    await peer.send(Chunk(blob=digest, offset=0, data=data), HELLO)
    await server.wait_for("message")
    server.endpoint.fetch(peer.key, digest, 1000)
    assert (await peer.pull()).offset == 0
    await peer.send(Chunk(blob=digest, offset=0, data=data))
    await server.wait_for("fetched")


async def test_a_blob_that_is_missing_at_its_peer_after_all_is_answered_in_the_middle(net: Any) -> None:
    server = await net.node("server")
    peer = await impostor(net, server)
    server.endpoint.fetch(peer.key, b"b" * 32, 1000)
    await peer.pull()
    await peer.send(Chunk(blob=b"b" * 32, offset=0, data=bytes(300)), Missing(blob=b"b" * 32))
    assert "does not have" in (await server.wait_for("fetch_failed"))[3]


async def test_closing_in_the_middle_of_transfers_leaves_no_task_behind(net: Any) -> None:
    """The `net` fixture asserts that nothing is left."""
    server, client = await net.pair()
    data = content(8) * (4 << 20)
    digest = await server.store(data)
    for number in range(6):
        client.endpoint.fetch(server.key, digest if number == 0 else bytes([number]) * 32, len(data))
    await asyncio.sleep(0.03)
    await client.endpoint.close()
    assert "fetch_failed" in [event[0] for event in client.log]
    assert client.log[-1][0] == "disconnected"


async def test_a_replacing_channel_resumes_what_the_replaced_one_had(net: Any) -> None:
    server = await net.node("server")
    identity = Identity.generate()
    data = content(2 * CHUNK_BYTES)
    digest = content_digest(data)
    old = await impostor(net, server, identity)
    server.endpoint.fetch(old.key, digest, len(data))
    await old.pull()
    await old.send(Chunk(blob=digest, offset=0, data=data[:CHUNK_BYTES]))
    await asyncio.sleep(0.1)
    new = await impostor(net, server, identity)
    server.endpoint.fetch(new.key, digest, len(data))
    assert (await new.pull()).offset == CHUNK_BYTES
    await new.send(Chunk(blob=digest, offset=CHUNK_BYTES, data=data[CHUNK_BYTES:]))
    await server.wait_for("fetched")
    assert await server.load(digest) == data
