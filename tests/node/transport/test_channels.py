"""One live channel for each peer: replaced, cut, dialled again; bad frames; queues."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from blockbuster import BlockBuster
from chaos.weather import Fault, Weather
from websockets.exceptions import ConnectionClosed

from asyncfl.channel import MAX_FRAME_BYTES
from asyncfl.errors import LocalProtocolError
from asyncfl.identity import Identity
from asyncfl.messages import (
    ItemRequest,
    Missing,
    Row,
    View,
    Wait,
    encode_message,
)
from node.transport.dialer import Backoff
from node.transport.limits import Limits

HELLO = Wait(epoch=1, reason="hello")
STUCK = Weather(fault=Fault.STUCK)
ROW = Row(epoch=1, items=(bytes(32),) * 2565)
LARGE = View(base=bytes(32), base_epoch=0, entries=0, rows=(ROW,) * 4, pinned=False)
BIG = ItemRequest(items=tuple(bytes([number]) * 32 for number in range(256)))


async def test_messages_arrive_in_the_order_in_which_they_were_sent(net: Any, until: Any) -> None:
    server, client = await net.pair()
    sent = [Wait(epoch=number, reason="x" * (number % 300)) for number in range(1, 2000)]
    for message in sent:
        assert client.endpoint.send(server.key, message)
    await until(lambda: len(server.messages) == len(sent))
    assert server.messages == sent
    frames = client.endpoint.counters
    assert frames.messages_out == len(sent)


async def test_a_lost_connection_is_dialled_again_by_itself(net: Any) -> None:
    server, client, link = await net.linked()
    for _ in range(3):
        link.cut()
        await client.wait_for("disconnected")
        await server.wait_for("disconnected")
        await client.wait_for("connected")
        await server.wait_for("connected")
    assert client.endpoint.send(server.key, HELLO)
    await server.wait_for("message")


async def test_a_restarted_server_is_found_again(net: Any) -> None:
    server, client = await net.pair()
    port = server.endpoint.port
    await server.endpoint.close()
    reason = (await client.wait_for("disconnected"))[2]
    assert "shutting down" in reason
    again = await net.node("server", listen=port, identity=server.identity)
    await client.wait_for("connected")
    assert again.endpoint.send(client.key, HELLO)
    await client.wait_for("message")


async def test_a_half_open_peer_is_noticed_by_both_sides(net: Any) -> None:
    server, client, link = await net.linked(silence_s=0.5)
    link.set(STUCK)
    assert "nothing was heard" in (await client.wait_for("disconnected", 2))[2]
    assert "nothing was heard" in (await server.wait_for("disconnected", 2))[2]


async def test_a_half_open_peer_is_noticed_while_there_is_much_to_send(net: Any) -> None:
    """A full write buffer must not stop the keep-alive."""
    server, client, link = await net.linked(silence_s=0.5)
    digest = await client.store(bytes(32 << 20))
    link.set(STUCK)
    client.endpoint.send_blob(server.key, digest, 0)
    assert "nothing was heard" in (await client.wait_for("disconnected", 3))[2]


async def test_an_idle_channel_stays_open(net: Any) -> None:
    server, client = await net.pair(silence_s=0.4)
    await asyncio.sleep(1.2)
    assert [event[0] for event in (*client.log, *server.log)] == ["connected", "connected"]


async def test_when_both_dial_at_once_one_channel_stays_and_nothing_flaps(net: Any) -> None:
    first = await net.node("first", start=False)
    second = await net.node("second", start=False)
    for node in (first, second):
        await node.endpoint.start()
    a, b = Identity.generate(), Identity.generate()
    ports = [first.endpoint.port, second.endpoint.port]
    await first.endpoint.close()
    await second.endpoint.close()
    left = await net.node(
        "left", identity=a, listen=ports[0], dial={b.public: f"ws://127.0.0.1:{ports[1]}"}, start=False
    )
    right = await net.node(
        "right", identity=b, listen=ports[1], dial={a.public: f"ws://127.0.0.1:{ports[0]}"}, start=False
    )
    await asyncio.gather(left.endpoint.start(), right.endpoint.start())
    await left.wait_for("connected")
    await right.wait_for("connected")
    await asyncio.sleep(1.0)
    settled = len(left.log), len(right.log)
    await asyncio.sleep(1.0)
    assert (len(left.log), len(right.log)) == settled
    assert max(settled) <= 3  # connected; or connected, disconnected, connected
    assert left.endpoint.peers == {b.public}
    assert right.endpoint.peers == {a.public}
    assert left.endpoint.send(b.public, HELLO)
    await right.wait_for("message")
    assert right.endpoint.send(a.public, HELLO)
    await left.wait_for("message")


async def test_the_newest_authenticated_channel_of_a_peer_wins(net: Any) -> None:
    server = await net.node("server")
    member = Identity.generate()
    old, _ = await net.impostor(server, member)
    new, channel = await net.impostor(server, member)
    with pytest.raises(ConnectionClosed) as caught:
        await asyncio.wait_for(old.recv(), 2)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4001
    assert [event[0] for event in server.log] == ["connected", "disconnected", "connected"]
    await new.send(channel.seal([encode_message(HELLO)]))
    await server.wait_for("message")


async def test_two_processes_under_one_identity_do_not_throw_each_other_out_at_full_speed(net: Any) -> None:
    server = await net.node("server")
    shared = Identity.generate()
    for name in ("one", "two"):
        await net.node(
            name,
            identity=shared,
            listen=False,
            dial={server.key: server.url},
            retry_base_s=0.4,
            retry_cap_s=2.0,
        )
    await asyncio.sleep(1.5)
    assert sum(event[0] == "connected" for event in server.log) < 20


async def malformed(server: Any, connection: Any) -> str:
    """The peer's channel is closed for a reason, and told so. Returns the reason."""
    reason: str = (await server.wait_for("disconnected", 3))[2]
    with suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(connection.recv(), 2)
    return reason


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\x92\x02", b"\x92\xcc\x02\x92\x01\xa1x", b"\x91" * 5000, b"\x92\x63\x90", b"\xff" * 100],
    ids=["integer", "truncated", "not canonical", "deep", "unknown type", "noise"],
)
async def test_a_malformed_message_closes_its_channel_and_changes_nothing_else(
    net: Any, content: bytes
) -> None:
    server, bystander = await net.pair()
    connection, channel = await net.impostor(server, Identity.generate())
    await server.wait_for("connected")
    await connection.send(channel.seal([encode_message(HELLO), content, encode_message(HELLO)]))
    assert "MalformedMessage" in await malformed(server, connection)
    assert server.messages == [HELLO]
    assert server.endpoint.counters.malformed == 1
    assert bystander.log == [("connected", server.key)]
    assert bystander.endpoint.send(server.key, HELLO)
    await server.wait_for("message")


