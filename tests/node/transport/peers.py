"""Bytes to send, and a peer with software of its own, for the tests of transfers."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncfl.identity import Identity
from asyncfl.messages import (
    Message,
    Pull,
    Wait,
    decode_message,
    encode_message,
)

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

    async def send(self, *messages: Message) -> None:
        await self.connection.send(self.channel.seal([encode_message(message) for message in messages]))

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
