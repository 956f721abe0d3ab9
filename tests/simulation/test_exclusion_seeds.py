"""Seeds that draw their own crashes, partitions and attackers, while the operator takes entries out of the model."""

from functools import partial

import numpy as np
import pytest

from asyncfl.exclusions import Exclusion
from asyncfl.messages import ExclusionStatement
from asyncfl.replica import Replica
from asyncfl.simulation import Simulation
from asyncfl.simulation.scenario import draw
from asyncfl.simulation.trial import run

FIRST = [2, 3, 5]
MORE = range(100, 160)


class Operator:
    """Signs three statements in the course of a run, the second number twice; brings each to t + 1 replicas."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 34])
        self.simulation: Simulation
        self.signed: list[ExclusionStatement] = []

    def attend(self, simulation: Simulation) -> None:
        self.simulation = simulation
        at = float(self.rng.uniform(0.5, 3.0))
        for number in (1, 2, 3):
            simulation.network.after(at, partial(self.speak, number))
            at += float(self.rng.uniform(0.5, 4.0))

    def speak(self, number: int) -> None:
        for _ in range(2 if number == 2 else 1):
            first = int(self.rng.integers(1, 4))
            statement = self.simulation.sign_exclusion(
                number,
                entries=[self.an_entry()],
                spans=[(first, first + int(self.rng.integers(0, 2)))],
                reason=str(self.rng.integers(1000)),
            )
            self.signed.append(statement)
            replicas = self.rng.permutation(self.simulation.parameters.replicas)
            for replica in replicas[: self.simulation.parameters.byzantine + 1]:
                self.tell(int(replica), statement)

    def an_entry(self) -> bytes:
        """One that some replica holds now; else one that is nowhere."""
        held = sorted(
            name
            for node in map(
                self.simulation.network.nodes.__getitem__, self.simulation.federation.replica_keys
            )
            if isinstance(node.machine, Replica)
            for name in node.machine.context.ledger.items
        )
        return held[int(self.rng.integers(len(held)))] if held else bytes(self.rng.bytes(32))

    def tell(self, replica: int, statement: ExclusionStatement) -> None:
        """With those before it; again until the replica is up."""
        if not self.simulation.network.is_up(self.simulation.replica_key(replica)):
            self.simulation.network.after(1.0, partial(self.tell, replica, statement))
            return
        for earlier in (*(each for each in self.signed if each.number < statement.number), statement):
            self.simulation.tell(replica, earlier)


def check(seed: int, replicas: int, byzantine: int) -> None:
    operator = Operator(seed)
    scenario = draw(seed, replicas=replicas, byzantine=byzantine)
    outcome = run(scenario, drain=20.0, attend=operator.attend)
    assert outcome.kind is None, (outcome.violations, outcome.stalled, outcome.trace[-20:])
    hostile = {attack.node for attack in scenario.attacks}
    network = operator.simulation.network
    honest = [
        node.machine
        for node in map(network.nodes.__getitem__, operator.simulation.federation.replica_keys)
        if node.name not in hostile and isinstance(node.machine, Replica)
    ]
    last = next(each for each in operator.signed if each.number == 3)
    for replica in honest:
        assert replica.context.exclusions.in_force == Exclusion.of(last)
        assert replica.models.latest is not None
        assert replica.models.latest.version == replica.context.version
    assert len({replica.models.latest.model for replica in honest if replica.models.latest}) == 1


@pytest.mark.parametrize("seed", FIRST)
def test_all_honest_replicas_come_to_the_same_model(seed: int) -> None:
    check(seed, replicas=4, byzantine=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE)
def test_all_honest_replicas_come_to_the_same_model_with_many_seeds(seed: int) -> None:
    check(seed, *((7, 2) if seed % 3 == 0 else (4, 1)))