@pytest.mark.parametrize("how", ["tampered", "replayed", "plain", "text", "empty", "truncated"])
async def test_a_frame_that_is_not_the_next_of_its_channel_closes_it(net: Any, how: str) -> None:
    server = await net.node("server")
    connection, channel = await net.impostor(server, Identity.generate())
    await server.wait_for("connected")
    frame = channel.seal([encode_message(HELLO)])
    if how == "replayed":
        await connection.send(frame)
    content: bytes | str = {
        "tampered": frame[:-1] + bytes([frame[-1] ^ 1]),
        "replayed": frame,
        "plain": encode_message(HELLO),
        "text": "text",
        "empty": b"",
        "truncated": frame[:-1],
    }[how]
    await connection.send(content)
    assert "MalformedMessage" in await malformed(server, connection)
    assert server.messages == ([HELLO] if how == "replayed" else [])


async def test_a_giant_frame_after_the_handshake_closes_the_channel(net: Any) -> None:
    server = await net.node("server")
    connection, _ = await net.impostor(server, Identity.generate())
    await server.wait_for("connected")
    sending = asyncio.create_task(connection.send(bytes(MAX_FRAME_BYTES + 1)))
    assert "1009" in (await server.wait_for("disconnected", 3))[2]
    await asyncio.wait([sending])
    assert isinstance(sending.exception(), ConnectionClosed | None)


