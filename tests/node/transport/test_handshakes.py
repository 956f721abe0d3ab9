"""Who gets a channel, and how little anybody else can do."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import Any

import pytest
from blockbuster import BlockingError
from websockets.exceptions import ConnectionClosed

from asyncfl.channel import Initiator
from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from asyncfl.messages import Wait

DEPLOYMENT = b"d" * 32
HELLO = Wait(epoch=1, reason="hello")


async def closed_without_a_word(connection: Any) -> None:
    """The server sends nothing more and cuts the connection."""
    with pytest.raises(ConnectionClosed) as caught:
        await asyncio.wait_for(connection.recv(), 5)
    assert caught.value.rcvd is None


async def test_the_detector_of_blocking_calls_is_on() -> None:
    with pytest.raises(BlockingError):
        time.sleep(0.01)  # noqa: ASYNC251


async def test_two_endpoints_exchange_messages_in_both_directions(net: Any) -> None:
    server, client = await net.pair()
    assert client.endpoint.send(server.key, HELLO)
    assert (await server.wait_for("message"))[1:] == (client.key, HELLO)
    assert server.endpoint.send(client.key, HELLO)
    assert (await client.wait_for("message"))[1:] == (server.key, HELLO)
    assert server.endpoint.peers == {client.key}
    assert server.endpoint.counters.bytes_in == client.endpoint.counters.bytes_out > 0


async def test_an_unknown_key_is_refused_before_anything_is_sent_or_kept(net: Any, until: Any) -> None:
    known = Identity.generate()
    server = await net.node("server", accept=lambda key: key == known.public)
    connection = await net.raw(server)
    await connection.send(Initiator(Identity.generate(), server.key, DEPLOYMENT).first())
    await closed_without_a_word(connection)
    assert server.log == []
    assert server.endpoint.peers == frozenset()
    assert server.endpoint.counters.bytes_out == 0
    assert server.endpoint.counters.handshakes_refused == 1
    await until(lambda: len(server.endpoint._gate) == 0)
    await net.impostor(server, known)
    assert (await server.wait_for("connected"))[1] == known.public


async def test_who_is_enrolled_later_gets_a_channel_without_a_restart(net: Any) -> None:
    enrolled: set[bytes] = set()
    later = Identity.generate()
    server = await net.node("server", accept=enrolled.__contains__)
    connection = await net.raw(server)
    await connection.send(Initiator(later, server.key, DEPLOYMENT).first())
    await closed_without_a_word(connection)
    client = await net.node("client", identity=later, listen=False, dial={server.key: server.url})
    enrolled.add(later.public)
    await client.wait_for("connected")
    assert server.endpoint.peers == {later.public}


async def test_the_answer_to_a_dialler_with_an_unknown_key_names_the_causes(net: Any, capsys: Any) -> None:
    server = await net.node("server", accept=lambda key: False)
    client = await net.node("client", listen=False, dial={server.key: server.url})
    await asyncio.sleep(0.3)
    assert client.log == []
    assert server.endpoint.counters.handshakes_refused >= 2
    assert "does not know this identity" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["deployment", "server key"])
async def test_another_deployment_or_another_server_key_gives_no_channel(net: Any, wrong: str) -> None:
    server = await net.node("server")
    deployment = b"e" * 32 if wrong == "deployment" else DEPLOYMENT
    expected = Identity.generate().public if wrong == "server key" else server.key
    client = await net.node("client", listen=False, dial={expected: server.url}, deployment=deployment)
    await asyncio.sleep(0.3)
    assert client.log == server.log == []
    assert server.endpoint.counters.handshakes_refused >= 2


async def test_a_giant_frame_before_the_handshake_is_refused_unread(net: Any, until: Any) -> None:
    server = await net.node("server")
    connection = await net.raw(server)
    sending = asyncio.create_task(connection.send(bytes(4 << 20)))
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), 2)
    await asyncio.wait([sending])
    assert isinstance(sending.exception(), ConnectionClosed | None)
    await until(lambda: len(server.endpoint._gate) == 0)
    assert server.log == []


async def test_a_giant_announced_frame_is_refused_at_its_header(net: Any) -> None:
    server = await net.node("server")
    connection = await net.raw(server)
    connection.transport.write(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4))
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), 2)
    assert server.log == []


async def test_many_small_packets_do_not_get_around_the_limit_before_the_handshake(
    net: Any, until: Any
) -> None:
    server = await net.node("server")
    connection = await net.raw(server)
    sent = 0
    with suppress(ConnectionClosed):
        while sent < 1 << 20:
            await connection.pong(bytes(100))
            await asyncio.sleep(0)
            sent += 100
    assert sent < 1 << 20
    await until(lambda: len(server.endpoint._gate) == 0)


async def test_endless_http_headers_are_cut_at_the_limit(net: Any) -> None:
    server = await net.node("server")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.endpoint.port)
    writer.write(b"GET / HTTP/1.1\r\n" + b"X-Fill: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1000)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()


@pytest.mark.parametrize("stage", ["tcp", "http", "message 1", "confirmation"])
async def test_a_handshake_that_never_ends_is_cut_at_its_deadline(net: Any, until: Any, stage: str) -> None:
    server = await net.node("server", handshake_s=0.4)
    if stage == "tcp":
        reader, writer = await asyncio.open_connection("127.0.0.1", server.endpoint.port)
        for _ in range(3):
            writer.write(b"G")
            await asyncio.sleep(0.05)
        await until(lambda: len(server.endpoint._gate) == 1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        writer.close()
    else:
        connection = await net.raw(server)
        if stage != "http":
            initiator = Initiator(Identity.generate(), server.key, DEPLOYMENT)
            await connection.send(initiator.first())
            if stage == "confirmation":
                initiator.finish(await connection.recv())
            else:
                await connection.recv()
        await closed_without_a_word(connection)
    await until(lambda: len(server.endpoint._gate) == 0)
    assert server.log == []


async def test_unauthenticated_connections_are_bounded_and_members_still_get_in(net: Any, until: Any) -> None:
    server = await net.node("server", unauthenticated=5, unauthenticated_per_address=3, handshake_s=0.8)
    sockets = [await asyncio.open_connection("127.0.0.1", server.endpoint.port) for _ in range(10)]
    await until(lambda: server.endpoint._gate.refused == 7)
    assert len(server.endpoint._gate) == 3
    client = await net.node("client", listen=False, dial={server.key: server.url})
    assert (await server.wait_for("connected", 5))[1] == client.key
    for _, writer in sockets:
        writer.close()


@pytest.mark.parametrize("garbage", [b"", b"\0" * 128, b"x" * 300, "text"])
async def test_garbage_instead_of_a_handshake_is_cut(net: Any, garbage: bytes | str) -> None:
    server = await net.node("server")
    connection = await net.raw(server)
    await connection.send(garbage)
    await closed_without_a_word(connection)
    assert server.log == []
    assert server.endpoint.counters.handshakes_refused == 1


async def test_a_replayed_handshake_disturbs_nobody(net: Any) -> None:
    """Eve records the first message of a client that is connected, and sends it again."""
    server = await net.node("server")
    member = Identity.generate()
    initiator = Initiator(member, server.key, DEPLOYMENT)
    connection = await net.raw(server)
    recorded = initiator.first()
    await connection.send(recorded)
    channel = initiator.finish(await connection.recv())
    confirmation = channel.seal(())
    await connection.send(confirmation)
    channel.open(await connection.recv())
    await server.wait_for("connected")

    replay = await net.raw(server)
    await replay.send(recorded)
    await replay.recv()
    await replay.send(confirmation)
    await closed_without_a_word(replay)
    assert [event[0] for event in server.log] == ["connected"]
    assert server.endpoint.send(member.public, HELLO)
    assert len(channel.open(await connection.recv())) == 1


async def test_a_listener_that_is_no_websocket_server_is_retried_not_fatal(net: Any, until: Any) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-nonsense\r\n")
        writer.close()

    strange = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = strange.sockets[0].getsockname()[1]
    identity = Identity.generate()
    client = await net.node("client", listen=False, dial={identity.public: f"ws://127.0.0.1:{port}"})
    await asyncio.sleep(0.2)
    strange.close()
    await strange.wait_closed()
    await net.node("server", listen=port, identity=identity)
    assert (await client.wait_for("connected"))[1] == identity.public


async def test_a_port_in_use_is_an_error_that_names_it(net: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = await net.node("server", listen=port, start=False)
        with pytest.raises(ConfigurationError, match=f"{port}.*in use"):
            await node.endpoint.start()


async def test_an_address_that_is_no_websocket_url_is_a_configuration_error(net: Any) -> None:
    with pytest.raises(ConfigurationError, match="ws://host:port"):
        await net.node("client", listen=False, dial={bytes(32): "127.0.0.1:80"})
