"""What a client believes of the end of training, and of what the operator took out of the model."""

import pytest

from asyncfl.client.asking import LOST_TASK_SECONDS
from asyncfl.client.context import State
from asyncfl.effects import Send
from asyncfl.messages import (
    Ready,
    Stored,
    Upload,
)
from tests.simulation.bench import Bench


def test_a_client_stops_asking_when_more_than_t_of_n_t_replicas_say_that_training_is_over() -> None:
    bench = Bench()
    bench.front(0, 1, finished=True)
    bench.front(1, 1, finished=True)
    assert bench.client.state is State.ASKING, "two answers are not n-t"
    bench.front(2, 1)
    assert bench.client.state is State.FINISHED
    assert bench.client.status(bench.now)["done"]
    bench.wait(6)
    assert not bench.last(Ready).wants_task
    assert bench.client.epoch == 1


def test_one_liar_neither_ends_nor_prolongs_a_training() -> None:
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 1, finished=replica == 3)
    assert bench.client.state is State.ASKING
    for replica in range(4):
        bench.front(replica, 2, finished=replica != 3)
    assert bench.client.state is State.FINISHED


def test_a_client_goes_on_when_training_is_not_over_after_all() -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 1, finished=True)
    assert bench.client.state is State.FINISHED
    for replica in range(3):
        bench.front(replica, 3)
    bench.wait(0.2)
    assert bench.client.state is State.ASKING
    assert bench.client.epoch == 3
    assert bench.last(Ready).wants_task


def test_an_upload_under_way_when_training_is_over_is_sent_all_the_same() -> None:
    bench = Bench()
    bench.give_task()
    for replica in range(3):
        bench.front(replica, 2, finished=True)
    assert bench.client.state is State.UPLOADING
    bench.hear(
        bench.coordinator,
        Stored(epoch=1, manifest=bench.last(Upload).manifest.digest()),
    )
    bench.front(0, 3, finished=True)
    assert bench.client.state is State.FINISHED


# what the operator took out of the model


def test_a_model_without_an_exclusion_that_an_honest_replica_holds_is_refused() -> None:
    """t + 1 say that there is a statement: a coordinator that ignores it, or is behind, gives no TASK."""
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 1, statement=2 if replica in (0, 1) else 0)
    bench.wait(0.2)
    asked = bench.coordinator
    bench.task(asked, 1, bench.certificate(statement=1))
    assert not bench.fetches()
    bench.wait(LOST_TASK_SECONDS + 0.2)
    assert bench.coordinator != asked
    bench.task(bench.coordinator, 1, bench.certificate(statement=2))
    assert len(bench.fetches()) == 1
    assert bench.make().context.seen_statement == 2, "it would forget on a restart"


def test_t_liars_cannot_invent_an_exclusion() -> None:
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 1, statement=2**31 - 1 if replica == 0 else 0)
    bench.wait(0.2)
    bench.task(bench.coordinator, 1, bench.certificate())
    assert len(bench.fetches()) == 1


def test_a_client_never_trains_on_a_model_of_an_earlier_statement_than_it_has_seen() -> None:
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 1)
    bench.wait(0.2)
    bench.task(bench.coordinator, 1, bench.certificate(statement=1))
    assert len(bench.fetches()) == 1
    bench.make()
    for replica in range(4):
        bench.front(replica, 1)
    bench.wait(0.2)
    bench.task(bench.coordinator, 1, bench.certificate(entries=5))
    assert len(bench.fetches()) == 1


@pytest.mark.parametrize("why", ["without the exclusion", "with fewer entries", "uncertified"])
def test_tasks_that_a_client_refuses_do_not_set_its_pace(why: str) -> None:
    """Replicas that have not heard of the exclusion yet, or lie, answer every READY at once with such a TASK."""
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 1, statement=1 if why == "without the exclusion" else 0)
    bench.client.context.seen_entries = 5 if why == "with fewer entries" else 0
    task = bench.certificate(signers=(0,) if why == "uncertified" else (0, 1))
    began, asked = len(bench.effects), 0
    for _ in range(100):
        ready = [
            e.message for e in bench.effects[began:] if isinstance(e, Send) and isinstance(e.message, Ready)
        ]
        began = len(bench.effects)
        if ready and ready[-1].wants_task:
            asked += 1
            bench.task(ready[-1].coordinator, 1, task)
        bench.wait(0.05)
    assert not bench.fetches()
    assert asked >= 4, "it gave up"
    assert asked <= 1 + 10 / LOST_TASK_SECONDS
