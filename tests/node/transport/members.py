"""Attacks by members: replicas and clients that are let in, and then do what they like."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from time import perf_counter
from typing import Any
from unittest.mock import patch

from asyncfl.digest import content_digest
from asyncfl.effects import Persist, Put, Send, Table
from asyncfl.messages import CHUNK_BYTES, Chunk, Message, Pull, RosterRequest, Row, View
from node import blobs
from node.runtime import MAX_QUEUED
from tests.node.runtime.conftest import PEER, Bench
from tests.node.transport.besieging import GIANT, MIB, assaulted, due, ended, most, until
from tests.node.transport.peers import HELLO, Impostor, content, impostor

PATIENT: dict[str, Any] = {"silence_s": 60.0, "stalled_write_s": 60.0}
"""Limits of a victim whose deadlines are not what is tried."""
ANSWER = View(
    base=bytes(32), base_epoch=0, entries=0, rows=(Row(epoch=1, items=(bytes(32),) * 2565),) * 4, pinned=False
)
"""A third of a MiB."""


def link_to(server: Any, peer: Impostor) -> Any:
    return server.endpoint._links[peer.key]


async def giant_frame(net: Any) -> float:
    server = await net.node("server")
    peer = await impostor(net, server)
    buffer = link_to(server, peer).connection.protocol.reader.buffer
    peer.connection.transport.write(GIANT + bytes(8 * MIB))
    return await most(lambda: len(buffer) / MIB, lambda: ended(peer.connection) or len(buffer) >= 8 * MIB)


async def announced_arrays(net: Any) -> float:
    """Arrays within each other, each of nearly as many elements as the message has bytes."""
    server = await net.node("server")
    peer = await impostor(net, server)
    head = (b"\xdd" + (10_000).to_bytes(4, "big")) * 500
    frame = peer.channel.seal([head + bytes(10_000)])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await peer.connection.send(frame)
        await server.wait_for("disconnected", 60.0)
        return (tracemalloc.get_traced_memory()[1] - before) / MIB
    finally:
        tracemalloc.stop()


async def malformed_messages(net: Any) -> float:
    server = await net.node("server")
    peer = await impostor(net, server)
    for _ in range(100):
        await peer.connection.send(peer.channel.seal([b"\x92\x02"]))
    counters = server.endpoint.counters
    return await most(
        lambda: counters.messages_in, lambda: ended(peer.connection) or counters.messages_in == 100
    )


async def questions_unread(net: Any) -> float:
    server = await net.node("server", control_bytes=MIB, **PATIENT)

    def answer(peer: bytes, message: Message) -> None:
        server.messages.append(message)
        server.endpoint.send(peer, ANSWER)

    server.message = answer
    peer = await impostor(net, server)
    peer.connection.transport.pause_reading()
    link = link_to(server, peer)
    for _ in range(100):
        await peer.send(RosterRequest(after=0))
    return await most(lambda: link._control_bytes / MIB, lambda: len(server.messages) == 100)


async def blobs_unread(net: Any) -> float:
    server = await net.node("server", **PATIENT)
    blob = await server.store(content(8 * MIB))

    def held() -> float:
        """MiB read from disk or on their way out, and not taken."""
        return sum(
            sum(map(len, link.outgoing._chunks)) + link.connection.transport.get_write_buffer_size()
            for link in server.endpoint._links.values()
        ) / MIB  # fmt: skip

    waiting = asyncio.ensure_future(_after_the_first_wait(server, 1.0))
    try:
        return await assaulted(
            server, "slow-reading", held, lambda: held() >= 8 or (waiting.done() and waiting.result()), blob
        )
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _after_the_first_wait(server: Any, seconds: float) -> bool:
    """Some time after the victim began to wait for a peer to take something."""
    await until(lambda: any(not link.connection.writable for link in server.endpoint._links.values()))
    await due(seconds)
    return True


async def nothing_taken(net: Any) -> float:
    server = await net.node("server", stalled_write_s=0.3, silence_s=60.0)
    blob = await server.store(content(16 * MIB))

    waiting = asyncio.ensure_future(_after_the_first_wait(server, 1.5))
    await assaulted(server, "slow-reading", lambda: 0, waiting.done, blob)
    return float(not any(event[0] == "disconnected" for event in server.log))


async def requests_for_blobs(net: Any) -> float:
    server = await net.node("server", **PATIENT)
    kept = await server.store(content(4 * MIB))
    peer = await impostor(net, server)
    peer.connection.transport.pause_reading()
    await peer.send(Pull(blob=kept, offset=0))
    outgoing = link_to(server, peer).outgoing
    for number in range(0, 2000, 50):
        await peer.send(*(Pull(blob=(number + i).to_bytes(32, "big"), offset=0) for i in range(50)))
    await peer.send(HELLO)
    return await most(lambda: len(outgoing), lambda: server.messages)


async def pings_unread(net: Any) -> float:
    server = await net.node("server", **PATIENT)
    peer = await impostor(net, server)
    attacker = peer.connection
    attacker.transport.pause_reading()
    victim = link_to(server, peer).connection.transport
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    largest = 0
    while not ended(attacker) and not victim.is_closing() and largest < 16 * MIB:
        attacker.transport.write(ping * 2000)
        await asyncio.sleep(0.001)
        largest = max(largest, victim.get_write_buffer_size())
    return largest / MIB


async def stream_without_a_pause(net: Any) -> float:
    """Every message keeps the victim busy for a millisecond; what comes in one packet could keep it for long."""
    server = await net.node("server")
    handled = 0

    def work(peer: bytes, message: Message) -> None:
        nonlocal handled
        handled += 1
        end = perf_counter() + 0.001
        while perf_counter() < end:
            pass

    server.message = work
    peer = await impostor(net, server)
    for _ in range(200):
        await peer.send(HELLO)
    longest = 0
    while handled < 200:
        before = handled
        await asyncio.sleep(0)
        longest = max(longest, handled - before)
    return longest


async def faster_than_the_disk(net: Any) -> float:
    server = await net.node("server", unwritten_chunks=3, **PATIENT)
    peer = await impostor(net, server)
    size = 48 * CHUNK_BYTES
    data = content(size)
    digest = content_digest(data)
    ready = threading.Event()

    def blocked(descriptor: int, chunk: bytes) -> None:
        ready.wait()

    with patch.object(blobs, "_write_all", blocked):
        server.endpoint.fetch(peer.key, digest, size)
        await peer.pull()
        link = link_to(server, peer)
        (fetch,) = link.fetches._active.values()
        frames = link.connection.recv_messages.frames.queue

        def held() -> float:
            return (sum(map(len, fetch.chunks)) + sum(len(frame.data) for frame in frames)) / MIB

        async def send() -> None:
            for start in range(0, size, CHUNK_BYTES):
                await peer.send(Chunk(blob=digest, offset=start, data=data[start : start + CHUNK_BYTES]))

        sending = asyncio.ensure_future(send())
        try:
            # Until the victim holds nearly all, or has stopped to take anything in: the disk is stuck.
            return await most(
                held,
                lambda: (
                    held() * MIB >= size - 6 * CHUNK_BYTES
                    or not (fetch.room.is_set() or link.connection.reading)
                ),
            )
        finally:
            ready.set()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            link.stop("the attack is over", abruptly=True)
            await link.ended.wait()


async def overload(net: Any) -> float:
    """Against the shell around the machine, whose disk is stuck."""
    bench = await asyncio.to_thread(Bench, net.root / "bench")
    bench.disk.ready.clear()
    bench.machine.answers["connected"] = lambda peer: [Persist((Put(Table.META, b"key", b"value"),))]
    bench.machine.answers["receive"] = lambda peer, message: [Send(peer, message)]
    async with bench:
        bench.runtime.connected(PEER)
        await until(lambda: bench.record.of("begin"))
        for number in range(MAX_QUEUED + 10_000):
            bench.hear(number)
        return len(bench.runtime._queue)


async def silence(net: Any) -> float:
    server = await net.node("server", silence_s=0.3)
    await impostor(net, server)
    await due(1.5)
    return len(server.endpoint.peers)


async def unasked_chunks(net: Any) -> float:
    server = await net.node("server")
    peer = await impostor(net, server)
    return await _flooded_with_chunks(server, peer, b"b" * 32)


async def more_than_asked(net: Any) -> float:
    server = await net.node("server", progress_s=0.2)
    peer = await impostor(net, server)
    server.endpoint.fetch(peer.key, b"b" * 32, 1000)
    await peer.pull()
    await server.wait_for("fetch_failed", 60.0)
    return await _flooded_with_chunks(server, peer, b"b" * 32)


async def _flooded_with_chunks(server: Any, peer: Impostor, digest: bytes) -> float:
    """MiB of chunks that a victim reads, of four."""
    counters = server.endpoint.counters
    before = counters.bytes_in
    frame = Chunk(blob=digest, offset=0, data=bytes(CHUNK_BYTES // 4))

    async def send() -> None:
        for _ in range(64):
            await peer.send(frame)

    sending = asyncio.ensure_future(send())
    try:
        return await most(
            lambda: (counters.bytes_in - before) / MIB,
            lambda: ended(peer.connection) or counters.bytes_in - before >= 4 * MIB,
        )
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def another_content(net: Any) -> float:
    server = await net.node("server")
    peer = await impostor(net, server)
    digest = content_digest(content(1000))
    server.endpoint.fetch(peer.key, digest, 1000)
    await peer.pull()
    await peer.send(Chunk(blob=digest, offset=0, data=bytes(1000)))
    await until(lambda: server.log[-1][0] in {"fetched", "fetch_failed"})
    return float(await asyncio.to_thread(server.blobs.has, digest))


async def answers_withheld(net: Any) -> float:
    server = await net.node("server", progress_s=0.2, **PATIENT)
    peer = await impostor(net, server)
    server.endpoint.fetch(peer.key, b"b" * 32, 1000)
    await peer.pull()
    await due(1.5)
    return len(link_to(server, peer).fetches)
