"""Clients join and leave while training runs: cells follow the roster at every replica alike, and nothing stops."""

from collections.abc import Callable

import pytest

from asyncfl.client.context import State
from asyncfl.effects import Send
from asyncfl.errors import ConfigurationError
from asyncfl.messages import Front, RosterStatement
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer
from tests.simulation.test_liveness import describe, versions

LAST = 10
RETIRED = 2
Disturb = Callable[["Change"], None]


class Change:
    """Eight clients of which two leave, and four that join, at an epoch a little ahead of the front."""

    def __init__(self, seed: int = 0, ahead: int = 4) -> None:
        parameters = make_parameters(8, cell_size=4, min_group=3)
        self.simulation = Simulation(parameters, 8, seed=seed, last_epoch=LAST)
        self.network = self.simulation.network
        self.observer = Observer(self.simulation)
        self.simulation.start()
        self.ahead = ahead
        self.start_epoch = 0
        self.joiners: list[int] = []

    @property
    def front(self) -> int:
        return max(r.context.inclusion.front for r in self.simulation.running_replicas())

    def until_front(self, front: int) -> None:
        assert self.network.run(until=lambda: self.front >= front, seconds=200), describe(self.simulation)

    def sign(self) -> RosterStatement:
        self.joiners = [self.simulation.enrol() for _ in range(4)]
        self.start_epoch = self.front + self.ahead
        return self.simulation.sign_next_roster(self.start_epoch, range(RETIRED, 12))

    def join(self) -> None:
        for number in self.joiners:
            self.network.start(self.simulation.client_key(number))

    def finish(self) -> None:
        keys = [identity.public for identity in self.simulation.client_ids]

        def done() -> bool:
            machines = [self.network.nodes[key].machine for key in keys]
            return all(m is not None and m.status(self.network.now)["done"] for m in machines)

        assert self.network.run(until=done, seconds=600), describe(self.simulation)
        self.network.run(until=self.simulation.is_drained, seconds=60)

    def included(self, number: int) -> set[int]:
        key = self.simulation.client_key(number)
        return {
            epoch for client, epoch in self.simulation.replica(0).context.ledger.included if client == key
        }

    def check(self, *, joined_within: int = 2) -> None:
        simulation, start = self.simulation, self.start_epoch
        assert [r.context.rosters.highest for r in simulation.running_replicas()] == [1] * 4
        assert len(versions(simulation)) == 1
        for number in range(RETIRED):
            assert simulation.client(number).state is State.RETIRED
            assert max(self.included(number)) < start, "a retired client took part"
        for number in self.joiners:
            assert min(self.included(number)) >= start
            assert min(self.included(number)) <= start + joined_within, "a joiner was not included"
        ledger = simulation.replica(0).context.ledger
        assert all(ledger.row_members.get(epoch, 0) >= 3 for epoch in range(1, LAST)), ledger.row_members
        counts = [simulation.replica(0).context.count(simulation.client_key(i)) for i in range(RETIRED, 12)]
        assert max(counts) - min(counts) <= simulation.parameters.window + 3
        self.observer.check_end()


def nothing(change: Change) -> None:
    change.simulation.tell(0, change.sign())
    change.join()


def replica_dead(change: Change) -> None:
    """t replicas are dead while the statement goes round, and learn of it when they are back."""
    key = change.simulation.replica_key(2)
    change.network.crash(key)
    change.simulation.tell(0, change.sign())
    change.join()
    change.network.run(until=lambda: change.front >= change.start_epoch + 1, seconds=200)
    change.network.start(key)


def replica_cut_off(change: Change) -> None:
    """The only replica that hears of it is cut off from the others for a while, not from clients."""
    keys = change.simulation.federation.replica_keys
    for other in keys[1:]:
        change.network.cut(keys[0], other)
    change.simulation.tell(0, change.sign())
    change.network.run(seconds=3)
    assert change.simulation.replica(1).context.rosters.highest == 0
    for other in keys[1:]:
        change.network.heal(keys[0], other)
    change.join()


