"""Chunks that nobody asked for, or of other content: refused, at the cost of the liar's channel alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncfl.digest import content_digest
from asyncfl.messages import Chunk, Missing
from tests.node.transport.peers import HELLO, content, impostor


async def test_an_overlap_of_two_pulls_is_tolerated_within_what_was_asked_for(net: Any) -> None:
    """The fetch stalls, is asked for again, and then the answers to both PULLs arrive."""
    server = await net.node("server", progress_s=0.2)
    peer = await impostor(net, server)
    data = content(1000)
    digest = content_digest(data)
    server.endpoint.fetch(peer.key, digest, 1000)
    await peer.pull()
    await peer.send(Chunk(blob=digest, offset=0, data=data[:400]))
    await server.wait_for("fetch_failed")
    server.endpoint.fetch(peer.key, digest, 1000)
    assert (await peer.pull()).offset == 400
    await peer.send(
        Chunk(blob=digest, offset=400, data=data[400:800]),
        Chunk(blob=digest, offset=400, data=data[400:600]),
        Chunk(blob=digest, offset=800, data=data[800:]),
        HELLO,
    )
    await server.wait_for("message")
    await server.wait_for("fetched")


@pytest.mark.parametrize("wrong", ["unasked", "gap", "beyond", "again", "other digest"])
async def test_chunks_other_than_those_asked_for_close_the_channel(net: Any, wrong: str) -> None:
    server, bystander = await net.pair()
    peer = await impostor(net, server)
    data = content(1000)
    digest = content_digest(data)
    if wrong != "unasked":
        server.endpoint.fetch(peer.key, digest, 1000)
        await peer.pull()
    chunks = {
        "unasked": [Chunk(blob=digest, offset=0, data=data)],
        "gap": [Chunk(blob=digest, offset=500, data=data[500:])],
        "beyond": [Chunk(blob=digest, offset=0, data=data + b"x")],
        "again": [Chunk(blob=digest, offset=0, data=data[:300])] * 2,
        "other digest": [Chunk(blob=bytes(32), offset=0, data=data)],
    }[wrong]
    await peer.send(*chunks)
    reason = (await server.wait_for("disconnected", 3))[2]
    assert "MalformedMessage" in reason
    assert bystander.endpoint.send(server.key, HELLO)
    await server.wait_for("message")
    assert bystander.log == [("connected", server.key)]


async def test_a_chunk_after_missing_closes_the_channel(net: Any) -> None:
    server = await net.node("server")
    peer = await impostor(net, server)
    server.endpoint.fetch(peer.key, b"b" * 32, 1000)
    await peer.pull()
    await peer.send(Missing(blob=b"b" * 32), Chunk(blob=b"b" * 32, offset=0, data=bytes(1000)))
    assert "not asked for" in (await server.wait_for("disconnected"))[2]
    assert server.endpoint.counters.malformed == 1


async def test_more_than_was_asked_for_closes_the_channel_also_when_nobody_waits_any_more(net: Any) -> None:
    server = await net.node("server", progress_s=0.2)
    peer = await impostor(net, server)
    server.endpoint.fetch(peer.key, b"b" * 32, 1000)
    await peer.pull()
    await server.wait_for("fetch_failed")
    await peer.send(*[Chunk(blob=b"b" * 32, offset=0, data=bytes(500))] * 2, HELLO)
    await server.wait_for("message")
    await peer.send(Chunk(blob=b"b" * 32, offset=0, data=b"x"))
    assert "more of blob" in (await server.wait_for("disconnected"))[2]


async def test_chunks_from_a_peer_that_was_not_asked_close_its_channel_only(net: Any) -> None:
    server = await net.node("server")
    asked, meddler = await impostor(net, server), await impostor(net, server)
    data = content(1000)
    digest = content_digest(data)
    server.endpoint.fetch(asked.key, digest, 1000)
    await asked.pull()
    await meddler.send(Chunk(blob=digest, offset=0, data=b"x" * 1000))
    assert (await server.wait_for("disconnected"))[1] == meddler.key
    await asked.send(Chunk(blob=digest, offset=0, data=data))
    assert (await server.wait_for("fetched"))[1] == asked.key
    assert await server.load(digest) == data


async def test_content_of_another_digest_fails_and_is_not_kept(net: Any) -> None:
    server = await net.node("server")
    liar, honest = await impostor(net, server), await impostor(net, server)
    data = content(1000)
    digest = content_digest(data)
    server.endpoint.fetch(liar.key, digest, 1000)
    await liar.pull()
    await liar.send(Chunk(blob=digest, offset=0, data=bytes(1000)))
    assert "another digest" in (await server.wait_for("fetch_failed"))[3]
    assert not await asyncio.to_thread(server.blobs.has, digest)
    server.endpoint.fetch(honest.key, digest, 1000)
    assert (await honest.pull()).offset == 0
    await honest.send(Chunk(blob=digest, offset=0, data=data))
    await server.wait_for("fetched")


async def test_a_liar_cannot_spoil_what_an_honest_peer_sends_of_the_same_blob(net: Any) -> None:
    server = await net.node("server")
    liar, honest = await impostor(net, server), await impostor(net, server)
    data = content(1000)
    digest = content_digest(data)
    server.endpoint.fetch(liar.key, digest, 1000)
    server.endpoint.fetch(honest.key, digest, 1000)
    await liar.pull()
    assert (await honest.pull()).offset == 0
    await liar.send(Chunk(blob=digest, offset=0, data=bytes(500)))
    await honest.send(Chunk(blob=digest, offset=0, data=data))
    assert (await server.wait_for("fetched"))[1] == honest.key
