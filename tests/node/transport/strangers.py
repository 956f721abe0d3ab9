"""Attacks by those who are no members, or who stand between two."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from chaos.link import LOCALHOST
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from asyncfl.channel import Channel, Initiator
from asyncfl.identity import Identity, exchange_key
from asyncfl.messages import encode_message
from asyncfl.noise import Handshake
from tests.node.transport.besieging import GIANT, MIB, PATIENCE, assaulted, due, ended, most, until
from tests.node.transport.conftest import DEPLOYMENT
from tests.node.transport.peers import HELLO, impostor


async def giant_frame(net: Any) -> float:
    server = await net.node("server")
    attacker = await net.raw(server)
    await until(lambda: len(server.endpoint._gate) == 1)
    (victim,) = server.endpoint._gate._waiting
    attacker.transport.write(GIANT + bytes(4 * MIB))
    buffer = victim.protocol.reader.buffer
    return await most(lambda: len(buffer) / MIB, lambda: ended(attacker) or len(buffer) >= 4 * MIB)


async def pings(net: Any) -> float:
    server = await net.node("server")
    attacker = await net.raw(server)
    answered = 0
    try:
        while answered < 500:
            await asyncio.wait_for(await attacker.ping(answered.to_bytes(100, "big")), PATIENCE)
            answered += 1
    except ConnectionClosed:
        pass
    return answered


async def endless_handshakes(net: Any) -> float:
    server = await net.node("server", handshake_s=0.4)
    gate = server.endpoint._gate

    async def late() -> int:
        await until(lambda: gate.refused)  # 64 are in, and the others are not
        await due(1.0)
        return len(gate)

    waiting = asyncio.ensure_future(late())
    await assaulted(server, "endless-handshakes", lambda: 0, waiting.done)
    return await waiting


async def crowd(net: Any) -> float:
    server = await net.node("server", handshake_s=30.0)
    gate = server.endpoint._gate
    return await assaulted(
        server, "endless-handshakes", lambda: len(gate), lambda: len(gate) + gate.refused >= 100
    )


async def crowd_in_all_places(net: Any) -> float:
    server = await net.node("server", handshake_s=30.0, unauthenticated=64, unauthenticated_per_address=16)
    gate = server.endpoint._gate

    async def knock() -> bool:
        await until(lambda: len(gate) + gate.refused >= 100)
        refused = gate.refused
        member = await net.node("member", listen=False, dial={server.key: server.url})
        await until(lambda: member.endpoint.peers or gate.refused >= refused + 3)
        return not member.endpoint.peers

    knocking = asyncio.ensure_future(knock())
    await assaulted(server, "endless-handshakes", lambda: 0, knocking.done)
    return float(await knocking)


async def crowd_of_many_addresses(net: Any) -> float:
    server = await net.node("server", handshake_s=30.0, unauthenticated=10, unauthenticated_per_address=3)
    gate = server.endpoint._gate
    opened = [
        await asyncio.open_connection("127.0.0.1", server.endpoint.port, local_addr=(f"127.0.1.{number}", 0))
        for number in range(1, 41)
    ]
    try:
        return await most(lambda: len(gate), lambda: len(gate) + gate.refused >= 40)
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def uninvited(net: Any) -> float:
    server = await net.node("server", accept=lambda key: False)
    initiator = Initiator(Identity.generate(), server.key, DEPLOYMENT)
    return await _heard(net, server, initiator.first(), initiator.finish)


async def another_deployment(net: Any) -> float:
    server = await net.node("server")
    initiator = Initiator(Identity.generate(), server.key, b"e" * 32)
    return await _heard(net, server, initiator.first(), initiator.finish)


async def impersonation(net: Any) -> float:
    member, thief = Identity.generate(), Identity.generate()
    server = await net.node("server", accept=lambda key: key == member.public)
    handshake = Handshake(
        initiator=True,
        prologue=b"asyncfl/1" + DEPLOYMENT,
        static=bytes(thief.exchange),
        remote_static=exchange_key(server.key),
    )

    def finish(answer: bytes) -> Channel:
        assert handshake.read_second(answer) == b""
        return Channel(server.key, *handshake.split())

    return await _heard(net, server, handshake.write_first(member.public), finish)


async def _heard(net: Any, server: Any, first: bytes, finish: Callable[[bytes], Channel]) -> float:
    """How much of what is said after a handshake of the attacker's making reaches the victim's machine."""
    attacker = await net.raw(server)
    try:
        await attacker.send(first)
        channel = finish(await attacker.recv())
        await attacker.send(channel.seal(()))
        await attacker.send(channel.seal([encode_message(HELLO)]))
    except ConnectionClosed:
        return len(server.messages)
    await until(lambda: server.messages or ended(attacker))
    return len(server.messages)


async def replayed_handshake(net: Any) -> float:
    server = await net.node("server", handshake_s=0.4)
    initiator = Initiator(Identity.generate(), server.key, DEPLOYMENT)
    recorded = initiator.first()
    member = await net.raw(server)
    await member.send(recorded)
    channel = initiator.finish(await member.recv())
    await member.send(channel.seal(()))
    await server.wait_for("connected")
    attacker = await net.raw(server)
    await attacker.send(recorded)
    await until(lambda: ended(attacker) or len(server.log) > 1)
    return sum(event[0] == "disconnected" for event in server.log)


async def tampering(net: Any) -> float:
    server = await net.node("server")
    member = await impostor(net, server)
    frame = bytearray(member.channel.seal([encode_message(HELLO)]))
    other = HELLO.model_copy(update={"epoch": 2})
    for at, (sent, wanted) in enumerate(zip(encode_message(HELLO), encode_message(other), strict=True)):
        frame[4 + at] ^= sent ^ wanted
    await member.connection.send(bytes(frame))
    await until(lambda: server.messages or ended(member.connection))
    return float(server.messages.count(other))


async def replayed_frame(net: Any) -> float:
    server = await net.node("server")
    member = await impostor(net, server)
    frame = member.channel.seal([encode_message(HELLO)])
    await member.connection.send(frame)
    await member.connection.send(frame)
    await until(lambda: len(server.messages) > 1 or ended(member.connection))
    return len(server.messages) - 1


async def redirection(net: Any) -> float:
    dials = elsewhere = 0

    def send_on(connection: ServerConnection, request: Request) -> Response:
        nonlocal dials
        dials += 1
        response = connection.respond(302, "")
        response.headers["Location"] = f"ws://127.0.0.1:{_port(other)}/"
        return response

    async def arrive(connection: ServerConnection) -> None:
        nonlocal elsewhere
        elsewhere += 1

    async with (
        serve(arrive, LOCALHOST, 0) as other,
        serve(arrive, LOCALHOST, 0, process_request=send_on) as liar,
    ):
        url = f"ws://127.0.0.1:{_port(liar)}"
        member = await net.node("member", listen=False, dial={Identity.generate().public: url})
        await until(lambda: elsewhere or dials >= 3)
        await member.endpoint.close()
    return elsewhere


async def mute_listener(net: Any) -> float:
    """Dials are counted by who waits to be accepted."""
    with socket.create_server((LOCALHOST, 0)) as listener:
        listener.setblocking(False)
        await _dial(net, listener.getsockname()[1])
        dials = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                dials += 1
    return float(dials < 2)


async def listener_without_an_answer(net: Any) -> float:
    dials = 0

    async def hear_out(connection: ServerConnection) -> None:
        nonlocal dials
        dials += 1
        await connection.wait_closed()

    async with serve(hear_out, LOCALHOST, 0) as listener:
        await _dial(net, _port(listener))
    return float(dials < 2)


async def _dial(net: Any, port: int) -> None:
    """Have a node dial there for several times its deadline."""
    url = f"ws://127.0.0.1:{port}"
    node = await net.node("node", listen=False, dial={Identity.generate().public: url}, handshake_s=0.2)
    await due(1.5)
    await node.endpoint.close()


def _port(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])
