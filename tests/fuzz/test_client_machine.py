"""The real client machine among replicas that say anything: no crash, one upload of an epoch, its budget kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from asyncfl.client import Client
from asyncfl.client.context import State
from asyncfl.effects import Compute, DeleteBlob, Effect, Fetch, Notify, Persist, Put, Send, SendBlob, Table
from asyncfl.errors import UpdateError
from asyncfl.messages import (
    MESSAGE_TYPES,
    Certificate,
    Front,
    Leave,
    Manifest,
    Message,
    Pull,
    Ready,
    Refused,
    Stored,
    Task,
    Upload,
    Vote,
    decode_message,
    encode_message,
)
from asyncfl.model import TrainingResult
from asyncfl.simulation.deployment import sign_roster
from asyncfl.simulation.network import MemoryBlobs
from tests.fuzz.replica_world import FAR, FEDERATION, IDENTITIES, REPLICAS, SIMULATION
from tests.fuzz.shapes import SMALL, shaped, signed

REPLICA = st.integers(0, 3)
EPOCHS = st.sampled_from((1, 1, 1, 2, 3, 17, 1000, FAR))
KINDS = [kind for kind in MESSAGE_TYPES if kind.__name__ not in ("Chunk", "Missing")]
LIMIT = 4
"""Uploads that the client's budget allows."""
LIAR = 3


class Trainer:
    """Trains nothing, or fails, as its test says."""

    def __init__(self) -> None:
        self.diverges = False

    def train(self, model: bytes, settings: Any, epoch: int) -> TrainingResult:
        update = torch.full((FEDERATION.dimension,), float("nan") if self.diverges else 0.01)
        return TrainingResult(update, 1, 0.0, 0.0)


