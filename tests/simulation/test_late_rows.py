"""A late entry in an old row while a version without it waits for its signatures."""

from asyncfl.ledger import Ledger, Link
from asyncfl.replica.gossip import RECENT_ROWS
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.test_liveness import run_to_the_end


def without_the_first(ledger: Ledger, deployment: bytes) -> Link:
    """The version of all items but one of the oldest row."""
    left_out = ledger.rows()[0].items[0]
    earlier = Ledger(deployment)
    for name, item in ledger.items.items():
        if name != left_out:
            earlier.add(item)
    return earlier.head


def test_a_version_pinned_before_a_late_entry_in_an_old_row_is_certified() -> None:
    parameters = make_parameters(8, cell_size=4, min_group=3)
    simulation = Simulation(parameters, 8, last_epoch=RECENT_ROWS + 3)
    simulation.start()
    run_to_the_end(simulation)
    models = simulation.replica(3).models
    head = without_the_first(simulation.replica(3).context.ledger, simulation.federation.digest)
    for other in range(3):
        simulation.replica(
            other
        ).models._serving.clear()  # of the last versions: larger than the one asked for now
    models.pinned = pinned = models._compute(head)
    models._ask(pinned)
    assert simulation.network.run(until=lambda: pinned.certificate is not None, seconds=20)
    events = [event.event for node in simulation.network.nodes.values() for _, event in node.events]
    assert "malformed_view" not in events
    assert simulation.network.run(until=lambda: models.pinned is None, seconds=20)