def everybody_restarts(change: Change) -> None:
    """All that is not on disk is lost, right after one replica has taken the statement, and once more later."""
    simulation, network = change.simulation, change.network
    simulation.tell(0, change.sign())
    change.join()
    for _ in range(2):
        running = [key for key in network.nodes if network.is_up(key)]
        for key in running:
            network.crash(key)
        network.run(seconds=1)
        for key in running:
            network.start(key)
        assert simulation.replica(0).context.rosters.highest == 1
        network.run(until=lambda: change.front >= change.start_epoch, seconds=200)


def slow_network(change: Change) -> None:
    change.network.latency = (0.01, 1.2)
    change.simulation.tell(0, change.sign())
    change.join()


def joiners_are_late(change: Change) -> None:
    change.simulation.tell(3, change.sign())
    change.until_front(change.start_epoch + 1)
    change.join()


@pytest.mark.parametrize(
    "disturb", [nothing, replica_dead, replica_cut_off, everybody_restarts, slow_network, joiners_are_late]
)
def test_joining_and_leaving_while_training_runs(disturb: Disturb) -> None:
    change = Change()
    change.until_front(2)
    disturb(change)
    change.finish()
    change.check(joined_within=5 if disturb in (joiners_are_late, everybody_restarts) else 2)


def test_a_statement_that_comes_after_its_start_epoch_is_taken_within_the_grace() -> None:
    """Clients then go by the old roster for some epochs that the new one claims; these count all the same."""
    change = Change(ahead=-1)
    change.until_front(5)
    change.simulation.tell(1, change.sign())
    change.join()
    change.finish()
    assert all(change.simulation.client(i).state is State.RETIRED for i in range(RETIRED))
    # In the last epochs (n - cells + 1 of them) a late upload may find no later group of its coordinator.
    assert all(set(range(5, LAST - 2)) <= change.included(number) for number in change.joiners)
    members = [change.included(number) for number in range(RETIRED, 8)]
    assert all(epochs == set(range(1, LAST + 1)) for epochs in members)
    assert len(versions(change.simulation)) == 1


def test_who_was_retired_may_come_back() -> None:
    change = Change()
    change.until_front(2)
    change.simulation.tell(0, change.sign())
    change.join()
    simulation, network = change.simulation, change.network
    returned = simulation.client(0)
    assert network.run(until=lambda: returned.state is State.RETIRED, seconds=200), describe(simulation)
    assert "retired" in [event.event for _, event in network.nodes[simulation.client_key(0)].events]
    start = change.front + 3
    simulation.tell(2, simulation.sign_next_roster(start, (0, *range(RETIRED, 12))))
    network.run(seconds=1)
    network.crash(simulation.client_key(0))
    network.start(simulation.client_key(0))
    change.finish()
    assert simulation.client(0).state is State.RESTING
    assert {epoch for epoch in change.included(0) if epoch >= change.start_epoch} <= set(
        range(start, LAST + 1)
    )
    assert len(change.included(0) & set(range(start, LAST + 1))) >= LAST - start


def test_joiners_hold_up_nothing_before_their_start_epoch_and_wait_for_it() -> None:
    change = Change(ahead=6)
    change.until_front(2)
    change.simulation.tell(0, change.sign())
    change.join()
    change.until_front(change.start_epoch - 2)
    joiner = change.simulation.client(change.joiners[0])
    assert joiner.epoch == change.start_epoch
    change.finish()
    change.check()


def test_a_stranger_is_not_enrolled() -> None:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=2)
    simulation.start()
    number = simulation.enrol()
    with pytest.raises(ConfigurationError, match="not enrolled"):
        simulation.network.start(simulation.client_key(number))
    assert not simulation.replica(0).accepts(simulation.client_key(number))
    simulation.tell(0, simulation.sign_next_roster(9, range(9)))
    assert simulation.replica(0).accepts(simulation.client_key(number))


def test_the_operator_is_answered_once_the_statement_is_on_disk() -> None:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=2)
    simulation.start()
    simulation.network.run(seconds=1)
    operator, replica = simulation.operator_id.public, simulation.replica(0)
    assert replica.accepts(operator)
    replica.connected(operator, 1.0)
    statement = simulation.sign_next_roster(9, range(1, 8))
    effects = replica.receive(operator, statement, 1.0)
    kinds = [type(getattr(effect, "message", effect)).__name__ for effect in effects]
    assert kinds.index("Persist") < kinds.index("RosterStatement") < kinds.index("Front")
    fronts = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Front)]
    assert fronts[0].roster == 1
