"""Blobs over channels: whole, resumed, refused, in turn, within bounded memory."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import Any

import pytest

from asyncfl.digest import content_digest
from asyncfl.identity import Identity
from asyncfl.messages import (
    CHUNK_BYTES,
    Chunk,
    Missing,
    Pull,
    Row,
    View,
    Wait,
    decode_message,
    encode_message,
)
from asyncfl.wire import Wire
from node import blobs

HELLO = Wait(epoch=1, reason="hello")


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that differ everywhere (a chunk out of place changes the digest)."""
    return bytes([seed]) * (size % 8) + b"".join(
        (number * 2654435761 + seed).to_bytes(8, "little") for number in range(size // 8)
    )


class Impostor:
    """A peer with software of its own: answers by hand."""

    def __init__(self, connection: Any, channel: Any, key: bytes) -> None:
        self.connection = connection
        self.channel = channel
        self.key = key

    async def send(self, *messages: Wire) -> None:
        await self.connection.send(self.channel.seal([encode_message(message) for message in messages]))  # type: ignore[arg-type]

    async def pull(self) -> Pull:
        async with asyncio.timeout(3):
            while True:
                for part in self.channel.open(await self.connection.recv()):
                    message = decode_message(part)
                    if isinstance(message, Pull):
                        return message


async def impostor(net: Any, server: Any, identity: Identity | None = None) -> Impostor:
    identity = identity or Identity.generate()
    connection, channel = await net.impostor(server, identity)
    await server.wait_for("connected")
    return Impostor(connection, channel, identity.public)


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


async def test_many_fetches_are_done_a_few_at_a_time_and_all_arrive(net: Any) -> None:
    server, client = await net.pair(incoming_blobs=3)
    blobs = [content(400_000 + number, number) for number in range(20)]
    digests = [await server.store(data) for data in blobs]
    highest = 0
    for data, digest in zip(blobs, digests, strict=True):
        client.endpoint.fetch(server.key, digest, len(data))
        client.endpoint.fetch(server.key, digest, len(data))  # asking twice changes nothing
    fetches = client.endpoint._links[server.key].fetches
    done = set()
    while len(done) < 20:
        highest = max(highest, len(fetches._active))
        done.add((await client.wait_for("fetched"))[2])
    assert done == set(digests)
    assert highest <= 3
    assert [event[0] for event in client.log].count("fetched") == 20
    assert fetches._allowances == {}


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
    server, client, proxy = await net.proxied()
    data = content(8 * CHUNK_BYTES)
    digest = await server.store(data)
    offsets = []
    serve = server.endpoint.send_blob

    def watched(peer: bytes, blob: bytes, offset: int) -> None:
        offsets.append(offset)
        serve(peer, blob, offset)

    server.endpoint.send_blob = watched
    for _ in range(2):
        proxy.limit = 3 * CHUNK_BYTES
        client.endpoint.fetch(server.key, digest, len(data))
        assert "disconnected" in (await client.wait_for("fetch_failed"))[3]
        await client.wait_for("connected")
    client.endpoint.fetch(server.key, digest, len(data))
    await client.wait_for("fetched")
    assert await client.load(digest) == data
    assert offsets[0] == 0
    assert 0 < offsets[1] < offsets[2] < len(data)


async def test_failures_of_a_lost_connection_are_told_before_its_end(net: Any) -> None:
    server, client, proxy = await net.proxied()
    server.serves = False
    client.endpoint.fetch(server.key, bytes(32), 1000)
    await server.wait_for("message")
    proxy.cut()
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


async def test_large_control_messages_and_chunks_share_the_channel_without_overfilling_a_frame(
    net: Any,
) -> None:
    server, client = await net.pair()
    data = content(8) * (1 << 20)
    digest = await server.store(data)
    row = Row(epoch=1, items=(bytes(32),) * 4096)
    large = View(base=bytes(32), base_epoch=0, entries=0, rows=(row,) * 7, pinned=False)
    client.endpoint.fetch(server.key, digest, len(data))
    for _ in range(12):
        assert server.endpoint.send(client.key, large)
        await asyncio.sleep(0.005)
    await client.wait_for("fetched")
    async with asyncio.timeout(5):
        while len(client.messages) < 12:
            await client.wait_for("message")
    assert [event[0] for event in client.log].count("disconnected") == 0


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


async def test_a_blob_that_is_missing_at_its_peer_after_all_is_answered_in_the_middle(net: Any) -> None:
    server = await net.node("server")
    peer = await impostor(net, server)
    server.endpoint.fetch(peer.key, b"b" * 32, 1000)
    await peer.pull()
    await peer.send(Chunk(blob=b"b" * 32, offset=0, data=bytes(300)), Missing(blob=b"b" * 32))
    assert "does not have" in (await server.wait_for("fetch_failed"))[3]


async def test_control_messages_overtake_blobs(net: Any) -> None:
    """While 64 MiB are under way, a message takes a moment, not the whole transfer."""
    server, client = await net.pair()
    data = content(8) * (8 << 20)
    digest = await server.store(data)
    client.endpoint.fetch(server.key, digest, len(data))
    await asyncio.sleep(0.05)
    for _ in range(5):
        server.endpoint.send(client.key, HELLO)
        await client.wait_for("message")
        await asyncio.sleep(0.01)
    assert "fetched" not in [event[0] for event in client.log]
    await client.wait_for("fetched", 30)


async def test_a_slow_reader_neither_grows_memory_nor_delays_others(net: Any) -> None:
    server, quick = await net.pair(silence_s=30.0)
    slow = await impostor(net, server)
    data = content(8) * (4 << 20)
    digest = await server.store(data)
    slow.connection.transport.pause_reading()
    await slow.send(Pull(blob=digest, offset=0))
    for _ in range(4):
        quick.endpoint.fetch(server.key, digest, len(data))
        await quick.wait_for("fetched", 20)
        await asyncio.to_thread(quick.blobs.delete, digest)
    link = server.endpoint._links[slow.key]
    assert len(link.outgoing._chunks) <= 4
    assert link.connection.transport.get_write_buffer_size() <= 3 * CHUNK_BYTES
    assert len(link.outgoing) == 1


async def test_more_requests_than_a_peer_may_have_open_are_dropped(net: Any) -> None:
    server = await net.node("server", outgoing_blobs=5, silence_s=30.0)
    greedy = await impostor(net, server)
    digests = [await server.store(content(CHUNK_BYTES, number)) for number in range(10)]
    greedy.connection.transport.pause_reading()
    await greedy.send(*(Pull(blob=digest, offset=0) for digest in digests))
    await asyncio.sleep(0.2)
    assert len(server.endpoint._links[greedy.key].outgoing) <= 5
    assert server.endpoint.counters.dropped >= 1


async def test_a_disk_that_is_behind_stops_the_sender_not_the_event_loop(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:

    server, client = await net.pair(unwritten_chunks=3)
    data = content(8) * (1 << 20)
    digest = await server.store(data)
    write = blobs._write_all

    def slowly(descriptor: int, chunk: bytes) -> None:
        time.sleep(0.01)
        write(descriptor, chunk)

    monkeypatch.setattr(blobs, "_write_all", slowly)
    client.endpoint.fetch(server.key, digest, len(data))
    fetches = client.endpoint._links[server.key].fetches
    most, slowest = 0, 0.0
    loop = asyncio.get_running_loop()
    while "fetched" not in [event[0] for event in client.log]:
        since = loop.time()
        await asyncio.sleep(0.001)
        slowest = max(slowest, loop.time() - since)
        most = max([most, *(len(fetch.chunks) for fetch in fetches._active.values())])
    assert 1 <= most <= 3
    assert slowest < 0.25
    assert await client.load(digest) == data


async def test_a_full_disk_fails_the_fetch_with_the_remedy_and_leaves_nothing(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = await net.pair()
    digest = await server.store(content(1000))
    write = blobs._write_all

    def full(descriptor: int, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs, "_write_all", full)
    client.endpoint.fetch(server.key, digest, 1000)
    assert "disk is full" in (await client.wait_for("fetch_failed"))[3]
    assert not list(await asyncio.to_thread(os.listdir, client.blobs.root / "incoming"))
    monkeypatch.setattr(blobs, "_write_all", write)
    client.endpoint.fetch(server.key, digest, 1000)
    await client.wait_for("fetched")


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


async def test_the_event_loop_is_never_busy_for_long_while_uploads_arrive(net: Any) -> None:
    """Counted in processor time of the loop's own thread, so that a busy machine does not matter."""
    server, client = await net.pair()
    size = 1_000_000 * 23 // 8
    digests = [await client.store(content(size, number)) for number in range(4)]
    longest, watching = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while watching:
            since = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - since)

    watcher = asyncio.create_task(watch())
    for digest in digests:
        server.endpoint.fetch(client.key, digest, size)
    for _ in digests:
        await server.wait_for("fetched")
    watching = False
    await watcher
    assert 0 < longest < 0.05
