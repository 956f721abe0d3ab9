"""A client or replica killed at any step: no upload opened twice, no entry lost, no deadlock, the same bytes again."""

import pytest

from asyncfl.effects import Effect
from asyncfl.messages import Item
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer
from tests.simulation.test_liveness import describe, run_to_the_end, versions


class CrashAt:
    """Crashes one node just before its `count`-th effect, and starts it again `seconds` later."""

    def __init__(self, simulation: Simulation, key: bytes, count: int, seconds: float = 0.7) -> None:
        self.simulation, self.key, self.left, self.seconds = simulation, key, count, seconds
        self.effect: Effect | None = None
        self._next = simulation.network.before_effect
        simulation.network.before_effect = self

    def __call__(self, node: Node, effect: Effect) -> None:
        if node.key == self.key and self.effect is None:
            self.left -= 1
            if self.left == 0:
                self.effect = effect
                network = self.simulation.network
                network.crash(self.key)
                network.after(self.seconds, lambda: network.start(self.key))
                return
        self._next(node, effect)


def small(seed: int) -> Simulation:
    parameters = make_parameters(8, cell_size=4, min_group=3)
    return Simulation(parameters, 8, seed=seed, last_epoch=3)


def entries_of(simulation: Simulation, index: int) -> dict[bytes, Item]:
    return dict(simulation.replica(index).context.ledger.items)


@pytest.mark.parametrize("count", [*range(1, 60, 6), *range(60, 600, 60)])
def test_a_replica_crashes_before_any_effect(count: int) -> None:
    simulation = small(seed=count)
    observer = Observer(simulation)
    crash = CrashAt(simulation, simulation.replica_key(1), count)
    simulation.start()
    run_to_the_end(simulation)
    simulation.network.run(
        until=lambda: simulation.network.is_up(simulation.replica_key(1)) and len(versions(simulation)) == 1,
        seconds=30,
    )
    assert crash.effect is not None, "the run was shorter than that"
    assert len(simulation.running_replicas()) == 4
    assert len(versions(simulation)) == 1, describe(simulation)
    observer.check_end()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57])
def test_a_client_crashes_before_any_effect(count: int) -> None:
    simulation = small(seed=count)
    observer = Observer(simulation)
    crash = CrashAt(simulation, simulation.client_key(2), count)
    simulation.start()
    run_to_the_end(simulation)
    assert crash.effect is not None, "the run was shorter than that"
    assert simulation.client(2).epoch == 4
    observer.check_end()


@pytest.mark.parametrize("seed", range(4))
def test_everybody_crashes_and_nothing_certified_is_lost(seed: int) -> None:
    simulation = small(seed)
    observer = Observer(simulation)
    simulation.start()
    ledger = simulation.replica(0).context.ledger
    simulation.network.run(until=lambda: ledger.entries >= 2, seconds=60)
    before = [entries_of(simulation, index) for index in range(4)]
    for key in simulation.network.nodes:
        simulation.network.crash(key)
    simulation.network.run(seconds=5)
    for key in simulation.network.nodes:
        simulation.network.start(key)
    for index in range(4):
        assert entries_of(simulation, index).keys() >= before[index].keys()
    run_to_the_end(simulation)
    assert len(versions(simulation)) == 1
    observer.check_end()


def test_random_crashes_of_everybody_in_turn() -> None:
    simulation = Simulation(make_parameters(), 16, seed=3, last_epoch=8)
    observer = Observer(simulation)
    simulation.start()
    rng, network = simulation.network.rng, simulation.network
    keys = list(network.nodes)
    for _ in range(14):
        network.run(seconds=float(rng.uniform(0.2, 1.5)))
        key = keys[int(rng.integers(len(keys)))]
        network.crash(key)
        network.run(seconds=float(rng.uniform(0.1, 2.0)))
        network.start(key)
    run_to_the_end(simulation)
    network.run(until=lambda: len(versions(simulation)) == 1, seconds=30)
    assert len(versions(simulation)) == 1
    observer.check_end()
