"""What a client believes: attack (v), whoever chooses a client's epoch chooses its cell; and certificates."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncfl.client.uploading import TRAIN
from asyncfl.effects import Persist, Send, Table
from asyncfl.errors import UpdateError
from asyncfl.messages import (
    Certificate,
    Ready,
    Stored,
    Upload,
    Vote,
    Wait,
)
from tests.simulation.bench import Bench

Change = Callable[[Certificate], Certificate]


def test_t_liars_cannot_move_a_client() -> None:
    bench = Bench()
    bench.front(0, 1000)
    bench.front(1, 1)
    bench.front(2, 1)
    bench.front(0, 2000)
    assert bench.client.epoch == 1


def test_a_front_below_the_quorum_of_answers_moves_nobody() -> None:
    bench = Bench()
    bench.front(0, 9)
    bench.front(1, 9)
    assert bench.client.epoch == 1


def test_a_client_moves_exactly_to_the_front_that_t_plus_1_report() -> None:
    bench = Bench()
    for replica, front in ((0, 1000), (1, 7), (2, 5)):
        bench.front(replica, front)
    assert bench.client.epoch == 7
    assert bench.make().epoch == 7, "the move was not on disk"


def test_a_client_never_moves_back() -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 7)
    for replica in range(4):
        bench.front(replica, 3)
    assert bench.client.epoch == 7


def test_a_front_that_another_replica_signed_is_ignored() -> None:
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 9, forged=True)
    assert bench.client.epoch == 1
    assert not bench.client.context.fronts.latest


@pytest.mark.parametrize("epoch", [2, 3, 1000])
def test_a_task_for_any_other_epoch_is_refused(epoch: int) -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 1)
    bench.task(bench.coordinator, epoch, bench.certificate())
    assert not bench.fetches()
    assert bench.client.epoch == 1


def test_a_task_from_a_replica_that_was_not_asked_is_ignored() -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 1)
    bench.task((bench.coordinator + 1) % 4, 1, bench.certificate())
    assert not bench.fetches()


def changed(**update: Any) -> Change:
    return lambda certificate: certificate.model_copy(update=update)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: c.model_copy(update={"votes": c.votes[:1]}), id="t signatures"),
        pytest.param(
            lambda c: c.model_copy(update={"votes": (c.votes[0], c.votes[0])}), id="one signer twice"
        ),
        pytest.param(
            lambda c: c.model_copy(
                update={"votes": (c.votes[0], Vote(replica=2, signature=c.votes[1].signature))}
            ),
            id="another's signature",
        ),
        pytest.param(changed(model=bytes(32)), id="another model"),
        pytest.param(changed(version=bytes(range(32))), id="another version"),
        pytest.param(changed(entries=5), id="another count"),
        pytest.param(changed(votes=()), id="none"),
        pytest.param(
            lambda c: c.model_copy(
                update={"votes": tuple(Vote(replica=j, signature=bytes(64)) for j in (14, 15))}
            ),
            id="replicas that do not exist",
        ),
    ],
)
def test_a_client_never_trains_on_an_uncertified_model(change: Change) -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 1)
    asked = bench.coordinator
    bench.task(asked, 1, change(bench.certificate()))
    assert not bench.fetches()
    assert bench.client.context.coordinator != asked


def test_a_version_with_fewer_entries_than_seen_is_refused_also_after_a_restart() -> None:
    bench = Bench()
    for replica in range(3):
        bench.front(replica, 1)
    bench.task(bench.coordinator, 1, bench.certificate(entries=9))
    assert len(bench.fetches()) == 1
    bench.client = bench.make()
    for replica in range(3):
        bench.front(replica, 1)
    bench.wait(0.2)
    bench.task(bench.coordinator, 1, bench.certificate(entries=8))
    assert len(bench.fetches()) == 1


def test_the_same_bytes_go_out_after_a_crash_and_to_the_next_in_line() -> None:
    bench = Bench()
    bench.give_task()
    first = bench.last(Upload)
    target = bench.client.context.coordinator
    bench.client = bench.make()
    for replica in range(3):
        bench.front(replica, 1)
    bench.wait(0.3)
    assert bench.last(Upload) == first
    assert bench.client.context.coordinator == target
    bench.wait(25)
    assert bench.last(Upload) == first
    peers = {e.peer for e in bench.effects if isinstance(e, Send) and isinstance(e.message, Upload)}
    assert len(peers) == 4


def test_the_privacy_event_and_the_upload_are_written_together_before_anything_is_sent() -> None:
    bench = Bench()
    bench.give_task()
    kinds = [
        "persist" if isinstance(e, Persist) and any(w.table is Table.PRIVACY for w in e.writes) else "upload"
        for e in bench.effects
        if (isinstance(e, Persist) and any(w.table is Table.PRIVACY for w in e.writes))
        or (isinstance(e, Send) and isinstance(e.message, Upload))
    ]
    assert kinds[0] == "persist"
    assert "upload" in kinds
    together = next(e for e in bench.effects if isinstance(e, Persist) and len(e.writes) == 3)
    assert {write.table for write in together.writes} == {Table.PRIVACY, Table.META}


def test_a_front_moves_nobody_while_an_upload_waits_to_be_stored() -> None:
    bench = Bench()
    bench.give_task()
    for replica in range(4):
        bench.front(replica, 50)
    assert bench.client.epoch == 1
    bench.hear(
        bench.client.context.coordinator, Stored(epoch=1, manifest=bench.last(Upload).manifest.digest())
    )
    assert bench.client.epoch == 2
    assert bench.client.context.uploaded == 1
    bench.front(0, 50)
    assert bench.client.epoch == 50


def test_after_the_last_epoch_a_client_rests_but_lives() -> None:
    bench = Bench(last_epoch=1)
    bench.give_task()
    bench.hear(
        bench.client.context.coordinator, Stored(epoch=1, manifest=bench.last(Upload).manifest.digest())
    )
    bench.wait(1)
    assert bench.client.status(bench.now)["done"]
    ready = bench.last(Ready)
    assert (ready.epoch, ready.wants_task, ready.uploaded) == (2, False, 1)


def test_a_silent_coordinator_is_left_for_the_next_in_line() -> None:
    bench = Bench()
    first = bench.client.context.coordinator
    for replica in range(4):
        if replica != first:
            bench.front(replica, 1)
    bench.wait(2.5)
    assert bench.client.context.coordinator != first


def test_wait_keeps_a_client_that_is_beyond_the_window() -> None:
    bench = Bench()
    for replica in range(4):
        bench.front(replica, 9)
    bench.client.context.epoch = 9 + bench.federation.parameters.window + 1
    bench.client.asking.ask_from(0)
    asked = bench.client.context.coordinator
    for _ in range(20):
        bench.front(asked, 9)
        bench.hear(asked, Wait(epoch=bench.client.epoch, reason="beyond"))
        bench.wait(1)
    assert bench.client.context.coordinator == asked


def queue_for(bench: Bench, seconds: float, queue: int) -> int:
    """The coordinator answers every second with a queue; which replica is asked after `seconds`."""
    for replica in range(4):
        bench.front(replica, 1)
    asked = int(bench.client.context.coordinator)
    while bench.now < seconds and bench.client.context.coordinator == asked:
        bench.hear(asked, Wait(epoch=1, reason="others come first", queue=queue))
        bench.wait(1)
    return asked


def test_a_client_waits_in_a_queue_as_long_as_those_before_it_may_take() -> None:
    bench = Bench(concurrency=1)
    asked = queue_for(bench, 8, queue=5)
    assert bench.client.context.coordinator == asked, "3 patiences of 1 s are long over"
    bench.wait(5)
    assert bench.client.context.coordinator == asked, "a queue of 5 takes 5 patiences more"
    bench.wait(4)
    assert bench.client.context.coordinator != asked, "nothing was heard of the queue since"


def test_a_queue_that_never_ends_is_left_after_that_of_the_whole_roster() -> None:
    bench = Bench(concurrency=1)
    asked = queue_for(bench, 60, queue=10**6)
    assert bench.client.context.coordinator != asked
    assert 18 < bench.now < 22  # 3 + 16 patiences


def test_without_limited_tasks_nobody_believes_in_a_queue() -> None:
    bench = Bench()
    asked = queue_for(bench, 60, queue=10**6)
    assert bench.client.context.coordinator != asked
    assert bench.now < 5


def test_a_client_whose_training_diverged_says_so_and_is_not_told_as_having_taken_part() -> None:
    bench = Bench(last_epoch=1)
    assert bench.client.status(0.0)["refused"] is None
    bench.take(bench.client.compute_failed((TRAIN, 1), UpdateError("training diverged"), 0.0))
    status = bench.client.status(0.0)
    assert status["refused"] == {"count": 1, "epoch": 1, "reason": "training diverged"}
    assert status["state"] == "resting"
    assert status["waiting_for"].endswith("not sent: 1, because training diverged")
