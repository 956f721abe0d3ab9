"""Attacks on the transport of a deployment with real sockets: each is begun and felt, and training goes on."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from asyncfl.errors import ConfigurationError
from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS
from asyncfl_misbehaviour.hostile_network import HostileNetwork
from asyncfl_misbehaviour.misconduct import Misconduct

from .besieged import CLIENT, REPLICA, Besieged

CUT = {"garbage", "giant-lengths"}
"""Assaults that the victim ends at once."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(TRANSPORT_ATTACKS))
def test_training_goes_on_under_an_assault_of_a_replica_and_a_client(besieged: Besieged, name: str) -> None:
    began = len(besieged.said)
    networks = [besieged.assault(name, node) for node in (REPLICA, CLIENT)]
    try:
        besieged.until("assaults", lambda: all(network.counters.bytes_out > 0 for network in networks))
        if name in CUT:
            besieged.until("resistance", lambda: all(network.counters.cut > 0 for network in networks))
        epoch = besieged.epoch
        besieged.until("two epochs more", lambda: besieged.epoch >= epoch + 2)
    finally:
        for network in networks:
            besieged.on_loop(network.close())
    assert not besieged.errors(began)


@pytest.mark.parametrize("turns", range(4))
async def test_an_attacker_that_is_stopped_leaves_no_connection_to_the_garbage_collector(turns: int) -> None:
    """At whatever moment it is stopped; whoever dialled it hears of the end."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = reserved.getsockname()
    network = HostileNetwork([], TRANSPORT_ATTACKS["flooding"].assault, address)
    await network.start()
    with ExitStack() as stack:
        diallers = [stack.enter_context(closing(socket.create_connection(address))) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await network.close()
        gc.collect()
        for dialler in diallers:
            dialler.settimeout(10.0)
            with suppress(ConnectionResetError):
                assert dialler.recv(1) == b""


def test_an_assault_leaves_nothing_of_the_node_for_anything_else() -> None:
    with pytest.raises(ConfigurationError, match="give it alone"):
        Misconduct.of("silent,flooding", "replica")
    assert Misconduct.of("flooding", "client").label == "flooding"


def test_the_threat_model_lists_every_assault() -> None:
    page = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text()
    assert not [name for name in TRANSPORT_ATTACKS if f"| `{name}` |" not in page]
