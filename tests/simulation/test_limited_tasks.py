"""Coordinators that have few TASKs outstanding: training goes on, nobody is forgotten, liars gain nothing."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from asyncfl.effects import Effect, Send
from asyncfl.messages import Message, Ready, Stored, Task, Wait
from asyncfl.replica import Replica
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters
from tests.simulation.test_liveness import describe

EPOCHS = 6


class Watch:
    """TASKs outstanding by coordinator, and the spread of the inclusion counts, twice a second."""

    def __init__(self, simulation: Simulation, clients: list[int]) -> None:
        self.simulation, self.clients = simulation, clients
        self.outstanding, self.spread = 0, 0
        self.look()

    def look(self) -> None:
        simulation = self.simulation
        for replica in simulation.running_replicas():
            self.outstanding = max(self.outstanding, len(replica.tasks.scheduler.outstanding))
        ledger = max(
            (r.context.ledger for r in simulation.running_replicas()), key=lambda ledger: ledger.entries
        )
        counts = [ledger.counts.get(simulation.client_key(i), 0) for i in self.clients]
        self.spread = max(self.spread, max(counts) - min(counts))
        simulation.network.after(0.5, self.look)


def make(
    clients: int,
    concurrency: int,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    spread: float = 20.0,
    **options: Any,
) -> Simulation:
    pace = 0.2 * np.exp(np.random.default_rng(seed).uniform(0, np.log(spread), clients))
    return Simulation(
        make_parameters(clients, concurrency=concurrency),
        clients,
        seed=seed,
        last_epoch=epochs,
        speed=lambda client, epoch: float(pace[client]),
        **options,
    )


def run(simulation: Simulation, clients: list[int], seconds: float = 1200.0) -> int:
    """Until `clients` have taken part in every epoch; the uploads in the ledger at the end."""

    def done() -> bool:
        states = [simulation.client(i).status(simulation.network.now) for i in clients]
        return all(state["done"] for state in states)

    assert simulation.network.run(until=done, seconds=seconds), describe(simulation)
    simulation.network.run(until=simulation.is_drained, seconds=30)
    ledger = max((r.context.ledger for r in simulation.running_replicas()), key=lambda ledger: ledger.entries)
    return sum(ledger.counts.get(simulation.client_key(i), 0) for i in clients)


def check(clients: int, concurrency: int, dead: int, seed: int, lost: float) -> None:
    simulation = make(clients, concurrency, seed=seed)
    simulation.start()
    for replica in range(dead):
        simulation.network.crash(simulation.replica_key(replica + 1))
    everybody = list(range(clients))
    watch = Watch(simulation, everybody)
    included = run(simulation, everybody)
    assert watch.outstanding == concurrency
    assert watch.spread <= simulation.parameters.window + 3
    assert included >= (1 - lost) * clients * EPOCHS


@pytest.mark.parametrize(("concurrency", "dead"), [(1, 1), (2, 0)])
def test_few_tasks_at_a_time_leave_nobody_out(concurrency: int, dead: int) -> None:
    check(16, concurrency, dead, seed=0, lost=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("concurrency", "dead", "seed"), [(1, 0, 0), (1, 1, 1), (2, 1, 2)])
def test_long_queues_leave_nobody_out(concurrency: int, dead: int, seed: int) -> None:
    check(48, concurrency, dead, seed, lost=0.12)


def test_queueing_does_not_inflate_patience() -> None:
    """16 clients that train for half a second, one at a time at each coordinator: most of their time they queue."""
    simulation = make(16, 1, spread=1.0)
    waits: list[str] = []

    def see(source: Node, target: Node, message: Message) -> Message:
        if isinstance(message, Wait) and message.queue:
            waits.append(message.reason)
        return message

    simulation.network.on_message = see
    simulation.start()
    run(simulation, list(range(16)))
    assert len(waits) > 100
    assert [replica.status(0.0)["tasks"]["waiting"] for replica in simulation.running_replicas()] == [0] * 4
    assert any("other clients wait too, and 1 may train at a time" in reason for reason in waits)
    for replica in simulation.running_replicas():
        assert replica.context.inclusion.patience.seconds < 2.0  # twice 0.2 s and the way there and back


def test_clients_that_take_tasks_and_never_train_hold_their_places_for_a_while_only() -> None:
    simulation = make(16, 1)
    hogs = {simulation.client_key(i) for i in (3, 9)}

    def drop(source: Node, target: Node, message: Message) -> Message | None:
        return None if isinstance(message, Task) and target.key in hogs else message

    simulation.network.on_message = drop
    simulation.start()
    honest = [i for i in range(16) if i not in (3, 9)]
    included = run(simulation, honest)
    # An epoch may pass by whoever queues behind both of them.
    assert included >= 0.75 * len(honest) * EPOCHS


class EndlessQueue(Replica):
    """Answers every READY with a queue of a million, and never gives a TASK."""

    def _lied(self, effects: list[Effect]) -> list[Effect]:
        return [
            Send(e.peer, Wait(epoch=e.message.epoch, reason="many wait", queue=1_000_000))
            if isinstance(e, Send) and isinstance(e.message, Task | Wait)
            else e
            for e in effects
        ]

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        return self._lied(super().receive(peer, message, now))

    def tick(self, now: float) -> list[Effect]:
        return self._lied(super().tick(now))


def test_a_queue_that_never_ends_costs_its_own_cells_only() -> None:
    made: list[Replica] = []

    def replica(*arguments: Any) -> Replica:
        made.append((EndlessQueue if len(made) == 1 else Replica)(*arguments))
        return made[-1]

    simulation = make(16, 1, make_replica=replica)
    simulation.start()
    everybody = list(range(16))
    included = run(simulation, everybody, 3600)
    assert isinstance(simulation.replica(1), EndlessQueue)
    # A quarter of the cells are the liar's: what it costs is at most that.
    assert included >= 0.7 * 16 * EPOCHS


def test_a_place_is_free_again_as_soon_as_the_upload_is_stored() -> None:
    simulation = make(16, 1, spread=1.0)
    given: dict[bytes, list[tuple[float, str, bytes]]] = {}

    def see(source: Node, target: Node, message: Message) -> Message:
        if isinstance(message, Task | Stored):
            kind = type(message).__name__
            given.setdefault(source.key, []).append((simulation.network.now, kind, target.key))
        return message

    simulation.network.on_message = see
    simulation.start()
    run(simulation, list(range(16)))
    for events in given.values():
        for (_, before, client), (_, after, other) in pairwise(events):
            assert not (before == after == "Task" and client != other), (
                "two TASKs were out at one coordinator"
            )


def test_a_flood_of_ready_does_not_make_a_coordinator_look_at_everybody_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(make_parameters(100, cell_size=25, min_group=20, concurrency=2), 100)
    for key in simulation.federation.replica_keys:
        simulation.network.start(key)
    simulation.network.run(seconds=3)
    replica, looked = simulation.replica(0), 0
    obstacle = replica.tasks._obstacle

    def counting(client: bytes) -> str | None:
        nonlocal looked
        looked += 1
        return obstacle(client)

    monkeypatch.setattr(replica.tasks, "_obstacle", counting)
    ready = Ready(epoch=1, coordinator=0, roster=0, uploaded=0, wants_task=True)
    for number in range(100):
        replica.receive(simulation.client_key(number), ready, simulation.network.now)
    assert len(replica.tasks.scheduler.outstanding) == 2
    assert len(replica.tasks.waiting) == 98
    assert looked <= 110
