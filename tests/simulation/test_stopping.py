"""Training ends when its accuracy is reached, and no t replicas can end or prolong it."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.client.context import State
from asyncfl.client.fronts import Fronts
from asyncfl.client.upload import Measured
from asyncfl.messages import Front, Message, Ready, Settings, Wait
from asyncfl.model import TrainingResult
from asyncfl.parameters import Parameters
from asyncfl.simulation import Network, Node, Simulation, StillTrainer
from asyncfl.stopping import Stop

CLIENTS, DIMENSION, LAST = 8, 6, 30
REACHED = 6
"""The epoch from which on clients find the models good."""


class Improving:
    """Measures 90 % from epoch `REACHED` on, 10 % before."""

    def __init__(self, number: int) -> None:
        self.inner = StillTrainer(number, DIMENSION)
        self.epoch = 0

    def measure(self, model: bytes) -> Measured:
        self.epoch += 1
        return Measured(45 if self.epoch >= REACHED else 5, 50)

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        return self.inner.train(model, settings, epoch)


class Endless(Improving):
    """Measures 10 % for ever."""

    def measure(self, model: bytes) -> Measured:
        return Measured(5, 50)


def make_simulation(trainer: Any, **options: Any) -> Simulation:
    parameters = Parameters.for_clients(CLIENTS, preset="tiny", metrics=True)
    values = {"stop": Stop(accuracy=0.8, rows=2), "last_epoch": LAST, **options}
    return Simulation(parameters, CLIENTS, initial=bytes(4 * DIMENSION), trainer=trainer, **values)


def lie(simulation: Simulation, liar: int, finished: bool) -> None:
    """One replica says the same in every FRONT, properly signed, whatever its ledger holds."""
    network, identity = simulation.network, simulation.replica_ids[liar]

    def replace(source: Node, target: Node, message: Message) -> Message | None:
        if source.key != identity.public or not isinstance(message, Front):
            return message
        unsigned = message.model_copy(update={"finished": finished})
        signature = identity.sign(Front.KIND, simulation.federation.digest, unsigned.body())
        return unsigned.model_copy(update={"signature": signature})

    network.on_message = replace


def states(simulation: Simulation) -> set[State]:
    return {simulation.client(number).state for number in range(CLIENTS)}


def test_training_ends_soon_after_its_accuracy_is_reached_and_says_why() -> None:
    simulation = make_simulation(Improving)
    waits: list[str] = []

    def note(source: Node, target: Node, message: Message) -> Message:
        if isinstance(message, Wait) and "training is over" in message.reason:
            waits.append(message.reason)
        return message

    simulation.network.on_message = note
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=900)
    assert states(simulation) == {State.FINISHED}
    reached = simulation.replica(0).context.ledger.last_epoch
    assert REACHED + 1 <= reached <= REACHED + 6
    reasons = {replica.status(0)["finished"] for replica in simulation.running_replicas()}
    (reason,) = reasons
    told = re.fullmatch(r".* is (0\.\d{4}) over the last 2 rows, at least 0\.8", reason)
    assert told is not None
    assert abs(float(told[1]) - 0.9) < 0.05
    assert any("at least 0.8" in said for said in waits)


def test_after_a_restart_clients_and_replicas_know_that_it_is_over() -> None:
    simulation = make_simulation(Improving)
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=900)
    entries = simulation.replica(0).context.ledger.entries
    for key in list(simulation.network.nodes):
        simulation.network.crash(key)
    for key in list(simulation.network.nodes):
        simulation.network.start(key)
    assert simulation.network.run(until=lambda: states(simulation) == {State.FINISHED}, seconds=120)
    assert simulation.replica(0).context.ledger.entries == entries


@pytest.mark.parametrize("liar", [0, 3])
def test_one_replica_that_says_it_is_over_ends_nothing(liar: int) -> None:
    simulation = make_simulation(Endless, last_epoch=4)
    lie(simulation, liar, True)
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=900)
    assert states(simulation) == {State.RESTING}
    assert simulation.replica(1).context.ledger.last_epoch == 4


@pytest.mark.parametrize("liar", [0, 3])
def test_one_replica_that_says_it_goes_on_prolongs_nothing(liar: int) -> None:
    simulation = make_simulation(Improving)
    lie(simulation, liar, False)
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=900)
    assert states(simulation) == {State.FINISHED}
    assert simulation.replica(1).context.ledger.last_epoch <= REACHED + 6


def test_training_goes_on_when_what_ended_it_holds_no_longer() -> None:
    simulation = make_simulation(Endless, last_epoch=4)
    network: Network = simulation.network
    lied = {simulation.replica_key(0), simulation.replica_key(3)}

    def replace(source: Node, target: Node, message: Message) -> Message | None:
        if network.now > 60 or source.key not in lied or not isinstance(message, Front):
            return message
        identity = simulation.replica_ids[0 if source.key == simulation.replica_key(0) else 3]
        unsigned = message.model_copy(update={"finished": True})
        signature = identity.sign(Front.KIND, simulation.federation.digest, unsigned.body())
        return unsigned.model_copy(update={"signature": signature})

    network.on_message = replace
    simulation.start()
    assert network.run(until=lambda: states(simulation) == {State.FINISHED}, seconds=50)
    assert network.run(until=lambda: states(simulation) == {State.RESTING}, seconds=900)
    assert simulation.client(0).epoch == 5


def test_signs_of_life_go_on_after_the_end() -> None:
    simulation = make_simulation(Improving)
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=900)
    heard: set[bytes] = set()

    def note(source: Node, target: Node, message: Message) -> Message:
        if isinstance(message, Ready):
            assert not message.wants_task
            heard.add(source.key)
        return message

    simulation.network.on_message = note
    simulation.network.run(seconds=10)
    assert heard == {identity.public for identity in simulation.client_ids}


@given(
    st.sampled_from([(1, 0), (4, 1), (7, 2), (10, 3), (10, 1)]),
    st.integers(0, 2**20),
    st.booleans(),
)
def test_whatever_t_liars_say_clients_follow_honest_replicas_that_agree(
    size: tuple[int, int], seed: int, finished: bool
) -> None:
    replicas, byzantine = size
    parameters = Parameters.for_clients(2 * replicas + 6, replicas=replicas, byzantine=byzantine)
    fronts = Fronts(parameters)
    random = Random(seed)
    liars = random.sample(range(replicas), byzantine)
    heard = random.sample(range(replicas), random.randint(parameters.quorum, replicas))
    for replica in heard:
        said = random.random() < 0.5 if replica in liars else finished
        fronts.hear(replica, Front(front=1, patience=1000, roster=0, finished=said, signature=bytes(64)))
    assert fronts.finished == finished