async def test_the_largest_frame_passes(net: Any) -> None:
    server = await net.node("server")
    connection, channel = await net.impostor(server, Identity.generate())
    frame = channel.seal([encode_message(LARGE)] * 3 + [encode_message(HELLO)])
    assert MAX_FRAME_BYTES - 3000 < len(frame) <= MAX_FRAME_BYTES
    await connection.send(frame)
    for _ in range(3):
        assert (await server.wait_for("message"))[2] == LARGE
    assert (await server.wait_for("message"))[2] == HELLO


async def test_an_answer_about_a_blob_that_was_not_asked_for_closes_the_channel(net: Any) -> None:
    server = await net.node("server")
    connection, channel = await net.impostor(server, Identity.generate())
    await server.wait_for("connected")
    await connection.send(channel.seal([encode_message(Missing(blob=bytes(32)))]))
    assert "not asked for" in await malformed(server, connection)


async def test_sending_to_nobody_is_counted_and_dropped(net: Any) -> None:
    server = await net.node("server")
    assert not server.endpoint.send(bytes(32), HELLO)
    server.endpoint.send_blob(bytes(32), bytes(32), 0)
    assert server.endpoint.counters.dropped == 2


async def test_the_control_queue_of_a_peer_that_does_not_read_is_bounded(net: Any) -> None:
    server = await net.node("server", control_messages=50, silence_s=30.0)
    connection, channel = await net.impostor(server, Identity.generate())
    peer = (await server.wait_for("connected"))[1]
    connection.transport.pause_reading()
    accepted = 0
    for _ in range(3000):
        accepted += server.endpoint.send(peer, BIG)
        await asyncio.sleep(0)
    assert server.endpoint.counters.dropped == 3000 - accepted > 0
    link = server.endpoint._links[peer]
    assert len(link._control) <= 50
    assert link.connection.transport.get_write_buffer_size() < 2 * MAX_FRAME_BYTES
    del channel


async def test_a_peer_that_is_there_but_takes_no_data_is_cut(net: Any) -> None:
    server = await net.node("server", stalled_write_s=0.5, silence_s=30.0)
    connection, _ = await net.impostor(server, Identity.generate())
    peer = (await server.wait_for("connected"))[1]
    connection.transport.pause_reading()
    for _ in range(3000):
        server.endpoint.send(peer, BIG)
    assert "took no data" in (await server.wait_for("disconnected", 5))[2]


async def test_a_message_beyond_the_size_limit_is_our_own_bug(net: Any) -> None:
    server, client = await net.pair()
    giant = Wait.model_construct(epoch=1, reason="x" * (1 << 20))
    with pytest.raises(LocalProtocolError, match="Wait"):
        client.endpoint.send(server.key, giant)
    assert client.endpoint.send(server.key, HELLO)


async def test_forty_peers_at_once(net: Any, until: Any) -> None:
    server = await net.node("server")
    clients = [
        await net.node(f"c{number}", listen=False, dial={server.key: server.url}) for number in range(40)
    ]
    await until(lambda: len(server.endpoint.peers) == 40)
    for client in clients:
        await client.wait_for("connected")
        assert client.endpoint.send(server.key, HELLO)
        assert server.endpoint.send(client.key, HELLO)
    await until(lambda: len(server.messages) == 40 and all(client.messages for client in clients))
    assert {event[1] for event in server.log if event[0] == "message"} == {client.key for client in clients}