class AttackedClient(RuleBasedStateMachine):
    """Replica 3 lies; what needs t+1 or n-t signatures of others is said when all of them would say it."""

    @initialize(limited=st.booleans())
    def begin(self, limited: bool) -> None:
        self.limit = LIMIT if limited else None
        self.now, self.blobs, self.trainer = 50.0, MemoryBlobs(), Trainer()
        self.model = self.blobs.write(SIMULATION.initial)
        self.durable: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self.sent: dict[int, bytes] = {}
        """The only manifest that was ever sent of each epoch."""
        self.seen = 0
        self.epoch = 0
        self.left = False
        self.start()

    def start(self) -> None:
        self.fetches: dict[bytes, Fetch] = {}
        self.jobs: dict[tuple[Any, ...], Compute] = {}
        self.connected: set[bytes] = set()
        rows = {table: dict(found) for table, found in self.durable.items()}
        self.client = Client(FEDERATION, IDENTITIES[0], rows, trainer=self.trainer, upload_limit=self.limit)
        referenced = self.client.referenced_blobs()
        assert referenced <= set(self.blobs.data), "the upload on disk has no payload"
        self.take(self.client.start(self.now))

    # effects

    def take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Persist(writes):
                    for write in writes:
                        assert isinstance(write, Put)
                        self.durable[write.table][write.key] = write.value
                case Send(peer, message):
                    assert peer in self.connected
                    assert decode_message(encode_message(message)) == message, (
                        "what it says is no valid message"
                    )
                    self._check(message)
                case Fetch(_, name, _):
                    self.fetches[name] = effect
                case Compute(key, _):
                    assert key not in self.jobs, "one training is under way twice"
                    self.jobs[key] = effect
                case DeleteBlob(name):
                    if name != self.model and not self.client.needs(name):
                        self.blobs.data.pop(name, None)
                case SendBlob(_, name, _):
                    assert name in self.blobs.data, "an upload that is not on disk is offered"
                case Notify(event):
                    assert event.isidentifier()

    def _check(self, message: Message) -> None:
        match message:
            case Upload(manifest=manifest):
                epoch, name = manifest.core.epoch, manifest.digest()
                key = epoch.to_bytes(8, "big")
                assert key in self.durable[Table.PRIVACY], (
                    "an upload leaves before its privacy event is on disk"
                )
                assert Manifest.decode(self.durable[Table.META][b"pending-upload"]) == manifest
                assert self.sent.setdefault(epoch, name) == name, "two uploads of one epoch"
            case Ready():
                assert message.epoch >= self.epoch, "it goes back"
                assert not self.left, "it returns after it has left"
                self.epoch = message.epoch
            case Leave():
                self.left = True
            case _:
                return

    def hear(self, replica: int, message: Message) -> None:
        self.connect(replica)
        key = REPLICAS[replica].public
        self.take(self.client.receive(key, decode_message(encode_message(message)), self.now))

    # rules

    @rule(replica=REPLICA)
    def connect(self, replica: int) -> None:
        key = REPLICAS[replica].public
        if key not in self.connected:
            self.connected.add(key)
            self.take(self.client.connected(key, self.now))

    @rule(replica=REPLICA)
    def disconnect(self, replica: int) -> None:
        key = REPLICAS[replica].public
        if key in self.connected:
            self.connected.discard(key)
            self.take(self.client.disconnected(key, self.now))

    @rule(seconds=st.sampled_from((0.0, 0.1, 1.1, 11.0, 61.0, 3600.0, -0.5, -40.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.client.tick(self.now))

    @rule()
    def it_crashes_and_starts_again(self) -> None:
        self.start()

    @rule(
        epoch=EPOCHS,
        replicas=st.sets(REPLICA, min_size=1),
        finished=st.booleans(),
        roster=st.sampled_from((0, 0, 0, 1, FAR)),
    )
    def front(self, epoch: int, replicas: set[int], finished: bool, roster: int) -> None:
        for replica in sorted(replicas):
            message = Front(
                front=epoch,
                patience=1000,
                roster=roster,
                finished=finished and replica == LIAR,
                signature=bytes(64),
            )
            self.hear(replica, signed(message, REPLICAS[replica], FEDERATION.digest))

    @rule(entries=st.sampled_from((0, 0, 1, 2, 50)), honest=st.booleans())
    def task(self, entries: int, honest: bool) -> None:
        """From whom it asks, after fronts of everybody; certified, or by the liar alone."""
        self.front(1, {0, 1, 2, 3}, False, 0)
        unsigned = Certificate(version=bytes([entries]) * 32, entries=entries, model=self.model, votes=())
        signers = (0, 1) if honest else (LIAR,)
        votes = tuple(
            Vote(replica=j, signature=REPLICAS[j].sign(Certificate.KIND, FEDERATION.digest, unsigned.body()))
            for j in signers
        )
        epoch = self.client.epoch
        if epoch > FAR:
            return
        before = self.client.state
        message = Task(
            epoch=epoch, certificate=unsigned.model_copy(update={"votes": votes}),
            model_bytes=len(SIMULATION.initial), settings=FEDERATION.schedule.settings_at(min(epoch, 10**6)),
        )  # fmt: skip
        self.hear(self.client.context.coordinator, message)
        if before is State.ASKING and self.client.state is State.TRAINING:
            assert honest, "it trains on a model that nobody honest computed"
            assert entries >= self.seen, "it goes back to an older model"
            self.seen = entries

    @rule(well=st.booleans())
    def the_model_comes(self, well: bool) -> None:
        for name, fetch in list(self.fetches.items()):
            del self.fetches[name]
            if well and name in self.blobs.data:
                self.take(self.client.fetched(fetch.peer, name, self.now))
            else:
                self.take(self.client.fetch_failed(fetch.peer, name, "gone", self.now))

    @rule(diverges=st.sampled_from((False, False, False, True)))
    def training_ends(self, diverges: bool) -> None:
        self.trainer.diverges = diverges
        for key in list(self.jobs):
            job = self.jobs.pop(key).job
            try:
                result = job.run(self.blobs)
            except UpdateError as error:
                self.take(self.client.compute_failed(key, error, self.now))
            else:
                self.take(self.client.computed(key, result, self.now))

    @rule(entries=st.sampled_from((0, 50)))
    def a_whole_epoch(self, entries: int) -> None:
        """So that runs get far."""
        self.task(max(entries, self.seen), True)
        self.the_model_comes(True)
        self.training_ends(False)
        self.stored(0, True)

    @rule(replica=REPLICA, right=st.booleans())
    def stored(self, replica: int, right: bool) -> None:
        upload = self.client.context.upload
        if upload is not None:
            name = upload.digest() if right else bytes(32)
            self.hear(replica, Stored(epoch=upload.core.epoch, manifest=name))

    @rule(replica=REPLICA)
    def refused(self, replica: int) -> None:
        upload = self.client.context.upload
        if upload is not None:
            self.hear(replica, Refused(epoch=upload.core.epoch, manifest=upload.digest(), reason="no"))

    @rule(replica=REPLICA)
    def pull(self, replica: int) -> None:
        upload = self.client.context.upload
        if upload is not None:
            self.hear(replica, Pull(blob=upload.core.upload, offset=0))

    @rule(start=st.integers(1, 4), listed=st.booleans(), replica=REPLICA)
    def roster(self, start: int, listed: bool, replica: int) -> None:
        held = self.client.context.rosters
        members = tuple(sorted(identity.public for identity in IDENTITIES[0 if listed else 1 :]))
        epoch = held.held[-1].start_epoch + start
        signed_roster = sign_roster(
            SIMULATION.operator_id, FEDERATION.digest, held.highest + 1, epoch, members
        )
        self.hear(replica, signed_roster.statement)

    @rule(kind=st.sampled_from(KINDS), data=st.data(), sign=st.booleans())
    def anything(self, kind: Any, data: st.DataObject, sign: bool) -> None:
        known: dict[str, list[Any]] = {"epoch": [min(FAR, self.client.epoch)], "model": [self.model]}
        message = data.draw(shaped(kind, known))
        self.hear(LIAR, signed(message, REPLICAS[LIAR], FEDERATION.digest) if sign else message)

    # what holds at every moment

    @invariant()
    def its_status_can_be_asked_for(self) -> None:
        if hasattr(self, "client"):
            status = self.client.status(self.now)
            assert status["waiting_for"].isprintable()
            assert isinstance(status["epoch"], int)

    @invariant()
    def its_budget_is_kept(self) -> None:
        if hasattr(self, "client") and self.limit is not None:
            assert len(self.durable[Table.PRIVACY]) <= self.limit

    @invariant()
    def its_state_is_bounded(self) -> None:
        if hasattr(self, "client"):
            assert len(self.client.context.fronts.latest) <= len(REPLICAS)
            assert len(self.jobs) <= 1 + len(self.durable[Table.EPOCHS]) + len(self.sent) + 16

    def teardown(self) -> None:
        """From its rows an equal client comes."""
        if not hasattr(self, "client"):
            return
        rows = {table: dict(found) for table, found in self.durable.items()}
        after = Client(FEDERATION, IDENTITIES[0], rows, trainer=self.trainer, upload_limit=self.limit)
        before = self.client.context
        assert after.context.upload == before.upload
        assert after.context.seen_entries == before.seen_entries
        assert after.context.epoch == before.epoch or before.upload is None
        assert after.context.rosters.highest == before.rosters.highest


TestAttackedClient = AttackedClient.TestCase
TestAttackedClient.settings = settings(SMALL, max_examples=25, stateful_step_count=25, derandomize=True)


@pytest.mark.slow
def test_for_long() -> None:
    """Other choices every time; a failure is shrunk."""
    every = settings(SMALL, max_examples=400, stateful_step_count=60, phases=(Phase.generate, Phase.shrink))
    run_state_machine_as_test(AttackedClient, settings=every)
