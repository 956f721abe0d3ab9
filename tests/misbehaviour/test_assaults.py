"""Attacks on the transport of a deployment with real sockets: each is begun and felt, and training goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncfl.errors import ConfigurationError
from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS
from asyncfl_misbehaviour.misconduct import Misconduct

from .besieged import CLIENT, REPLICA, Besieged

# An attacker that is stopped while it connects may leave a socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

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


def test_an_assault_leaves_nothing_of_the_node_for_anything_else() -> None:
    with pytest.raises(ConfigurationError, match="give it alone"):
        Misconduct.of("silent,flooding", "replica")
    assert Misconduct.of("flooding", "client").label == "flooding"


def test_the_threat_model_lists_every_assault() -> None:
    page = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text()
    assert not [name for name in TRANSPORT_ATTACKS if f"| `{name}` |" not in page]
