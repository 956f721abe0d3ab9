"""Old rows between replicas: of versions that a late entry has changed, over slow links, while the ledger grows."""

import pytest

from asyncfl.ledger import Ledger, Link
from asyncfl.messages import ItemRequest, Row, View, decode_message, encode_message
from asyncfl.messages.replicas import MAX_ROW_ITEMS
from asyncfl.replica import gossip
from asyncfl.replica.gossip import RECENT_ROWS
from asyncfl.simulation import Simulation
from asyncfl.wire import MAX_MESSAGE_BYTES
from tests.core.builders import make_parameters
from tests.defects import defects
from tests.simulation.test_liveness import run_to_the_end


def without_the_first(ledger: Ledger, deployment: bytes) -> Link:
    """The version of all items but one of the oldest row."""
    left_out = ledger.rows()[0].items[0]
    earlier = Ledger(deployment)
    for name, item in ledger.items.items():
        if name != left_out:
            earlier.add(item)
    return earlier.head


def make_simulation(last_epoch: int) -> Simulation:
    return Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=last_epoch)


SERVES_ITS_OWN = (
    "asyncfl.replica.gossip:Gossip.receive_rows_request",
    "rows = base.rows(message.first)",
    "rows = self.context.ledger.link_before(base.epoch + 1).rows(message.first)",
)
"""A replica that is asked for the rows of a version gives those that it holds by now."""


@pytest.mark.parametrize("latency", [0.01, 0.4])
def test_a_version_pinned_before_a_late_entry_in_an_old_row_is_certified(latency: float) -> None:
    certified, events = ask_for_an_old_version(latency)
    assert certified
    assert "malformed_view" not in events


def test_it_never_is_where_rows_of_the_current_ledger_are_given() -> None:
    with defects([SERVES_ITS_OWN]):
        certified, events = ask_for_an_old_version(0.01)
    assert not certified
    assert "malformed_view" in events, "the answer is no version that anybody has shown"


def ask_for_an_old_version(latency: float) -> tuple[bool, set[str]]:
    """Replica 3 pins a version without an old entry that everybody holds; whether it is certified, and what is told."""
    simulation = make_simulation(RECENT_ROWS + 3)
    network = simulation.network
    simulation.start()
    run_to_the_end(simulation)
    network.latency = (latency, latency)
    models = simulation.replica(3).models
    head = without_the_first(simulation.replica(3).context.ledger, simulation.federation.digest)
    for other in range(3):
        simulation.replica(
            other
        ).models._serving.clear()  # of the last versions: they have the entry that is left out now
    models.pinned = pinned = models._compute(head)
    models._ask(pinned)
    busy = View(base=models.gossip.view(pinned=False).base, base_epoch=3, entries=99, rows=(), pinned=False)

    def grow() -> None:
        """As of a ledger that grows all the time, replica 3 shows a new version every 0.3 s."""
        for other in range(3):
            network._send(network.nodes[simulation.replica_key(3)], simulation.replica_key(other), busy)
        network.after(0.3, grow)

    grow()
    certified = network.run(
        until=lambda: pinned.certificate is not None and models.pinned is None, seconds=20
    )
    return certified, {event.event for node in network.nodes.values() for _, event in node.events}


@pytest.mark.parametrize(("delay", "forgetful"), [(0.45, False), (0.8, False), (0.45, True)])
def test_a_replica_that_was_away_for_many_pages_catches_up_over_slow_links_while_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, delay: float, forgetful: bool
) -> None:
    monkeypatch.setattr(gossip, "PAGE_ROWS", 1)
    simulation = make_simulation(10**6)
    simulation.speed = lambda client, epoch: 0.05
    network = simulation.network
    simulation.start()
    far = simulation.replica_key(3)
    network.crash(far)
    ledger = simulation.replica(0).context.ledger
    assert network.run(until=lambda: len(ledger.rows()) >= 24, seconds=300)
    network.hold = lambda source, target, message: delay if far in {source.key, target.key} else 0.0
    network.start(far)
    old = set(ledger.items)
    if forgetful:  # As after a restart: the versions that were shown are in memory alone.
        network.run(seconds=6 * delay)
        for other in range(3):
            simulation.replica(other).gossip._bases.clear()
    late = simulation.replica(3).context.ledger
    assert network.run(until=lambda: old <= set(late.items), seconds=60)
    assert ledger.entries > len(old) + 4, "training stood still"


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_who_shows_its_ledger_and_never_answers_keeps_nobody_from_catching_up(silent: int) -> None:
    simulation = make_simulation(6)
    network = simulation.network
    network.on_message = lambda source, target, message: (
        None if isinstance(message, ItemRequest) and target.name == f"replica-{silent}" else message
    )
    simulation.start()
    network.run(until=lambda: simulation.replica(0).context.ledger.last_epoch >= 2, seconds=100)
    network.crash(simulation.replica_key(3))
    ledger = simulation.replica(0).context.ledger
    network.run(until=lambda: ledger.last_epoch >= 4, seconds=100)
    network.start(simulation.replica_key(3))
    late = simulation.replica(3).context.ledger
    assert late.entries < ledger.entries
    assert network.run(
        until=lambda: not ledger.missing(late.rows()) and late.entries >= ledger.entries, seconds=40
    )


@pytest.mark.parametrize("items", [1, 2600, MAX_ROW_ITEMS])
def test_a_view_fits_into_a_message_however_many_items_a_row_has(items: int) -> None:
    simulation = make_simulation(1)
    simulation.start()
    replica = simulation.replica(0)
    head = replica.context.ledger.start
    names = tuple(number.to_bytes(32, "big") for number in range(items))
    for epoch in range(1, 21):
        row = Row(epoch=epoch, items=names)
        head = Link(epoch, epoch.to_bytes(32, "big"), epoch * items, epoch * items, row, (), head)
    view = replica.gossip.view(pinned=True, head=head)
    encoded = encode_message(view)
    assert len(encoded) <= MAX_MESSAGE_BYTES
    assert decode_message(encoded) == view
    assert len(view.rows) == {1: 12, 2600: 9, MAX_ROW_ITEMS: 6}[items]
