"""The client's state machine.

Theory of operation. For each epoch p, in turn:

    ASKING      READY(p) to every replica, again and again: it is also the sign of life. The first replica in
                the line of p's cell is asked for the TASK; where it cannot be reached or keeps silent, the
                next. -> TRAINING on a TASK whose certificate holds
    TRAINING    model pulled, trained, masked. The exact upload bytes and the privacy event are on disk before
                the first of them leaves. -> UPLOADING
    UPLOADING   UPLOAD to the coordinator, and on silence to the next in line: always the same bytes
                -> ASKING for p+1 on STORED
    LEFT        the privacy budget allows no further upload: LEAVE, signed, instead of READY, for good
    RESTING     after the last epoch: signs of life only, so that others do not wait for this client

`p` only grows, and only this client moves it: by one after an upload, or to the front that n-t replicas
report. After a crash it resumes where it was: an upload on disk is sent again, never made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.client.fronts import Fronts
from asyncfl.client.jobs import TrainAndProtect, Trained, Trainer
from asyncfl.client.work import Work
from asyncfl.effects import (
    Compute,
    DeleteBlob,
    Effect,
    Fetch,
    Notify,
    Persist,
    Put,
    Send,
    SendBlob,
    Table,
)
from asyncfl.errors import ConfigurationError, UpdateError
from asyncfl.federation import Federation
from asyncfl.identity import Identity, verify
from asyncfl.messages import (
    Certificate,
    Expired,
    Front,
    Leave,
    Manifest,
    Message,
    Missing,
    Pull,
    Ready,
    Refused,
    Stored,
    Task,
    Upload,
    Wait,
)
from asyncfl.rosters import Rosters
from asyncfl.wire import pack, unpack

EPOCH = b"epoch"
SEEN_ENTRIES = b"seen-entries"
PENDING = b"pending-upload"
UPLOADED = b"uploaded"
TRAIN = "train"
TASK_PATIENCES = 3.0
"""How long a coordinator that answers may bring no TASK, in units of patience. It waits 2 itself for the
client's previous upload; with the same 2 here, both timers would end together and cells would fall apart."""
QUEUE_PATIENCES = 1.0
"""How much longer it may take for each client that waits for the same place (a training takes about half of it)."""
LONGEST_HEARTBEAT = 5.0
LOST_TASK_SECONDS = 0.5
"""How long a client rests after a TASK whose model did not come."""
RECONNECT_SECONDS = 1.0
"""After a restart with an upload on disk: how long its coordinator has to come within reach."""


class State(StrEnum):
    ASKING = "asking"
    TRAINING = "training"
    UPLOADING = "uploading"
    RESTING = "resting"
    LEFT = "left"


