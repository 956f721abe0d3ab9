"""Training goes on whatever one part does: attacks (iv) of the design, and crashes of whole nodes."""

from typing import Any

import numpy as np
import pytest

from asyncfl.effects import Effect, Send
from asyncfl.messages import Message, Ready, Task, Wait
from asyncfl.replica import Replica
from asyncfl.replica.status import ARRIVAL_SECONDS
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters, make_simulation
from tests.simulation.observer import Observer

EPOCHS = 6


def run_to_the_end(simulation: Simulation, seconds: float = 300.0) -> None:
    """Until every running client has taken part in every epoch."""

    def done() -> bool:
        return all(
            simulation.client(i).status(simulation.network.now)["done"]
            for i in range(simulation.clients)
            if simulation.network.is_up(simulation.client_key(i))
        )

    assert simulation.network.run(until=done, seconds=seconds), describe(simulation)
    simulation.network.run(until=simulation.is_drained, seconds=30)


def describe(simulation: Simulation) -> str:
    now = simulation.network.now
    replicas = [replica.status(now) for replica in simulation.running_replicas()]
    lines = [
        f"{s['entries']} entries, epoch {s['epoch']}, front {s['front']}: {s['stall']}" for s in replicas
    ]
    for number in range(simulation.clients):
        if simulation.network.is_up(simulation.client_key(number)):
            status = simulation.client(number).status(now)
            if not status["done"]:
                lines.append(f"client {number} at {status['epoch']}: {status['waiting_for']}")
    return "\n".join(lines)


def versions(simulation: Simulation) -> set[bytes]:
    return {replica.context.ledger.version for replica in simulation.running_replicas()}


def certified_models(simulation: Simulation) -> set[bytes]:
    return {
        replica.models.latest.model
        for replica in simulation.running_replicas()
        if replica.models.latest is not None
    }


@pytest.mark.parametrize("seed", range(3))
def test_with_nothing_failing_every_upload_is_in(seed: int) -> None:
    simulation = make_simulation(seed=seed, last_epoch=EPOCHS)
    observer = Observer(simulation)
    simulation.start()
    run_to_the_end(simulation)
    assert simulation.is_drained(), describe(simulation)
    for replica in simulation.running_replicas():
        assert sorted(replica.context.ledger.counts.values()) == [EPOCHS] * 16
    assert len(versions(simulation)) == len(certified_models(simulation)) == 1
    observer.check_end()


def test_a_replica_killed_and_restarted_ends_with_the_same_model() -> None:
    simulation = make_simulation(last_epoch=12)
    observer = Observer(simulation)
    simulation.start()
    ledger = simulation.replica(0).context.ledger
    simulation.network.run(until=lambda: ledger.last_epoch >= 4, seconds=100)
    simulation.network.crash(simulation.replica_key(2))
    entries = ledger.entries
    simulation.network.run(until=lambda: ledger.last_epoch >= 8, seconds=100)
    assert ledger.entries > entries + 8
    simulation.network.start(simulation.replica_key(2))
    run_to_the_end(simulation)
    simulation.network.run(until=lambda: len(certified_models(simulation)) == 1, seconds=30)
    assert len(simulation.running_replicas()) == 4
    assert len(versions(simulation)) == len(certified_models(simulation)) == 1
    observer.check_end()


@pytest.mark.parametrize("dead", [0, 1, 3])
def test_a_replica_dead_from_the_start_stops_nothing(dead: int) -> None:
    simulation = make_simulation(seed=dead, last_epoch=EPOCHS)
    simulation.start()
    simulation.network.crash(simulation.replica_key(dead))
    run_to_the_end(simulation)
    replica = simulation.running_replicas()[0]
    included = sum(replica.context.ledger.counts.values())
    assert included >= 0.95 * 16 * EPOCHS


def test_dead_clients_stop_nothing() -> None:
    simulation = make_simulation(last_epoch=8)
    simulation.start()
    simulation.network.crash(simulation.client_key(1))
    simulation.network.run(seconds=4)
    simulation.network.crash(simulation.client_key(2))
    run_to_the_end(simulation)
    counts = simulation.replica(0).context.ledger.counts
    present = [counts[simulation.client_key(i)] for i in range(16) if i not in (1, 2)]
    assert min(present) >= 8 - 2


def test_a_client_that_only_says_ready_stops_nothing() -> None:
    simulation = make_simulation(last_epoch=EPOCHS)
    lazy = simulation.client_key(5)

    def drop_tasks(source: Node, target: Node, message: Message) -> Message | None:
        return None if isinstance(message, Task) and target.key == lazy else message

    simulation.network.on_message = drop_tasks
    simulation.start()

    def others_done() -> bool:
        return all(simulation.client(i).status(simulation.network.now)["done"] for i in range(16) if i != 5)

    assert simulation.network.run(until=others_done, seconds=900), describe(simulation)
    ledger = simulation.replica(0).context.ledger
    assert simulation.network.run(until=lambda: ledger.last_epoch >= EPOCHS, seconds=30)


