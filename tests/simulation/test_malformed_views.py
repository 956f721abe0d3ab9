"""A replica that shows rows which are no version, or rows of items that nobody has: it costs the others nothing."""

from asyncfl.messages import Row, Rows, RowsRequest, View
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
