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