class WaitForEver(Replica):
    """Answers every READY with its front and WAIT, and never gives a TASK."""

    def _without_tasks(self, effects: list[Effect]) -> list[Effect]:
        return [
            Send(e.peer, Wait(epoch=e.message.epoch, reason="later"))
            if isinstance(e, Send) and isinstance(e.message, Task)
            else e
            for e in effects
        ]

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        return self._without_tasks(super().receive(peer, message, now))

    def tick(self, now: float) -> list[Effect]:
        return self._without_tasks(super().tick(now))


def test_a_coordinator_that_answers_wait_for_ever_stops_nothing() -> None:
    made: list[Replica] = []

    def make(*arguments: Any) -> Replica:
        made.append((WaitForEver if len(made) == 1 else Replica)(*arguments))
        return made[-1]

    simulation = Simulation(make_parameters(), 16, last_epoch=EPOCHS, make_replica=make)
    simulation.start()
    run_to_the_end(simulation, 600)
    assert isinstance(simulation.replica(1), WaitForEver)
    counts = simulation.replica(0).context.ledger.counts
    # Over six seeds 90 to 92 of 96 uploads, and 3 to 5 of the client with fewest.
    assert min(counts.values()) >= EPOCHS / 2
    assert sum(counts.values()) >= 0.9 * 16 * EPOCHS


def test_nobody_is_to_be_retired_before_clients_had_time_to_come() -> None:
    simulation = make_simulation(seed=1, last_epoch=EPOCHS)
    for index in range(4):
        simulation.network.start(simulation.replica_key(index))
    network = simulation.network

    def reason(seconds: float) -> str:
        network.run(seconds=seconds)
        return str(simulation.replica(0).status(network.now)["stall"])

    early = reason(5.0)
    assert "0 of 16 clients have come so far" in early
    assert "retire" not in early
    assert "asyncfl retire" in reason(ARRIVAL_SECONDS)


def test_one_replica_too_many_stalls_and_says_why_and_resumes() -> None:
    simulation = make_simulation(seed=1, last_epoch=EPOCHS)
    simulation.start()
    ledger = simulation.replica(0).context.ledger
    simulation.network.run(until=lambda: ledger.last_epoch >= 2, seconds=100)
    simulation.network.crash(simulation.replica_key(1))
    simulation.network.crash(simulation.replica_key(2))
    simulation.network.run(seconds=2)
    entries = ledger.entries
    simulation.network.run(seconds=30)
    assert ledger.entries == entries
    reason = simulation.replica(0).status(simulation.network.now)["stall"]
    assert "2 of 4 replicas can be reached, 3 are needed" in reason
    assert "replica-1 or replica-2" in reason
    simulation.network.start(simulation.replica_key(2))
    run_to_the_end(simulation)
    assert ledger.entries > entries
    assert len(versions(simulation)) == 1


def test_speeds_spread_twentyfold_leave_nobody_out() -> None:
    speed = np.exp(np.random.default_rng(0).uniform(0, np.log(20), 16)) * 0.2
    simulation = Simulation(make_parameters(), 16, last_epoch=8, speed=lambda i, epoch: float(speed[i]))
    simulation.start()
    run_to_the_end(simulation, 600)
    counts = simulation.replica(0).context.ledger.counts
    window = simulation.parameters.window
    assert max(counts.values()) - min(counts.values()) <= window + 3


def test_a_partition_of_t_replicas_heals_and_they_catch_up() -> None:
    simulation = make_simulation(last_epoch=8)
    simulation.start()
    lonely = simulation.replica_key(3)
    ledger = simulation.replica(0).context.ledger
    simulation.network.run(until=lambda: ledger.last_epoch >= 2, seconds=100)
    for key in list(simulation.network.nodes):
        if key != lonely:
            simulation.network.cut(lonely, key)
    simulation.network.run(until=lambda: ledger.last_epoch >= 5, seconds=100)
    assert simulation.replica(3).context.ledger.entries < ledger.entries
    for key in list(simulation.network.nodes):
        if key != lonely:
            simulation.network.heal(lonely, key)
    run_to_the_end(simulation)
    assert len(versions(simulation)) == 1


def test_a_client_that_was_away_moves_itself_to_the_front() -> None:
    simulation = make_simulation(last_epoch=14)
    simulation.start()
    ledger = simulation.replica(0).context.ledger
    simulation.network.run(until=lambda: ledger.last_epoch >= 2, seconds=100)
    simulation.network.crash(simulation.client_key(7))
    simulation.network.run(until=lambda: ledger.last_epoch >= 9, seconds=200)
    simulation.network.start(simulation.client_key(7))
    run_to_the_end(simulation)
    included = {e for client, e in ledger.included if client == simulation.client_key(7)}
    assert max(included) == 14
    assert not included & set(range(5, 9))


def test_signs_of_life_are_few_bytes() -> None:
    assert len(Ready(epoch=1, coordinator=0, roster=0, uploaded=0, wants_task=True).encode()) < 32
