"""An upload can name any blob as its payload: it takes nothing away from those whose blob that is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from asyncfl.effects import DeleteBlob, Effect, Fetch
from asyncfl.masking.protect import UploadContext, protect, sign_manifest
from asyncfl.messages import CertifiedItem, Manifest, Ready, Upload
from asyncfl.replica import Replica
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters


class CatchingUp:
    """Replica 0 as it comes back, an entry that it lacks, and an upload of client 0 that names the entry's sum."""

    def __init__(self) -> None:
        simulation = self.simulation = Simulation(
            make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=4
        )
        network, key = simulation.network, simulation.replica_key(0)
        simulation.start()
        assert network.run(until=lambda: simulation.replica(0).context.ledger.entries >= 2, seconds=60)
        network.crash(key)
        assert network.run(until=simulation.is_drained, seconds=600)
        rows, others = network.nodes[key].durable, simulation.replica(1).items.records
        self.machine = Replica(simulation.federation, simulation.replica_ids[0], rows, simulation.initial)
        held = self.machine.items.records
        self.name, self.record = next((n, r) for n, r in others.items() if n not in held and r.certified)
        self.sum = self.record.item.opened
        self.machine.start(0.0)
        for peer in (simulation.replica_key(1), *map(simulation.client_key, range(8))):
            self.machine.connected(peer, 0.0)

    def upload(self) -> Manifest:
        federation, client = self.simulation.federation, self.simulation.client_ids[0]
        context, roster = self.machine.context, federation.rosters[0]
        front = context.inclusion.front
        epoch = next(p for p in range(front, 99) if (client.public, p) not in context.ledger.included)
        cell = context.assignment.cell_of(client.public, roster, epoch)
        about = UploadContext(epoch, cell, 0, 0, roster.digest, bytes(32))
        honest = protect(torch.zeros(federation.upload_dimension), about, client, federation).manifest
        core = honest.core.model_copy(update={"upload": self.sum})
        return sign_manifest(core, honest.projections, client)

    def show_item(self) -> list[Effect]:
        record = self.record
        message = CertifiedItem(
            item=record.item, votes=record.votes.votes(), opened_bytes=record.size, locks=record.locks.votes()
        )
        return self.machine.receive(self.simulation.replica_key(1), message, 1.0)

    def move_on(self, epoch: int) -> Iterator[Effect]:
        """All clients are at `epoch`: the replica's front follows."""
        for i in range(8):
            ready = Ready(epoch=epoch, coordinator=1, roster=0, uploaded=0, wants_task=False)
            yield from self.machine.receive(self.simulation.client_key(i), ready, 2.0)
        yield from self.machine.tick(2.1)


@pytest.fixture
def catching_up() -> CatchingUp:
    return CatchingUp()


def test_a_sum_that_is_being_fetched_is_still_fetched_when_an_upload_of_that_name_goes(
    catching_up: CatchingUp,
) -> None:
    machine, client = catching_up.machine, catching_up.simulation.client_key(0)
    manifest = catching_up.upload()
    machine.receive(client, Upload(manifest=manifest), 0.5)
    assert manifest.digest() in machine.uploads.records
    catching_up.show_item()
    effects = list(catching_up.move_on(manifest.core.epoch + 17))
    assert manifest.digest() not in machine.uploads.records
    assert DeleteBlob(catching_up.sum) not in effects
    assert machine.needs(catching_up.sum)
    machine.fetch_failed(client, catching_up.sum, "it has no such blob", 2.2)
    effects = machine.tick(4.0)
    fetch = Fetch(catching_up.simulation.replica_key(1), catching_up.sum, catching_up.record.size)
    assert fetch in effects
    machine.fetched(fetch.peer, fetch.digest, 4.1)
    assert catching_up.name in machine.items.records
    assert machine.needs(catching_up.sum)


def test_an_upload_whose_payload_never_came_takes_no_blob_with_it(catching_up: CatchingUp) -> None:
    """A sum of this name may be on disk for which the machine has no name yet: a job has just opened it."""
    machine, client = catching_up.machine, catching_up.simulation.client_key(0)
    manifest = catching_up.upload()
    machine.receive(client, Upload(manifest=manifest), 0.5)
    effects = list(catching_up.move_on(manifest.core.epoch + 17))
    assert manifest.digest() not in machine.uploads.records
    assert DeleteBlob(catching_up.sum) not in effects


def test_a_payload_that_is_wanted_again_is_needed_and_goes_with_the_last_upload(
    catching_up: CatchingUp,
) -> None:
    machine, client = catching_up.machine, catching_up.simulation.client_key(0)
    manifest = catching_up.upload()
    payload = manifest.core.upload
    machine.receive(client, Upload(manifest=manifest), 0.5)
    machine.fetched(client, payload, 0.6)
    machine.uploads.drop(manifest.digest())
    assert DeleteBlob(payload) in machine.tick(0.7)
    assert not machine.needs(payload)
    machine.receive(client, Upload(manifest=manifest), 0.8)
    assert machine.needs(payload)
