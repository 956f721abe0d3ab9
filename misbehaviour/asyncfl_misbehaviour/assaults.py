"""Attacks on the transport: what one hostile connection to a replica does, again and again.

`Target` says where the victim is. Each assault ends when the victim has had enough of it, which is its rule's doing; it
counts what it did in `Score`.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from asyncfl.channel import MAX_PARTS, Channel
from asyncfl.identity import Identity
from asyncfl.messages import Pull, RosterRequest, encode_message
from node.transport.connections import dial
from node.transport.handshake import initiate
from node.transport.limits import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from node.transport.connections import GuardedClientConnection

PATIENT: Final = Limits(handshake_s=20.0)
"""For our side: twice as long as a victim waits."""
CONNECTIONS: Final = 100
"""Unfinished handshakes at once with each victim: more than it admits from one address (64)."""
DRIP_SECONDS: Final = 0.5
HEADERS: Final = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX-Patience: "
ELSEWHERE: Final = ("127.0.0.66", 0)
"""Where unfinished handshakes with a victim on this machine come from: as from another machine, an address of their
own, because honest nodes share 127.0.0.1 here and a victim bounds the strangers of each address."""


@dataclass(frozen=True, slots=True)
class Target:
    """A replica: its key and address, and who attacks it in which deployment."""

    identity: Identity
    deployment: bytes
    peer: bytes
    url: str
    host: str
    port: int
    blob: bytes
    """Something large that it has: the initial model."""


@dataclass(slots=True)
class Score:
    """What the assaults of one node came to."""

    assaults: int = 0
    """Begun."""
    cut: int = 0
    """Ended by the victim."""
    bytes_in: int = 0
    bytes_out: int = 0


Assault = Callable[[Target, Score], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TransportAttack:
    """An attack on the transport, as `asyncfl.adversary` describes those on the protocol."""

    tries: str
    rule: str
    assault: Assault


async def endless_handshakes(target: Target, score: Score) -> None:
    """Many connections that never come to an end of their headers, a byte now and then."""
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_drip(target, score))


async def _drip(target: Target, score: Score) -> None:
    local = ELSEWHERE if target.host.startswith("127.") else None
    try:
        async with _connection(target, local) as writer:
            for part in (HEADERS, *([b"x"] * 200)):
                if writer.is_closing():  # uvloop says so with another error than asyncio
                    raise ConnectionResetError("the victim closed the connection")
                writer.write(part)
                await writer.drain()
                score.bytes_out += len(part)
                await asyncio.sleep(DRIP_SECONDS)
    except OSError:
        score.cut += 1
        await asyncio.sleep(DRIP_SECONDS)


@asynccontextmanager
async def _connection(
    target: Target, local: tuple[str, int] | None = None
) -> AsyncIterator[asyncio.StreamWriter]:
    """A bare connection."""
    _, writer = await asyncio.open_connection(target.host, target.port, local_addr=local)
    try:
        yield writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def _channel(target: Target) -> AsyncIterator[tuple[GuardedClientConnection, Channel]]:
    """A channel in this node's own name."""
    connection = await dial(target.url, PATIENT)
    try:
        yield connection, await initiate(connection, target.identity, target.peer, target.deployment)
    finally:
        connection.drop()


async def garbage(target: Target, score: Score) -> None:
    """Random bytes: in place of HTTP, of a handshake, of a frame, of a message."""
    for data in (os.urandom(4000), b"GET / HTTP/1.1\r\n" + os.urandom(4000)):
        async with _connection(target) as writer:
            writer.write(data)
            score.bytes_out += len(data)
            await asyncio.sleep(DRIP_SECONDS / 10)
    connection = await dial(target.url, PATIENT)
    try:
        await _until_cut(connection, os.urandom(128), score)
    finally:
        connection.drop()
    async with _channel(target) as (connection, _):
        await _until_cut(connection, os.urandom(5000), score)
    async with _channel(target) as (connection, channel):
        await _until_cut(connection, channel.seal([os.urandom(300)]), score)


