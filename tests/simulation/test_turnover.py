"""A roster of which hardly anybody stays: training passes on to the next, also after all replicas have restarted."""

import pytest

from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer
from tests.simulation.test_liveness import describe


@pytest.mark.parametrize(("staying", "dies"), [(0, False), (1, True), (2, False)])
def test_training_goes_on_when_nearly_everybody_is_replaced(staying: int, dies: bool) -> None:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8)
    network, observer = simulation.network, Observer(simulation)

    def reached(epoch: int) -> bool:
        replicas = simulation.running_replicas()
        fronts = [replica.context.inclusion.front for replica in replicas]
        return min(*fronts, *(replica.context.ledger.last_epoch for replica in replicas)) >= epoch

    simulation.start()
    assert network.run(until=lambda: reached(2), seconds=60), describe(simulation)
    joiners = [simulation.enrol() for _ in range(8)]
    start = max(replica.context.inclusion.front for replica in simulation.running_replicas()) + 5
    simulation.tell(0, simulation.sign_next_roster(start, range(8 - staying, 16)))
    for joiner in joiners:
        network.start(simulation.client_key(joiner))
    assert network.run(until=lambda: reached(start - 2), seconds=60), describe(simulation)
    if dies:
        network.crash(simulation.client_key(7))
    assert network.run(until=lambda: reached(start + 4), seconds=60), describe(simulation)
    for key in simulation.federation.replica_keys:
        network.crash(key)
    if staying == 2:
        network.crash(simulation.client_key(6))
        network.crash(simulation.client_key(7))
    network.run(seconds=1)
    for key in simulation.federation.replica_keys:
        network.start(key)
    assert network.run(until=lambda: reached(start + 8), seconds=60), describe(simulation)
    observer.check_end()
