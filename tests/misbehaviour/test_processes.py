"""Nodes that misbehave as real processes: loud, and the honest ones go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .besieged import CLIENT, REPLICA, Besieged
from .hostile import Hostile


@pytest.fixture
def hostile(besieged: Besieged) -> Iterator[list[Hostile]]:
    """A malicious replica and a malicious client."""
    started = [
        Hostile(besieged, REPLICA, "drop-updates,wrong-sums", "--colluder", CLIENT),
        Hostile(besieged, CLIENT, "flood-of-uploads"),
    ]
    yield started
    for each in started:
        each.end()


@pytest.mark.timeout(600)
def test_a_malicious_replica_and_a_malicious_client_stop_nobody_and_say_what_they_are(
    besieged: Besieged, hostile: list[Hostile]
) -> None:
    began = len(besieged.said)
    besieged.until("malice", lambda: all(each.is_up for each in hostile))
    epoch = besieged.epoch
    besieged.until("two epochs more", lambda: besieged.epoch >= epoch + 2)
    assert not besieged.errors(began)
    assert any(line["event"] == "connected" for line in besieged.said[began:])

    for each, label in zip(hostile, ("drop-updates, wrong-sums", "flood-of-uploads"), strict=True):
        assert besieged.status(each.name)["misbehaving"] == label
        said = each.log.read_text()
        assert "MISBEHAVIOUR" in said.splitlines()[0]
        assert "this_process_misbehaves_on_purpose" in said
        started = next(line for line in said.splitlines() if " started " in line)
        assert "misbehaving=" in started
        assert label in started
        assert "Traceback" not in said
    assert "misbehaving" not in besieged.status("replica-0")
    assert "misbehaving" not in besieged.status("client-0")