async def giant_lengths(target: Target, score: Score) -> None:
    """Frames and messages that announce more than anybody could hold."""
    for header in (b"\x82\xff" + struct.pack(">Q", 2**62), b"\x82\xff" + struct.pack(">Q", 2**31)):
        # Of a WebSocket message, after the handshake; masked, as a client's are.
        async with _channel(target) as (connection, _):
            await _until_cut(connection, header + bytes(4) + os.urandom(1000), score, raw=True)
    for message in (
        b"\x92\x01\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1 fields
        b"\x92\x01\x91\xc6\xff\xff\xff\xff",  # a byte string of 2^32 - 1 bytes
        b"\x91" * 100_000,  # arrays, 100 000 deep
    ):
        async with _channel(target) as (connection, channel):
            await _until_cut(connection, channel.seal([message]), score)


async def _until_cut(
    connection: GuardedClientConnection, data: bytes, score: Score, *, raw: bool = False
) -> None:
    """Send this, and see whether the victim ends the connection."""
    if raw:
        connection.transport.write(data)
    else:
        await connection.send(data)
    score.bytes_out += len(data)
    try:
        async with asyncio.timeout(PATIENT.handshake_s):
            while True:
                score.bytes_in += len(await connection.recv(decode=False))
    except TimeoutError:
        return
    except Exception:
        score.cut += 1


async def slow_reading(target: Target, score: Score) -> None:
    """Asks for the same large blob all the time, and reads none of it."""
    async with _channel(target) as (connection, channel):
        connection.transport.pause_reading()
        while not connection.transport.is_closing():
            pulls = [encode_message(Pull(blob=target.blob, offset=0))] * MAX_PARTS
            frame = channel.seal(pulls)
            await connection.send(frame)
            score.bytes_out += len(frame)
            await asyncio.sleep(DRIP_SECONDS / 10)
    score.cut += 1


async def flooding(target: Target, score: Score) -> None:
    """Valid questions as fast as the connection takes them; answers are read and thrown away."""
    async with _channel(target) as (connection, channel):
        reading = asyncio.create_task(_read_on(connection, score))
        try:
            for number in count():
                asked = [
                    encode_message(Pull(blob=number.to_bytes(32, "big"), offset=0)),
                    encode_message(RosterRequest(after=0)),
                ]
                frame = channel.seal(asked * (MAX_PARTS // 2))
                await connection.send(frame)
                score.bytes_out += len(frame)
                # One that is on the victim's machine would otherwise never let anybody else work.
                await asyncio.sleep(0)
        finally:
            reading.cancel()


async def _read_on(connection: GuardedClientConnection, score: Score) -> None:
    while True:
        score.bytes_in += len(await connection.recv(decode=False))


TRANSPORT_ATTACKS: Final[dict[str, TransportAttack]] = {
    "endless-handshakes": TransportAttack(
        "holds many connections that never finish their handshake",
        "10 s from the first packet to a channel; 64 strangers of one address, 256 in all",
        endless_handshakes,
    ),
    "flooding": TransportAttack(
        "sends valid questions as fast as the connection takes them",
        "others get their turn after 5 ms; bounded queues; answers from memory, or dropped and counted",
        flooding,
    ),
    "garbage": TransportAttack(
        "sends random bytes in place of headers, handshakes, frames and messages",
        "what does not decrypt or decode closes that channel and changes no state",
        garbage,
    ),
    "giant-lengths": TransportAttack(
        "announces frames and messages of up to 2^62 bytes",
        "lengths are checked before anything is allocated for them",
        giant_lengths,
    ),
    "slow-reading": TransportAttack(
        "asks for blobs without end and reads nothing",
        "bounded queues for each peer; cut when it takes nothing for 30 s",
        slow_reading,
    ),
}
