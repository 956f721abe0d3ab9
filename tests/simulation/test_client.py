"""What a client believes: attack (v), whoever chooses a client's epoch chooses its cell; and certificates."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncfl.client import Client
from asyncfl.client.context import State
from asyncfl.effects import Effect, Fetch, Persist, Put, Send, Table
from asyncfl.identity import Identity
from asyncfl.messages import (
    Certificate,
    Front,
    Message,
    ModelVote,
    Ready,
    Settings,
    Stored,
    Task,
    Upload,
    Vote,
    Wait,
)
from asyncfl.simulation import Simulation, StillTrainer
from asyncfl.simulation.network import MemoryBlobs
from tests.core.builders import make_parameters

Change = Callable[[Certificate], Certificate]


class Bench:
    """One client, and the replicas' keys to say anything to it."""

    def __init__(
        self,
        replicas: int = 4,
        byzantine: int = 1,
        last_epoch: int | None = None,
        upload_limit: int | None = None,
        concurrency: int = 0,
    ) -> None:
        parameters = make_parameters(
            16, replicas=replicas, byzantine=byzantine, cell_size=4, min_group=3, concurrency=concurrency
        )
        self.simulation = Simulation(parameters, 16)
        self.federation = self.simulation.federation
        self.now, self.blobs = 0.0, MemoryBlobs()
        self.durable: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self.effects: list[Effect] = []
        self.last_epoch, self.upload_limit = last_epoch, upload_limit
        self.client = self.make()

    @property
    def identity(self) -> Identity:
        return self.simulation.client_ids[0]

    def make(self) -> Client:
        trainer = StillTrainer(0, self.federation.dimension)
        client = Client(
            self.federation,
            self.identity,
            self.durable,
            trainer=trainer,
            last_epoch=self.last_epoch,
            upload_limit=self.upload_limit,
        )
        self.take(client.start(self.now))
        for key in self.federation.replica_keys:
            self.take(client.connected(key, self.now))
        return client

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                for write in effect.writes:
                    assert isinstance(write, Put)
                    self.durable[write.table][write.key] = write.value
            if hasattr(effect, "job"):
                result = effect.job.run(self.blobs)
                self.effects.append(effect)
                self.take(self.client.computed(effect.key, result, self.now))  # type: ignore[union-attr]
            else:
                self.effects.append(effect)

    def hear(self, replica: int, message: Message) -> None:
        self.take(self.client.receive(self.federation.replica_keys[replica], message, self.now))

    def sign(self, replica: int, kind: str, body: bytes) -> bytes:
        return self.simulation.replica_ids[replica].sign(kind, self.federation.digest, body)

    def front(
        self,
        replica: int,
        epoch: int,
        *,
        forged: bool = False,
        patience: int = 1000,
        finished: bool = False,
        statement: int = 0,
    ) -> None:
        message = Front(
            front=epoch,
            patience=patience,
            roster=0,
            finished=finished,
            statement=statement,
            signature=bytes(64),
        )
        signer = (replica + 1) % self.federation.parameters.replicas if forged else replica
        signature = self.sign(signer, Front.KIND, message.body())
        self.hear(replica, message.model_copy(update={"signature": signature}))

    def certificate(
        self, signers: tuple[int, ...] = (0, 1), entries: int = 0, statement: int = 0
    ) -> Certificate:
        model = self.blobs.write(self.simulation.initial)
        version = bytes([entries, statement]) * 16
        unsigned = Certificate(version=version, entries=entries, model=model, votes=(), statement=statement)
        votes = tuple(
            Vote(replica=j, signature=self.sign(j, ModelVote.KIND, unsigned.body())) for j in signers
        )
        return unsigned.model_copy(update={"votes": votes})

    def task(
        self, replica: int, epoch: int, certificate: Certificate, settings: Settings | None = None
    ) -> None:
        size = len(self.simulation.initial)
        wanted = settings or self.federation.schedule.settings_at(epoch)
        self.hear(replica, Task(epoch=epoch, certificate=certificate, model_bytes=size, settings=wanted))

    @property
    def coordinator(self) -> int:
        return self.last(Ready).coordinator

    def last(self, kind: type[Any]) -> Any:
        return next(
            e.message for e in reversed(self.effects) if isinstance(e, Send) and isinstance(e.message, kind)
        )

    def fetches(self) -> list[Fetch]:
        return [effect for effect in self.effects if isinstance(effect, Fetch)]

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            self.take(self.client.tick(self.now))

    def give_task(self) -> None:
        """A proper TASK, up to the upload."""
        for replica in range(3):
            self.front(replica, 1)
        self.wait(0.2)
        self.task(self.coordinator, self.client.epoch, self.certificate())
        fetch = self.fetches()[-1]
        self.take(self.client.fetched(fetch.peer, fetch.digest, self.now))


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
    bench.wait(0.2)
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
