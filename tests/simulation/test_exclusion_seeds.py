"""Seeds in which the operator takes entries out of the model, amid crashes, partitions, attackers and new rosters."""

from itertools import count, islice

import pytest

from asyncfl.effects import Effect, Persist, Table
from asyncfl.exclusions import Exclusion
from asyncfl.replica import Replica
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import Crash, CrashAtEffect, Rollback, RosterChange
from asyncfl.simulation.network import Node
from asyncfl.simulation.scenario import Scenario, draw
from asyncfl.simulation.trial import run

DRAWN = [draw(seed, replicas=4, byzantine=1) for seed in range(1, 401)]


def rollbacks(scenario: Scenario) -> list[Rollback]:
    return [fault for fault in scenario.faults if isinstance(fault, Rollback)]


def with_rollbacks(number: int, replicas: int, byzantine: int) -> list[Scenario]:
    """The first `number` seeds that draw any."""
    drawn = (draw(seed, replicas=replicas, byzantine=byzantine) for seed in count(1))
    return list(islice(filter(rollbacks, drawn), number))


def check(scenario: Scenario) -> Simulation:
    """All honest replicas come to the operator's last word, and to one model under it."""
    seen: list[Simulation] = []
    outcome = run(scenario, drain=20.0, attend=seen.append)
    assert outcome.kind is None, (outcome.violations, outcome.stalled, outcome.trace[-20:])
    (simulation,) = seen
    hostile = {attack.node for attack in scenario.attacks}
    nodes = map(simulation.network.nodes.__getitem__, simulation.federation.replica_keys)
    honest = [
        node.machine for node in nodes if node.name not in hostile and isinstance(node.machine, Replica)
    ]
    last = max(each.number for each in simulation.exclusions)
    of_that_number = [Exclusion.of(each) for each in simulation.exclusions if each.number == last]
    for replica in honest:
        assert replica.context.exclusions.in_force in of_that_number
        assert replica.models.latest is not None
        assert replica.models.latest.version == replica.context.version
        assert replica.models.latest.exclusion == replica.context.exclusions.in_force
    assert len({replica.context.exclusions.in_force.name for replica in honest}) == 1
    assert len({replica.models.latest.model for replica in honest if replica.models.latest}) == 1
    return simulation


@pytest.mark.parametrize("scenario", with_rollbacks(3, 4, 1), ids=lambda each: str(each.seed))
def test_all_honest_replicas_come_to_the_same_model(scenario: Scenario) -> None:
    check(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", with_rollbacks(43, 4, 1)[3:], ids=lambda each: str(each.seed))
def test_all_honest_replicas_come_to_the_same_model_with_many_seeds(scenario: Scenario) -> None:
    check(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", with_rollbacks(20, 7, 2), ids=lambda each: str(each.seed))
def test_so_do_five_honest_of_seven(scenario: Scenario) -> None:
    check(scenario)


def test_one_number_signed_twice_for_different_replicas_while_one_dies_in_the_midst_of_hearing_it() -> None:
    faults = (
        Rollback(3.0, (0.5,), (), ((1, 1),), False, ("replica-0",)),
        Rollback(3.0, (), (), ((2, 3),), True, ("replica-3",)),
        Rollback(6.0, (), ("client-2",), (), False, ("replica-1",)),
        Crash("replica-3", 2.5, 2.0),
        CrashAtEffect("replica-1", 300, 1.0),
    )
    simulation = check(Scenario(1, 4, 1, 8, epochs=7, faults=faults))
    assert [each.number for each in simulation.exclusions] == [1, 1, 2]
    first, second, _ = simulation.exclusions
    assert simulation.replica(2).context.exclusions.held[0] == min(
        first, second, key=lambda each: each.body()
    )
    assert simulation.client_key(2) in simulation.exclusion.clients


def test_a_replica_that_dies_as_it_hears_of_an_exclusion_is_told_again() -> None:
    """The only one that was told loses the statement before it is on disk."""
    rollback = Rollback(4.0, (), (), ((1, 2),), False, ("replica-1",))
    seen: list[Simulation] = []

    def crash_at_first_write(simulation: Simulation) -> None:
        seen.append(simulation)
        network, told = simulation.network, simulation.replica_key(1)
        before = network.before_effect

        def watch(node: Node, effect: Effect) -> None:
            writes = effect.writes if isinstance(effect, Persist) else ()
            if not crashed and node.key == told and any(w.table is Table.EXCLUSIONS for w in writes):
                crashed.append(network.now)
                network.crash(told)
                network.after(1.0, lambda: network.start(told))
                return
            before(node, effect)

        network.before_effect = watch

    crashed: list[float] = []
    outcome = run(Scenario(1, 4, 1, 8, epochs=5, faults=(rollback,)), attend=crash_at_first_write)
    assert outcome.kind is None, (outcome.violations, outcome.stalled)
    assert crashed == [4.0]
    assert seen[0].replica(2).context.exclusions.highest == 1


def test_some_seeds_draw_exclusions_of_every_kind_and_the_others_stay_what_they_were() -> None:
    some = [each for each in DRAWN if rollbacks(each)]
    assert 0.13 <= len(some) / len(DRAWN) <= 0.23
    drawn = [each for scenario in some for each in rollbacks(scenario)]
    assert any(each.again for each in drawn)
    assert any(not (each.entries or each.clients or each.spans) for each in drawn), "all of it is put back"
    assert any(each.clients for each in drawn)
    assert any(len(each.spans) == 2 for each in drawn)
    assert any(len(each.told) == 1 for each in drawn)
    assert any(any(isinstance(f, RosterChange) for f in each.faults) for each in some)
    assert any(each.epochs > 12 for each in some)
    assert max(len(rollbacks(each)) for each in some) == 4


def test_an_exclusion_reads_as_a_sentence() -> None:
    rollback = Rollback(2.0, (0.1, 0.9), ("client-3",), ((1, 1), (3, 4)), False, ("replica-0", "replica-2"))
    assert str(rollback) == (
        "at 2 s the operator signs, under the next number, that the model leaves out 2 entries, client-3, epoch 1, "
        "epochs 3 to 4, and tells replica-0, replica-2"
    )
    again = Rollback(2.0, (), (), (), True, ("replica-0",))
    assert "under the number that it used last, that the model leaves out nothing, and tells" in str(again)
