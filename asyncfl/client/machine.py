"""The client's state machine: takes events, hands them to its parts, returns effects.

Theory of operation. For each epoch p, in turn:

    ASKING      READY(p) to every replica, again and again: it is also the sign of life. The first replica in
                the line of p's cell is asked for the TASK; where it cannot be reached or keeps silent, the
                next. -> TRAINING on a TASK whose certificate holds
    TRAINING    model pulled, trained, masked. The exact upload bytes and the privacy event are on disk before
                the first of them leaves. -> UPLOADING
    UPLOADING   UPLOAD to the coordinator, and on silence to the next in line: always the same bytes
                -> ASKING for p+1 on STORED
    FINISHED    t+1 of n-t replicas say that training is over: signs of life only. -> ASKING when they no longer do
    RESTING     after the last epoch: signs of life only, so that others do not wait for this client
    LEFT        the privacy budget allows no further upload: LEAVE, signed, instead of READY, for good
    RETIRED     no roster lists this client any more: nothing is sent

`p` only grows, and only this client moves it: by one after an upload, to the front that n-t replicas report, or
to the start of the roster that lists it. After a crash it resumes where it was: an upload on disk is sent again,
never made again.

    asking      READY -> FRONT, WAIT, TASK
    membership  which roster, so which cell, an epoch has
    uploading   training, UPLOAD -> STORED
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncfl.client.asking import Asking
from asyncfl.client.context import EPOCH, PENDING, UPLOADED, Context, State, put_integer
from asyncfl.client.jobs import Trained, Trainer
from asyncfl.client.membership import Membership
from asyncfl.client.uploading import TRAIN, Uploading
from asyncfl.effects import DeleteBlob, Effect, Put, Table
from asyncfl.errors import LocalProtocolError, UpdateError
from asyncfl.evidence import COMPARE, JUDGE
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.inclusion import LAST_EPOCH
from asyncfl.messages import (
    Convictions,
    EvidenceRequest,
    Exhibit,
    Expired,
    Front,
    Message,
    Pull,
    Refused,
    RosterRequest,
    RosterStatement,
    Stored,
    Task,
    Wait,
)


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
        self.last_epoch = last_epoch
        self.upload_limit = upload_limit
        self.refused: dict[str, Any] | None = None
        """`count` of the updates since the start that its own training made unusable; `epoch`, `reason` of the last."""
        context = self.context = Context(federation, identity, durable)
        self.membership = Membership(context, self._move)
        self.asking = Asking(context, self.membership, self._move)
        self.membership.ask_from = self.asking.ask_from
        self.membership.rest_if_done = self._rest_if_done
        self.uploading = Uploading(context, trainer, self._move)
        context.docket.convict = self._convict
        self._from_anybody: dict[type[Any], Callable[[bytes, Any], None]] = {
            Convictions: context.docket.receive_convictions,
            EvidenceRequest: context.docket.receive_request,
            Exhibit: context.docket.receive_exhibit,
        }
        self._handlers: dict[type[Any], Callable[[int, Any], None]] = {
            Front: self._receive_front,
            Wait: self.asking.receive_wait,
            Task: self.asking.receive_task,
            Stored: self.uploading.receive_stored,
            Refused: self.uploading.receive_refused,
            Expired: self.uploading.receive_expired,
            RosterStatement: self.membership.receive_statement,
            RosterRequest: self.membership.receive_request,
        }

    @property
    def state(self) -> State:
        return self.context.state

    @property
    def epoch(self) -> int:
        return self.context.epoch

    # events

    def accepts(self, peer: bytes) -> bool:
        """Replicas only."""
        return peer in self.context.federation.replica_index

    def start(self, now: float) -> list[Effect]:
        """Once, after construction."""
        self.context.now = now
        self.membership.start()
        self._rest_if_done()
        self.asking.ask_from(0)
        if self.context.upload is not None:
            self.uploading.resume()
        return self.tick(now)

    def connected(self, peer: bytes, now: float) -> list[Effect]:
        """An authenticated channel to a replica is up."""
        self.context.now = now
        self.context.connected.add(peer)
        self.asking.heartbeat_at = now
        self.uploading.connected(peer)
        self.context.docket.connected(peer)
        return self.tick(now)

    def disconnected(self, peer: bytes, now: float) -> list[Effect]:
        """The channel to a replica is gone; if it was the one asked, ask the next."""
        context = self.context
        context.now = now
        context.connected.discard(peer)
        if context.state is State.ASKING and peer == context.coordinator_key:
            self.asking.ask_from(context.place)
        elif self.asking.is_fetching_from(peer):
            self.asking.lose_task("the coordinator is gone before its model arrived")
        self.uploading.disconnected(peer)
        return self.tick(now)

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        """A valid message of a replica; anything out of place is dropped."""
        context = self.context
        context.now = now
        replica = context.federation.replica_index.get(peer)
        if replica is None:
            return context.take_effects()
        if isinstance(message, Pull):
            self.uploading.receive_pull(peer, message)
        elif handler := self._handlers.get(type(message)):
            handler(replica, message)
        elif by_peer := self._from_anybody.get(type(message)):
            by_peer(peer, message)
        else:
            context.notify("message_out_of_role", "warning", type=type(message).__name__)
        return context.take_effects()

    def tick(self, now: float) -> list[Effect]:
        """Time passes. Call at least ten times a second."""
        self.context.now = now
        self.asking.tick()
        self.uploading.tick()
        self.context.docket.tick()
        return self.context.take_effects()

    def computed(self, key: tuple[Any, ...], result: Any, now: float) -> list[Effect]:
        """Training is done, or evidence judged."""
        context = self.context
        context.now = now
        context.compute_done(key)
        kind, name = key
        if kind in (JUDGE, COMPARE):
            context.docket.computed(kind, name, result)
        if key == (TRAIN, context.epoch) and context.state is State.TRAINING and isinstance(result, Trained):
            self.uploading.trained(result)
        return context.take_effects()

    def compute_failed(self, key: tuple[Any, ...], error: Exception, now: float) -> list[Effect]:
        """Training failed. An unusable update costs its epoch; anything else is the user's to see."""
        context = self.context
        context.now = now
        context.compute_done(key)
        if key[0] in (JUDGE, COMPARE):
            raise LocalProtocolError(f"job {key[0]} failed: {error}") from error
        if key != (TRAIN, context.epoch):
            return context.take_effects()
        if not isinstance(error, UpdateError):
            raise error
        count = 1 if self.refused is None else self.refused["count"] + 1
        self.refused = {"count": count, "epoch": context.epoch, "reason": str(error)}
        context.notify("update_refused", "error", epoch=context.epoch, reason=str(error))
        self._move(context.epoch + 1)
        return context.take_effects()

    def fetched(self, peer: bytes, digest: bytes, now: float) -> list[Effect]:
        """The model of the TASK is here: train."""
        self.context.now = now
        if self.context.state is State.TRAINING and digest == self.asking.fetching:
            self.asking.fetching = None
            self.uploading.train(digest)
        return self.context.take_effects()

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str, now: float) -> list[Effect]:
        """The model did not come: ask for a TASK again."""
        self.context.now = now
        if self.context.state is State.TRAINING and digest == self.asking.fetching:
            self.asking.lose_task(reason)
        return self.context.take_effects()

    def referenced_blobs(self) -> set[bytes]:
        """Every blob that the durable state refers to; the shell may delete others before `start`."""
        upload = self.context.upload
        return {upload.core.upload} if upload is not None else set()

    def needs(self, blob: bytes) -> bool:
        """Whether a blob is the upload, or the model that is fetched or trained from."""
        task = self.context.task
        return blob in self.referenced_blobs() or (task is not None and task.certificate.model == blob)

    def status(self, now: float) -> dict[str, Any]:
        """Plain values for status pages."""
        context = self.context
        context.now = now
        return {
            "state": context.state.value,
            "epoch": context.epoch,
            "sent": context.sent,
            "done": context.state in (State.FINISHED, State.RESTING, State.LEFT, State.RETIRED),
            "waiting_for": context.waiting_for,
            "refused": self.refused,
            "seen_entries": context.seen_entries,
            "connected": len(context.connected),
            "roster": context.roster.number,
            "evidence": context.docket.status(),
        }

    # moving

    def _move(self, epoch: int) -> None:
        """Go to `epoch` (always forward), on disk before it is said."""
        context = self.context
        sent = context.upload
        context.epoch, context.upload, context.task = epoch, None, None
        context.persist(
            put_integer(EPOCH, epoch),
            put_integer(UPLOADED, context.uploaded),
            Put(Table.META, PENDING, b""),
        )
        if sent is not None:
            context.effects.append(DeleteBlob(sent.core.upload))
        context.state = State.ASKING
        self._rest_if_done()
        if not self.membership.update():
            self.asking.ask_from(0)

    def _convict(self, party: bytes) -> None:
        """There is proof against a replica: do not wait for a TASK of its any longer."""
        context = self.context
        if context.state is State.ASKING and party == context.coordinator_key:
            self.asking.ask_from(context.place)

    def _receive_front(self, replica: int, message: Front) -> None:
        """Stop asking while enough replicas say that training is over; go on when they no longer do."""
        self.asking.receive_front(replica, message)
        context = self.context
        if context.state is State.ASKING and context.fronts.finished:
            context.state = State.FINISHED
            context.waiting_for = "nothing: the replicas say that training is over"
            context.notify("finished", epoch=context.epoch, uploads=context.sent)
        elif context.state is State.FINISHED and not context.fronts.finished:
            context.notify("goes_on", epoch=context.epoch)
            context.state = State.ASKING
            self._rest_if_done()
            if not self.membership.update():
                self.asking.ask_from(0)

    def _rest_if_done(self) -> None:
        """Rest after the last epoch, leave at the end of the budget."""
        context = self.context
        if context.upload is not None:
            return
        if context.epoch > (LAST_EPOCH if self.last_epoch is None else self.last_epoch):
            context.state = State.RESTING
            context.waiting_for = "nothing: it took part in every epoch asked for"
            if self.refused is not None:
                context.waiting_for = (
                    "nothing: it is past the last epoch asked for; updates that were not sent: "
                    f"{self.refused['count']}, because {self.refused['reason']}"
                )
        elif self.upload_limit is not None and context.events >= self.upload_limit:
            context.state = State.LEFT
            context.waiting_for = f"nothing: its privacy budget is spent, after {context.events} uploads"
            context.notify("budget_spent", "warning", epoch=context.epoch, uploads=context.events)
