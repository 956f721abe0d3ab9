"""What attacks on the machines' bounds and timers have found, each kept as a test."""

from __future__ import annotations

from typing import Any

import pytest

from asyncfl.effects import Fetch, Send
from asyncfl.inclusion import LAST_EPOCH, Inclusion
from asyncfl.messages import CertifiedItem, Front, ModelVote, Ready, Upload
from asyncfl.replica.models import KEEP_VOTES
from tests.fuzz.replica_world import (
    CLIENTS,
    FEDERATION,
    HONEST,
    IDENTITIES,
    LIAR,
    REPLICAS,
    World,
    cell_of,
    made,
)
from tests.fuzz.shapes import signed


def vote(replica: int, version: bytes, model: bytes, entries: int) -> Any:
    message = ModelVote(version=version, entries=entries, model=model, signature=bytes(64))
    return signed(message, REPLICAS[replica], FEDERATION.digest)


def test_a_liars_flood_of_model_votes_displaces_nobody_elses() -> None:
    """64 votes on versions of nothing made a replica forget its own and the honest ones: no model was certified."""
    world = World()
    for replica in (*HONEST, LIAR):
        world.connect(REPLICAS[replica].public)
    world.tick(0.1)
    world.settle()
    (record,) = world.machine.models.records.values()
    for number in range(KEEP_VOTES + 1):
        world.hear(REPLICAS[LIAR].public, vote(LIAR, number.to_bytes(32, "big"), bytes(32), 0))
    world.hear(REPLICAS[1].public, vote(1, record.version, record.model, record.entries))
    assert record.certificate is not None


def test_a_clients_wrong_size_keeps_no_opened_sum_away() -> None:
    """An upload that names an opened sum as its payload made a replica ask everybody for that sum in a wrong size."""
    world = World()
    for replica in (*HONEST, LIAR):
        world.connect(REPLICAS[replica].public)
    cell = [client for client in range(CLIENTS) if cell_of(client, 1) == 1]
    names = [world.upload(made(client, 1)) for client in cell]
    content = world.content(names, 1, 0)
    assert content is not None
    item = world.open(content)
    # The coven's client knows the digest before this replica, which was away, has the item.
    victim = next(client for client in range(CLIENTS) if client not in cell)
    manifest = made(victim, 1).manifest
    core = manifest.core.model_copy(update={"upload": item.opened})
    lying = signed(manifest.model_copy(update={"core": core}), IDENTITIES[victim], FEDERATION.digest)
    world.hear(IDENTITIES[victim].public, Upload(manifest=lying))
    size = 4 * FEDERATION.upload_dimension
    world.hear(
        REPLICAS[1].public, CertifiedItem(item=item, votes=world.attestations(item), opened_bytes=size)
    )
    assert world.fetches[item.opened].peer == IDENTITIES[victim].public
    world.serve(item.opened, well=False)
    world.tick(1.1)
    assert world.fetches[item.opened] == Fetch(REPLICAS[1].public, item.opened, size)
    world.settle()
    assert item.digest() in world.machine.context.ledger.items


def test_the_last_epoch_has_no_next() -> None:
    """A replica whose clients had all claimed and stored epoch 2^31 - 1 could not say its front any more, and ended."""
    inclusion = Inclusion(lambda epoch: FEDERATION.rosters[0])
    for identity in IDENTITIES:
        inclusion.heard(identity.public, LAST_EPOCH, 1.0)
        inclusion.stored(identity.public, LAST_EPOCH, 1.0)
    inclusion.update(1.0)
    assert inclusion.front == LAST_EPOCH
    Front(front=inclusion.front, patience=1, roster=0, finished=False, signature=bytes(64))


@pytest.mark.parametrize("epoch", [LAST_EPOCH - 1, LAST_EPOCH])
def test_clients_at_the_end_of_epochs_are_answered(epoch: int) -> None:
    world = World()
    for _ in range(3):
        for client, identity in enumerate(IDENTITIES):
            ready = Ready(epoch=epoch, coordinator=client % 4, roster=0, uploaded=0, wants_task=True)
            world.hear(identity.public, ready)
            world.hear(identity.public, Upload(manifest=made(client, epoch).manifest))
            world.upload(made(client, epoch))
        world.tick(0.1)
        world.settle()
    assert world.machine.context.inclusion.front >= epoch


def test_everything_it_says_is_a_valid_message() -> None:
    """`World.take` decodes what is sent: this holds that it looks."""
    world = World()
    world.connect(REPLICAS[1].public)
    world.connected.add(b"x" * 32)
    with pytest.raises(ValueError, match="front"):
        world.take(
            [Send(b"x" * 32, Front(front=0, patience=1, roster=0, finished=False, signature=bytes(64)))]
        )
