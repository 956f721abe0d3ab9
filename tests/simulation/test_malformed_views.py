"""A replica that shows rows which are no version, or rows of items that nobody has: it costs the others nothing."""

import pytest

from asyncfl.digest import digest
from asyncfl.ledger import Items
from asyncfl.messages import Ready, Row, Rows, RowsRequest, View
from asyncfl.replica.gossip import ASK_AHEAD
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer, sent
from tests.simulation.test_liveness import run_to_the_end

LIAR = 3


def trained() -> tuple[Simulation, Observer]:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=3)
    observer = Observer(simulation)
    simulation.start()
    run_to_the_end(simulation)
    return simulation, observer


def say(simulation: Simulation, message: View | Rows) -> None:
    node = simulation.network.nodes[simulation.replica_key(0)]
    simulation.network.deliver(node, simulation.replica_key(LIAR), message)


def count(simulation: Simulation, name: str) -> int:
    node = simulation.network.nodes[simulation.replica_key(0)]
    return sum(event.event == name for _, event in node.events)


def test_a_pinned_version_that_lists_an_item_twice_is_refused_once_and_not_looked_at_again() -> None:
    simulation, _ = trained()
    replica = simulation.replica(0)
    row = replica.context.ledger.rows()[0]
    twice = Row(epoch=row.epoch, items=(*row.items, row.items[0]))
    origin = replica.context.ledger.origin
    for _ in range(3):
        say(simulation, View(base=origin, base_epoch=0, entries=9, rows=(twice,), pinned=True))
        simulation.network.deliver(
            simulation.network.nodes[simulation.replica_key(0)],
            simulation.replica_key(1),
            RowsRequest(base=origin, first=1),
        )
    assert count(simulation, "malformed_view") == 1
    assert LIAR not in replica.models._wanted or replica.models._wanted[LIAR].malformed


def test_pages_of_items_that_nobody_has_end_after_the_first() -> None:
    simulation, observer = trained()
    replica = simulation.replica(0)
    simulation.network.on_message = lambda source, target, message: (
        None if source.key == simulation.replica_key(LIAR) else message
    )
    say(simulation, View(base=bytes(32), base_epoch=10**9, entries=2**31 - 1, rows=(), pinned=False))
    for page in range(1, 6):
        first = 100 * page - 99
        items = tuple(bytes([page, number]) * 16 for number in range(50))
        say(
            simulation,
            Rows(base=bytes(32), first=first, rows=(Row(epoch=first + 99, items=items),), more=True),
        )
        simulation.network.run(seconds=0.5)
    asked = [m.first for m in sent(observer, RowsRequest, simulation.replica_key(0)) if m.first > 1]
    assert asked == []
    assert len(replica.gossip.targets[LIAR].pages) == 1


@pytest.mark.parametrize("pinned", [False, True])
def test_many_items_that_nobody_has_are_not_looked_for_at_every_event(
    monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    """One VIEW, then silence: what comes after it costs what it did before."""
    simulation, _ = trained()
    replica, now = simulation.replica(0), simulation.network.now
    rows = tuple(
        Row(
            epoch=10**6 + epoch,
            items=tuple(digest("x", bytes([epoch]), bytes([k // 256, k % 256])) for k in range(3000)),
        )
        for epoch in range(8)
    )
    base = replica.context.ledger.version
    replica.receive(
        simulation.replica_key(LIAR),
        View(base=base, base_epoch=10**6 - 1, entries=2**30, rows=rows, pinned=pinned),
        now,
    )
    looked = list[object]()
    monkeypatch.setattr(Items, "__contains__", lambda held, name: looked.append(name) or name in held._held)
    ready = Ready(epoch=4, coordinator=0, roster=0, uploaded=3, wants_task=False)
    for _ in range(100):
        replica.receive(simulation.client_key(0), ready, now)
    assert len(looked) <= 200
    replica.tick(now)
    assert len(looked) <= 200 + 2 * ASK_AHEAD
    assert replica.gossip.is_caught_up
