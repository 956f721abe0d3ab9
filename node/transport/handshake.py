"""The Noise handshake over a WebSocket connection, from both sides.

::

    dialler                                  listener
    message 1                       ----->   known key and deployment? else cut, without a word
                                    <-----   message 2
    empty frame (not a replay)      ----->   admitted: large messages from now on
                                    <-----   empty frame: you are admitted

The caller sets the deadline.
"""

from __future__ import annotations

from collections.abc import Callable

from websockets.exceptions import ConnectionClosed

from asyncfl.channel import Channel, Initiator, respond
from asyncfl.errors import HandshakeError, MalformedMessage
from asyncfl.identity import Identity
from node.transport.connections import Guarded


async def initiate(connection: Guarded, identity: Identity, peer: bytes, deployment: bytes) -> Channel:
    """The channel to `peer` over a dialled connection. Raises `HandshakeError`."""
    initiator = Initiator(identity, peer, deployment)
    try:
        await connection.send(initiator.first())
        channel = initiator.finish(await _receive(connection))
        # Admitted before our confirmation is out: large messages may follow the other side's in one packet.
        connection.admit()
        await connection.send(channel.seal(()))
        _expect_empty(channel, await _receive(connection))
    except ConnectionClosed:
        raise HandshakeError(
            "the other side closed the connection during the handshake: it does not know this identity, "
            "has another key, or belongs to another deployment"
        ) from None
    return channel


async def accept(
    connection: Guarded, identity: Identity, deployment: bytes, known: Callable[[bytes], bool]
) -> Channel:
    """The channel to whoever dialled. Raises `HandshakeError`; nothing was sent to an unknown party."""
    try:
        answer, channel = respond(identity, deployment, known, await _receive(connection))
        await connection.send(answer)
        _expect_empty(channel, await _receive(connection))
        connection.admit()
        await connection.send(channel.seal(()))
    except ConnectionClosed:
        raise HandshakeError("the dialling side went away during the handshake") from None
    return channel


async def _receive(connection: Guarded) -> bytes:
    message = await connection.recv()
    if not isinstance(message, bytes):
        raise HandshakeError("a text message instead of the handshake")
    return message


def _expect_empty(channel: Channel, frame: bytes) -> None:
    try:
        parts = channel.open(frame)
    except MalformedMessage as error:
        raise HandshakeError(f"the handshake was not confirmed: {error}") from None
    if parts:
        raise HandshakeError("a message before the handshake was confirmed")