async def test_a_bug_in_the_handler_is_logged_and_ends_only_that_channel(
    net: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, nothing_blocks_the_event_loop: BlockBuster
) -> None:
    nothing_blocks_the_event_loop.deactivate()  # showing a traceback reads source files
    server, client = await net.pair()

    def broken(peer: bytes, message: Any) -> None:
        raise ZeroDivisionError("a bug")

    link = server.endpoint._links[client.key]
    monkeypatch.setattr(link, "_deliver", broken)
    client.endpoint.send(server.key, HELLO)
    assert "a bug on this side" in (await server.wait_for("disconnected"))[2]
    await server.wait_for("connected")
    assert server.endpoint.counters.malformed == 0
    assert "ZeroDivisionError" in capsys.readouterr().out


async def test_a_peer_that_sends_without_pause_does_not_keep_others_waiting(net: Any, until: Any) -> None:
    server, client = await net.pair()
    flooder, channel = await net.impostor(server, Identity.generate())

    async def flood() -> None:
        while True:
            await flooder.send(channel.seal([encode_message(BIG)] * 60))

    task = asyncio.create_task(flood())
    loop = asyncio.get_running_loop()
    slowest = 0.0
    for number in range(20):
        since = loop.time()
        assert client.endpoint.send(server.key, Wait(epoch=number + 1, reason=""))
        await until(lambda: Wait(epoch=number + 1, reason="") in server.messages[-500:])  # noqa: B023
        slowest = max(slowest, loop.time() - since)
    task.cancel()
    await asyncio.wait([task])
    assert slowest < 3.0


def test_waits_between_dials_grow_and_are_jittered_and_start_fast() -> None:
    limits = Limits()
    seen: dict[int, list[float]] = {}
    for _ in range(300):
        backoff = Backoff(limits)
        for attempt in range(12):
            seen.setdefault(attempt, []).append(backoff.next())
        backoff.reset()
        assert backoff.next() <= limits.retry_first_s
    assert max(seen[0]) <= limits.retry_first_s
    assert max(seen[11]) <= limits.retry_cap_s
    assert max(seen[11]) > 0.9 * limits.retry_cap_s
    assert min(seen[11]) < 0.1 * limits.retry_cap_s
    assert sum(seen[1]) < sum(seen[2]) < sum(seen[3])


async def test_a_peer_that_pings_without_reading_is_cut_before_answers_pile_up(net: Any) -> None:
    server = await net.node("server", silence_s=30.0, stalled_write_s=30.0)
    connection, _ = await net.impostor(server, Identity.generate())
    peer = (await server.wait_for("connected"))[1]
    at_server = server.endpoint._links[peer].connection.transport
    connection.transport.pause_reading()
    largest = 0
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    while server.endpoint.peers and not connection.transport.is_closing() and largest < 64 << 20:
        connection.transport.write(ping * 2000)
        largest = max(largest, at_server.get_write_buffer_size())
        await asyncio.sleep(0)
    assert (await server.wait_for("disconnected"))[1] == peer
    assert largest < 16 << 20


async def test_strangers_leave_one_line_in_our_log_and_no_traceback(
    net: Any, caplog: Any, capsys: Any
) -> None:
    server = await net.node("server")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.endpoint.port)
    writer.write(b"SSH-2.0-OpenSSH_9.0\r\n\r\n")
    with suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 2)
    writer.close()
    assert caplog.records == []
    assert "Traceback" not in capsys.readouterr().err


async def test_a_connection_that_is_being_closed_does_not_end_the_watch_over_the_others(
    net: Any, until: Any
) -> None:
    """A broken WebSocket frame has `websockets` half-close; a sign of life written after that is an error."""
    server, client, link = await net.linked(silence_s=0.5, close_s=2.0)
    connection, _ = await net.impostor(server, Identity.generate())
    connection.transport.write(bytes([0x83, 0x80, 1, 2, 3, 4]))  # opcode 3 does not exist; masked, empty
    connection.transport.pause_reading()  # the goodbye is never answered
    await asyncio.sleep(1.0)
    assert server.key in client.endpoint.peers, "signs of life go on"
    link.set(STUCK)
    assert "nothing was heard" in (await server.wait_for("disconnected"))[2]
    assert "nothing was heard" in (await client.wait_for("disconnected"))[2]
