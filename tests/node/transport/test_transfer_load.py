"""Many or large blobs, slow readers and disks: in turn, within bounded memory, and nobody else waits."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import Any

import pytest

from asyncfl.messages import CHUNK_BYTES, Pull, Row, View
from node import blobs
from tests.node.transport.peers import HELLO, content, impostor


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


async def test_large_control_messages_and_chunks_share_the_channel_without_overfilling_a_frame(
    net: Any,
) -> None:
    server, client = await net.pair(
        progress_s=60.0
    )  # Messages go first, and a slow machine decodes them slowly.
    data = content(8) * (1 << 20)
    digest = await server.store(data)
    row = Row(epoch=1, items=(bytes(32),) * 4096)
    large = View(base=bytes(32), base_epoch=0, entries=0, rows=(row,) * 7, pinned=False)
    client.endpoint.fetch(server.key, digest, len(data))
    for _ in range(12):
        assert server.endpoint.send(client.key, large)
        await asyncio.sleep(0.005)
    await client.wait_for("fetched", 60)
    async with asyncio.timeout(60):
        while len(client.messages) < 12:
            await client.wait_for("message")
    assert [event[0] for event in client.log].count("disconnected") == 0


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
    server, quick = await net.pair(silence_s=120.0, stalled_write_s=120.0, progress_s=60.0)
    slow = await impostor(net, server)
    data = content(8) * (4 << 20)
    digest = await server.store(data)
    slow.connection.transport.pause_reading()
    await slow.send(Pull(blob=digest, offset=0))
    for _ in range(4):
        quick.endpoint.fetch(server.key, digest, len(data))
        await quick.wait_for("fetched", 60)
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


async def test_a_full_disk_is_told_to_the_owner_with_the_remedy_and_leaves_nothing(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = await net.pair()
    digest = await server.store(content(1000))
    write = blobs._write_all

    def full(descriptor: int, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs, "_write_all", full)
    client.endpoint.fetch(server.key, digest, 1000)
    assert "disk is full" in str((await client.wait_for("disk_refused"))[1])
    await client.wait_for("fetch_failed")
    assert not list(await asyncio.to_thread(os.listdir, client.blobs.root / "incoming"))
    monkeypatch.setattr(blobs, "_write_all", write)
    client.endpoint.fetch(server.key, digest, 1000)
    await client.wait_for("fetched")


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
