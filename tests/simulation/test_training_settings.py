"""Attack: a coordinator sends training settings that would make poisoners of honest clients, or stall them.

Replicas are not trusted and [training] is in no digest, so that a client trains as its own file says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from asyncfl.client.work import OWN, Work, normalised
from asyncfl.effects import Notify
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.replica import Replica
from asyncfl.schedule import Schedule
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.bench import Bench

OWN_SCHEDULE = Schedule(
    learning_rate=0.1,
    local_steps=20,
    batch_size=8,
    seconds=4.0,
    decay="step",
    decay_epochs=1,
    decay_factor=0.5,
)
ATTACK = Schedule(learning_rate=1e6, local_steps=1_000_000, batch_size=1, proximal=1e6, seconds=1e7)


@dataclass(frozen=True)
class Recording:
    """A training that only notes what it was told."""

    number: int
    seen: list[tuple[int, int, Settings]]

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        self.seen.append((self.number, epoch, settings))
        return TrainingResult(torch.full((100,), 0.01), 1, 0.0, 0.0)


def test_honest_clients_of_a_byzantine_coordinator_train_as_their_own_files_say() -> None:
    seen: list[tuple[int, int, Settings]] = []

    def make_replica(federation: Any, identity: Any, *rest: Any) -> Replica:
        if federation.replica_index[identity.public] == 0:
            federation = replace(federation, schedule=ATTACK)
        return Replica(federation, identity, *rest)

    simulation = Simulation(
        make_parameters(16, cell_size=4), 16, schedule=OWN_SCHEDULE, last_epoch=3,
        trainer=lambda number: Recording(number, seen), make_replica=make_replica,
    )  # fmt: skip
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=200)
    assert {(number, epoch) for number, epoch, _ in seen} == {(i, e) for i in range(16) for e in (1, 2, 3)}
    for _, epoch, settings in seen:
        assert settings == OWN_SCHEDULE.settings_at(epoch)
    told = [
        (node.name, event.fields["epoch"])
        for node in simulation.network.nodes.values()
        for _, event in node.events
        if event.event == "settings_ignored"
    ]
    assert told, "the attacker coordinated nobody: this test shows nothing"
    assert len(told) == len(set(told))
    assert {event.fields["replica"] for _, event in _ignored(simulation)} == {0}


def _ignored(simulation: Simulation) -> list[tuple[float, Notify]]:
    events = [entry for node in simulation.network.nodes.values() for entry in node.events]
    return [entry for entry in events if entry[1].event == "settings_ignored"]


@pytest.mark.parametrize("name", OWN)
def test_what_is_the_clients_own_is_reported_and_ignored(name: str) -> None:
    work, own = Work(OWN_SCHEDULE), OWN_SCHEDULE.settings_at(3)
    asked = own.model_copy(update={name: getattr(own, name) + 1})
    assert work.settings(3, asked) == own
    assert work.differences(2, 3, asked) == f"{name} {getattr(asked, name):g} (own {getattr(own, name):g})"
    assert work.differences(2, 3, asked) == "", "once for each replica and epoch"
    assert work.differences(1, 3, asked)
    assert work.differences(2, 4, asked)


def test_of_the_budget_the_smaller_counts_whoevers_it_is() -> None:
    for own, asked, least in ((0, 0, 0), (4, 0, 4), (0, 3, 3), (4, 3, 3), (3, 4, 3)):
        schedule = Schedule(learning_rate=0.1, seconds=float(own), most_steps=own)
        task = Schedule(learning_rate=0.1, seconds=float(asked), most_steps=asked).settings_at(1)
        found = Work(schedule).settings(1, task)
        assert (found.seconds, found.most_steps) == (least, least)
        assert Work(schedule).differences(0, 1, task) == "", "a budget is no difference"


def test_last_bits_of_a_learning_rate_are_no_difference() -> None:
    own = Schedule(learning_rate=0.1, decay="exponential", decay_epochs=7, decay_factor=0.9)
    asked = own.settings_at(5)
    other = asked.model_copy(update={"learning_rate": asked.learning_rate * (1 + 4e-16)})
    assert other != asked
    assert Work(own).differences(0, 5, other) == ""


def test_a_repeated_task_is_reported_once() -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 1)
    bench.wait(0.2)
    own = bench.federation.schedule.settings_at(1)
    bad, asked = own.model_copy(update={"learning_rate": 1e6}), bench.coordinator
    for _ in range(3):
        bench.task(asked, 1, bench.certificate(), bad)
    fetch = bench.fetches()[-1]
    bench.take(bench.client.fetched(fetch.peer, fetch.digest, bench.now))
    (job,) = [effect.job for effect in bench.effects if hasattr(effect, "job")]
    assert job.settings == own
    told = [e for e in bench.effects if isinstance(e, Notify) and e.event == "settings_ignored"]
    assert [(e.level, e.fields["replica"], e.fields["epoch"]) for e in told] == [("warning", asked, 1)]


def test_fewer_steps_scale_the_weights_and_leave_the_buffers() -> None:
    update = torch.tensor([1.0, -2.0, 3.0, -0.5])
    partial = TrainingResult(update, 9, 0.1, 0.1, steps=5, planned=20)
    assert normalised(partial, weights=3).tolist() == [4.0, -8.0, 12.0, -0.5]
    assert update.tolist() == [1.0, -2.0, 3.0, -0.5]
    least = replace(partial, steps=1)
    assert torch.equal(normalised(least, weights=3), normalised(partial, weights=3)), "4 is the limit"
    for steps, planned in ((20, 20), (0, 0), (0, 20), (21, 20)):
        whole = replace(partial, steps=steps, planned=planned)
        assert torch.equal(normalised(whole, weights=3), update)
