"""What a replica does not take is not relayed to it without end."""

from __future__ import annotations

from collections import Counter

import pytest

from asyncfl.messages import Manifest, Relay
from asyncfl.replica.uploads import Uploads
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer

DEAF = 3


def test_an_upload_that_a_replica_refuses_is_relayed_to_it_once_and_again_when_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_room = Uploads._has_room

    def refuses(self: Uploads, manifest: Manifest, digest: bytes, source: bytes) -> bool:
        if self.context.index == DEAF and source in self.context.federation.replica_index:
            self._refuse(source, manifest, "too long past")
            return False
        return has_room(self, manifest, digest, source)

    monkeypatch.setattr(Uploads, "_has_room", refuses)
    # One client is missing, and a group needs all: nothing is ever locked, so that nobody asks for an upload.
    simulation = Simulation(make_parameters(8, cell_size=8, min_group=8), 8, seed=3, last_epoch=1)
    observer = Observer(simulation)
    network, deaf = simulation.network, simulation.federation.replica_keys[DEAF]
    simulation.start()
    network.crash(simulation.client_key(0))

    def relays() -> Counter[tuple[bytes, bytes]]:
        return Counter(
            (source, message.manifest.digest())
            for source, target, message in observer.messages
            if isinstance(message, Relay) and target == deaf
        )

    network.run(seconds=30)
    once = relays()
    assert len(once) >= 4
    assert set(once.values()) <= {1, 2}, "twice where the first REFUSED was still under way"
    network.crash(deaf)
    network.start(deaf)
    network.run(seconds=30)
    again = relays()
    assert all(once[key] < again[key] <= once[key] + 2 for key in once)


def test_vouchers_for_uploads_that_are_too_long_past_are_forgotten() -> None:
    simulation = Simulation(make_parameters(4, cell_size=4, min_group=2), 4, seed=3, last_epoch=19)
    simulation.speed = lambda client, epoch: 0.05
    simulation.start()
    replica, client = simulation.replica(0), simulation.client_key(0)
    past, timely = b"p" * 32, b"t" * 32
    replica.uploads._early[past] = {1: ((client, 1), bytes(64))}
    replica.uploads._early[timely] = {1: ((client, 19), bytes(64)), 2: ((client, 1), bytes(64))}
    assert simulation.network.run(until=lambda: replica.context.inclusion.front >= 17, seconds=300)
    assert past in replica.uploads._early
    assert simulation.network.run(until=lambda: replica.context.inclusion.front >= 18, seconds=60)
    simulation.network.run(seconds=0.5)
    assert past not in replica.uploads._early
    assert replica.uploads._early[timely] == {1: ((client, 19), bytes(64))}
