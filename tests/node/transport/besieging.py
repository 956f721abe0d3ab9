"""What attacks on an endpoint have in common (`strangers`, `members`).

An attack measures what harm it does, and goes on until the victim has put an end to it or the harm is plain. It waits
for conditions, or for the victim's own timers to have run, never for a machine to be fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from asyncfl.identity import Identity
from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS, Score, Target
from tests.node.transport.conftest import DEPLOYMENT, eventually

MIB: Final = 1 << 20
PATIENCE: Final = 60.0
"""Seconds that anything may take on a machine with other work."""
GIANT: Final = b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4)
"""The header of a WebSocket message of 2^62 bytes, masked with zeros."""


async def until(condition: Callable[[], object]) -> None:
    await eventually(lambda: bool(condition()), PATIENCE)


async def due(seconds: float) -> None:
    """Until all that is to happen within `seconds` has, in pieces: a loop that was held up gets its turns."""
    for _ in range(30):
        await asyncio.sleep(seconds / 30)


async def most(value: Callable[[], float], end: Callable[[], object]) -> float:
    """The largest `value` until `end`."""
    largest = value()
    async with asyncio.timeout(PATIENCE):
        while not end():
            await asyncio.sleep(0.001)
            largest = max(largest, value())
    return largest


def ended(connection: Any) -> bool:
    """Whether the attacker's connection is over."""
    return bool(connection.transport.is_closing() or connection.state.name != "OPEN")


async def assaulted(
    server: Any, name: str, harm: Callable[[], float], end: Callable[[], object], blob: bytes = bytes(32)
) -> float:
    """The largest `harm` of an assault as drills have it, until `end`."""
    target = Target(
        Identity.generate(), DEPLOYMENT, server.key, server.url, "127.0.0.1", server.endpoint.port, blob
    )
    assault = asyncio.ensure_future(TRANSPORT_ATTACKS[name].assault(target, Score()))
    try:
        return await most(harm, end)
    finally:
        assault.cancel()
        await asyncio.gather(assault, return_exceptions=True)