class Client:
    """One client. `last_epoch`: take part up to and including this epoch, then rest (None: for ever).

    `upload_limit`: privacy events that the client's budget allows in all, those of earlier runs included (None: no
    budget). At the limit the client leaves, whatever replicas say; an upload that is written already still goes out.
    """

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        durable: Mapping[Table, Mapping[bytes, bytes]],
        *,
        trainer: Trainer,
        last_epoch: int | None = None,
        upload_limit: int | None = None,
    ) -> None:
        if identity.public not in federation.rosters[0].position:
            raise ConfigurationError("this identity is not enrolled in the deployment")
        self.federation = federation
        self.parameters = federation.parameters
        self.identity = identity
        self.trainer = trainer
        self.last_epoch = last_epoch
        self.upload_limit = upload_limit
        self.events = len(durable.get(Table.PRIVACY, {}))
        self.rosters = Rosters(federation)
        self.assignment = Assignment(federation)
        self.fronts = Fronts(federation.parameters)
        self.work = Work(federation.schedule)
        self.now = 0.0
        self._effects: list[Effect] = []
        self._connected: set[bytes] = set()
        meta = durable.get(Table.META, {})
        self.epoch = _integer(meta.get(EPOCH), 1)
        self.seen_entries = _integer(meta.get(SEEN_ENTRIES), 0)
        self.uploaded = _integer(meta.get(UPLOADED), 0)
        self.sent = len(durable.get(Table.EPOCHS, {}))
        pending = meta.get(PENDING)
        self.upload = Manifest.decode(pending) if pending else None
        self.state = State.UPLOADING if self.upload else State.ASKING
        self._place = 0
        """How far down the line of this epoch's cell this client is."""
        self._asked_at = 0.0
        self._asked_patience = 0.0
        self._queue_until = 0.0
        """Until when the coordinator's word that others come first is taken for a reason to wait."""
        self._acknowledged = False
        self._heartbeat_at = 0.0
        self._upload_at = 0.0
        self._next_place = 0
        """Where in the line the upload goes next, once `_upload_at` has come."""
        self._task: Task | None = None
        self._task_from = 0
        self._fetching: bytes | None = None
        self._refused: set[int] = set()
        self._waiting_for = ""
        self._handlers: dict[type[Any], Callable[[int, Any], None]] = {
            Front: self._receive_front,
            Wait: self._receive_wait,
            Task: self._receive_task,
            Stored: self._receive_stored,
            Refused: self._receive_refused,
            Expired: self._receive_expired,
        }

    # events

    def accepts(self, peer: bytes) -> bool:
        """Replicas only."""
        return peer in self.federation.replica_index

    def start(self, now: float) -> list[Effect]:
        """Once, after construction."""
        self.now = now
        self._rest_if_done()
        self._ask_from(0)
        if self.upload is not None:
            self._place = self._next_place = self._line.index(self.upload.core.coordinator)
            self._upload_at = now + RECONNECT_SECONDS
            self._waiting_for = f"replica {self._target}, to send it the upload on disk again"
        return self.tick(now)

    def connected(self, peer: bytes, now: float) -> list[Effect]:
        """An authenticated channel to a replica is up."""
        self.now = now
        self._connected.add(peer)
        self._heartbeat_at = now
        if self.state is State.UPLOADING and peer == self.federation.replica_keys[self._target]:
            self._next_place, self._upload_at = self._place, now
        return self.tick(now)

    def disconnected(self, peer: bytes, now: float) -> list[Effect]:
        """The channel to a replica is gone; if it was the one asked, ask the next."""
        self.now = now
        self._connected.discard(peer)
        replica = self.federation.replica_index.get(peer)
        if self.state is State.ASKING and replica == self._coordinator:
            self._ask_from(self._place)
        elif self.state is State.TRAINING and self._fetching is not None and replica == self._task_from:
            self._ask_again("the coordinator is gone before its model arrived")
        elif self.state is State.UPLOADING and replica == self._target:
            self._upload_at = now
        return self.tick(now)

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        """A valid message of a replica; anything out of place is dropped."""
        self.now = now
        replica = self.federation.replica_index.get(peer)
        if replica is None:
            return self._take()
        if isinstance(message, Pull):
            self._receive_pull(peer, message)
        elif handler := self._handlers.get(type(message)):
            handler(replica, message)
        else:
            self._notify("message_out_of_role", "warning", type=type(message).__name__)
        return self._take()

    def tick(self, now: float) -> list[Effect]:
        """Time passes. Call at least ten times a second."""
        self.now = now
        if self.state is State.ASKING:
            self._check_silence()
        if now >= self._heartbeat_at:
            self._say_ready()
        if self.state is State.UPLOADING and now >= self._upload_at:
            self._send_upload()
        return self._take()

    def computed(self, key: tuple[Any, ...], result: Any, now: float) -> list[Effect]:
        """Training is done: the upload is on disk before a byte of it leaves."""
        self.now = now
        if key == (TRAIN, self.epoch) and self.state is State.TRAINING and isinstance(result, Trained):
            self._trained(result)
        return self._take()

    def compute_failed(self, key: tuple[Any, ...], error: Exception, now: float) -> list[Effect]:
        """Training failed. An unusable update costs its epoch; anything else is the user's to see."""
        self.now = now
        if key != (TRAIN, self.epoch):
            return self._take()
        if not isinstance(error, UpdateError):
            raise error
        self._notify("update_refused", "error", epoch=self.epoch, reason=str(error))
        self._move(self.epoch + 1)
        return self._take()

    def fetched(self, peer: bytes, digest: bytes, now: float) -> list[Effect]:
        """The model of the TASK is here: train."""
        self.now = now
        if self.state is State.TRAINING and digest == self._fetching and self._task is not None:
            self._fetching = None
            self._waiting_for = "local training"
            roster = self.rosters.at(self.epoch)
            context = masking.UploadContext(
                epoch=self.epoch,
                cell=self._cell,
                coordinator=self._task_from,
                roster=roster.number,
                roster_digest=roster.digest,
                base_version=self._task.certificate.version,
            )
            settings = self.work.settings(self.epoch, self._task.settings)
            job = TrainAndProtect(digest, self.trainer, settings, context, self.identity, self.federation)
            self._effects.append(Compute((TRAIN, self.epoch), job))
        return self._take()

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str, now: float) -> list[Effect]:
        """The model did not come: ask for a TASK again."""
        self.now = now
        if self.state is State.TRAINING and digest == self._fetching:
            self._ask_again(reason)
        return self._take()

    def referenced_blobs(self) -> set[bytes]:
        """Every blob that the durable state refers to; the shell may delete others before `start`."""
        return {self.upload.core.upload} if self.upload is not None else set()

    def status(self, now: float) -> dict[str, Any]:
        """Plain values for status pages."""
        self.now = now
        return {
            "state": self.state.value,
            "epoch": self.epoch,
            "sent": self.sent,
            "done": self.state in (State.RESTING, State.LEFT),
            "waiting_for": self._waiting_for,
            "seen_entries": self.seen_entries,
            "connected": len(self._connected),
        }

    # asking

    @property
    def _cell(self) -> int:
        return self.assignment.cell_of(self.identity.public, self.rosters.at(self.epoch), self.epoch)

    @property
    def _line(self) -> tuple[int, ...]:
        return self.assignment.line(self._cell)

    @property
    def _coordinator(self) -> int:
        return self._line[self._place]

    def _ask_from(self, place: int) -> None:
        """Ask the first replica in line from `place` on that can be reached."""
        line = self._line
        for offset in range(len(line)):
            candidate = (place + offset) % len(line)
            if self.federation.replica_keys[line[candidate]] in self._connected:
                self._place = candidate
                break
        else:
            self._place = place % len(line)
        self._asked_at = self._heartbeat_at = self.now
        self._asked_patience = self.fronts.patience
        self._queue_until = self.now
        self._acknowledged = False
        if self.state is State.ASKING:
            self._waiting_for = f"replica {self._coordinator} to answer READY({self.epoch})"

    def _ask_again(self, reason: str) -> None:
        self._notify("task_lost", "warning", epoch=self.epoch, reason=reason)
        self.state, self._task, self._fetching = State.ASKING, None, None
        self._ask_from(self._place + 1)
        # Not at once: a replica that gives TASKs without models must not set the pace.
        self._heartbeat_at = self.now + LOST_TASK_SECONDS

    def _check_silence(self) -> None:
        """Turn to the next in line when READY is not acknowledged, or brings no TASK for too long."""
        silent = self.now - self._asked_at
        if not self._acknowledged and silent > max(1.0, self._asked_patience / 5):
            reason = "READY was not acknowledged"
        elif self._is_overdue(silent) and not self._is_ahead():
            reason = "READY brought no TASK"
        else:
            return
        self._notify("next_in_line", epoch=self.epoch, replica=self._coordinator, reason=reason)
        self._ask_from(self._place + 1)

    def _is_overdue(self, silent: float) -> bool:
        """Whether READY has brought no TASK for too long, a queue taken into account."""
        return silent > TASK_PATIENCES * self._asked_patience and self.now > self._queue_until

    def _is_ahead(self) -> bool:
        """Whether waiting is right: this client is beyond the window of the front that n-t replicas report."""
        front = self.fronts.front
        return front is not None and self.epoch > front + self.parameters.window

    @property
    def _heartbeat(self) -> float:
        """Seconds between signs of life: three within what the least patient replica allows."""
        return min(LONGEST_HEARTBEAT, self.fronts.shortest_patience / 3)

    def _say_ready(self) -> None:
        self._heartbeat_at = self.now + self._heartbeat
        if self.state is State.LEFT:
            self._say_leave()
            return
        message = Ready(
            epoch=self.epoch,
            coordinator=self._coordinator,
            roster=self.rosters.at(self.epoch).number,
            uploaded=self.uploaded,
            wants_task=self.state is State.ASKING and self.fronts.is_enough,
        )
        for key in self.federation.replica_keys:
            self._send(key, message)

    def _say_leave(self) -> None:
        unsigned = Leave(epoch=self.epoch, uploads=self.events, signature=bytes(64))
        signature = self.identity.sign(Leave.KIND, self.federation.digest, unsigned.body())
        for key in self.federation.replica_keys:
            self._send(key, unsigned.model_copy(update={"signature": signature}))

    def _receive_front(self, replica: int, message: Front) -> None:
        known = self.fronts.latest.get(replica)
        if message != known:
            key = self.federation.replica_keys[replica]
            if not verify(key, Front.KIND, self.federation.digest, message.body(), message.signature):
                self._notify("bad_signature", "warning", replica=replica, message=Front.KIND)
                return
            enough_before = self.fronts.is_enough
            self.fronts.hear(replica, message)
            if self.fronts.is_enough and not enough_before:
                self._heartbeat_at = self.now
            self._heartbeat_at = min(self._heartbeat_at, self.now + self._heartbeat)
        if self.state is State.ASKING and replica == self._coordinator:
            self._acknowledged = True
        front = self.fronts.front
        if self.state is State.ASKING and front is not None and front > self.epoch:
            self._notify("moved_to_front", epoch=front, skipped=front - self.epoch)
            self._move(front)

    def _receive_wait(self, replica: int, message: Wait) -> None:
        if self.state is State.ASKING and replica == self._coordinator and message.epoch == self.epoch:
            self._acknowledged = True
            self._waiting_for = f"replica {replica}: {message.reason}"
            if message.queue:
                self._wait_in_queue(message.queue)

    def _wait_in_queue(self, others: int) -> None:
        """Others wait for the same place: have patience for as long as they may take.

        From each WAIT anew, but in all never longer than a queue of the whole roster takes: a liar's queue never
        ends. Leaving an honest queue is worse than waiting: the cell would fall apart over several coordinators.
        """
        places = self.parameters.concurrency
        if places:
            roster = len(self.rosters.at(self.epoch).members)
            longest = TASK_PATIENCES + QUEUE_PATIENCES * roster / places
            wait = TASK_PATIENCES + QUEUE_PATIENCES * min(others, roster) / places
            self._queue_until = min(
                self._asked_at + longest * self._asked_patience, self.now + wait * self.fronts.patience
            )

    def _receive_task(self, replica: int, message: Task) -> None:
        """Only for the epoch this client said, from the replica it asked, with a certificate that holds."""
        if self.state is not State.ASKING or replica != self._coordinator or message.epoch != self.epoch:
            return
        certificate = message.certificate
        if not self._is_certified(certificate) or message.model_bytes != 4 * self.federation.dimension:
            self._notify("uncertified_model", "error", replica=replica)
            self._ask_from(self._place + 1)
            return
        if certificate.entries < self.seen_entries:
            self._notify(
                "stale_model", "warning", replica=replica, entries=certificate.entries, seen=self.seen_entries
            )
            self._ask_from(self._place + 1)
            return
        if differing := self.work.differences(replica, message.epoch, message.settings):
            self._notify("settings_ignored", "warning", replica=replica, epoch=message.epoch, asked=differing)
        self.state, self._task, self._task_from = State.TRAINING, message, replica
        self._fetching = certificate.model
        self._waiting_for = f"the model from replica {replica}"
        if certificate.entries > self.seen_entries:
            self.seen_entries = certificate.entries
            self._persist_integers((SEEN_ENTRIES, self.seen_entries))
        peer = self.federation.replica_keys[replica]
        self._effects.append(Fetch(peer, certificate.model, message.model_bytes))

    def _is_certified(self, certificate: Certificate) -> bool:
        """t+1 signatures of distinct replicas, all valid."""
        votes, n = certificate.votes, self.parameters.replicas
        replicas = {vote.replica for vote in votes}
        if len(replicas) != len(votes) or len(votes) < self.parameters.certifiers or max(replicas) >= n:
            return False
        body = certificate.body()
        return all(
            verify(
                self.federation.replica_keys[vote.replica], Certificate.KIND, self.federation.digest, body,
                vote.signature,
            )
            for vote in votes
        )  # fmt: skip

    # uploading

    def _trained(self, result: Trained) -> None:
        assert self._task is not None
        self.upload, self.state, self._refused = result.manifest, State.UPLOADING, set()
        self.events += 1
        event = pack((self.epoch, self.parameters.noise_multiplier, self.parameters.min_group))
        self._effects.append(
            Persist(
                (
                    Put(Table.PRIVACY, self.epoch.to_bytes(8, "big"), event),
                    Put(Table.META, PENDING, result.manifest.encode()),
                    Put(Table.META, EPOCH, pack(self.epoch)),
                )
            )
        )
        self._effects.append(DeleteBlob(self._task.certificate.model))
        self._task = None
        self._place = self._line.index(result.manifest.core.coordinator)
        self._waiting_for = f"replica {self._target} to store the upload of epoch {self.epoch}"
        if result.zeroed:
            self._notify("update_zeroed", "warning", epoch=self.epoch)
        self._notify("trained", epoch=self.epoch, **result.facts)
        self._next_place = self._place
        self._send_upload()

    @property
    def _target(self) -> int:
        return self._line[self._place]

    def _send_upload(self) -> None:
        """No STORED in time: the same bytes go to the next replica in line that can be reached."""
        if self.upload is None:
            return
        line = self._line
        for offset in range(len(line)):
            place = (self._next_place + offset) % len(line)
            peer = self.federation.replica_keys[line[place]]
            if peer in self._connected and line[place] not in self._refused:
                self._place = place
                self._send(peer, Upload(manifest=self.upload))
                break
        self._waiting_for = f"replica {self._target} to store the upload of epoch {self.epoch}"
        self._next_place = self._place + 1
        self._upload_at = self.now + 2 * self.fronts.patience

    def _receive_pull(self, peer: bytes, message: Pull) -> None:
        if self.upload is not None and message.blob == self.upload.core.upload:
            self._effects.append(SendBlob(peer, message.blob, message.offset))
        else:
            self._send(peer, Missing(blob=message.blob))

    def _receive_stored(self, replica: int, message: Stored) -> None:
        if self.upload is None or message.manifest != self.upload.digest():
            return
        self.sent += 1
        self.uploaded = self.upload.core.epoch
        self._effects.append(
            Persist((Put(Table.EPOCHS, self.uploaded.to_bytes(8, "big"), message.manifest),))
        )
        self._move(self.upload.core.epoch + 1)

    def _receive_refused(self, replica: int, message: Refused) -> None:
        """More than t refusals: one of them honest, so this upload is hopeless and the epoch lost."""
        if self.upload is None or message.manifest != self.upload.digest():
            return
        self._notify("upload_refused", "error", replica=replica, epoch=message.epoch, reason=message.reason)
        self._refused.add(replica)
        if len(self._refused) > self.parameters.byzantine:
            self._move(self.upload.core.epoch + 1)
        elif replica == self._target:
            self._send_upload()

    def _receive_expired(self, replica: int, message: Expired) -> None:
        self._notify("upload_expired", "warning", replica=replica, epoch=message.epoch)

    # moving

    def _move(self, epoch: int) -> None:
        """Go to `epoch` (always forward), on disk before it is said."""
        sent = self.upload
        self.epoch, self.upload, self._task = epoch, None, None
        self._effects.append(
            Persist(
                (
                    Put(Table.META, EPOCH, pack(epoch)),
                    Put(Table.META, UPLOADED, pack(self.uploaded)),
                    Put(Table.META, PENDING, b""),
                )
            )
        )
        if sent is not None:
            self._effects.append(DeleteBlob(sent.core.upload))
        self.state = State.ASKING
        self._rest_if_done()
        self._ask_from(0)

    def _rest_if_done(self) -> None:
        """Rest after the last epoch, leave at the end of the budget."""
        if self.last_epoch is not None and self.epoch > self.last_epoch and self.upload is None:
            self.state = State.RESTING
            self._waiting_for = "nothing: it took part in every epoch asked for"
        elif self.upload_limit is not None and self.events >= self.upload_limit and self.upload is None:
            self.state = State.LEFT
            self._waiting_for = f"nothing: its privacy budget is spent, after {self.events} uploads"
            self._notify("budget_spent", "warning", epoch=self.epoch, uploads=self.events)

    # glue

    def _send(self, peer: bytes, message: Message) -> None:
        if peer in self._connected:
            self._effects.append(Send(peer, message))

    def _persist_integers(self, *values: tuple[bytes, int]) -> None:
        self._effects.append(Persist(tuple(Put(Table.META, key, pack(value)) for key, value in values)))

    def _notify(self, event: str, level: str = "info", **fields: Any) -> None:
        self._effects.append(Notify(event, fields, level))

    def _take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


def _integer(value: bytes | None, default: int) -> int:
    return default if value is None else int(unpack(value))
