"""READY until a TASK comes: whom to ask, for how long, and which TASK is taken."""

from __future__ import annotations

from collections.abc import Callable

from asyncfl.client.context import SEEN_ENTRIES, SEEN_STATEMENT, Context, State, put_integer
from asyncfl.client.membership import Membership
from asyncfl.effects import Fetch
from asyncfl.identity import verify
from asyncfl.inclusion import LAST_EPOCH
from asyncfl.messages import Certificate, Front, Leave, ModelVote, Ready, Task, Vote, Wait

TASK_PATIENCES = 3.0
"""How long a coordinator that answers may bring no TASK, in units of patience. It waits 2 itself for the
client's previous upload; with the same 2 here, both timers would end together and cells would fall apart."""
QUEUE_PATIENCES = 1.0
"""How much longer it may take for each client that waits for the same place (a training takes about half of it)."""
LONGEST_HEARTBEAT = 5.0
LOST_TASK_SECONDS = 0.5
"""How long a client rests after a TASK whose model did not come, or that it must refuse."""


class Asking:
    """Signs of life, and the way to a TASK."""

    def __init__(self, context: Context, membership: Membership, move: Callable[[int], None]) -> None:
        self.context = context
        self.membership = membership
        self.move = move
        self.fetching: bytes | None = None
        """The model on its way."""
        self.heartbeat_at = 0.0
        self._asked_at = 0.0
        self._asked_patience = 0.0
        self._queue_until = 0.0
        """Until when the coordinator's word that others come first is taken for a reason to wait."""
        self._acknowledged = False

    # asking

    def ask_from(self, place: int) -> None:
        """Ask the first replica in line from `place` on that can be reached; a proven liar if there is no other."""
        context = self.context
        context.place = next(context.reachable_from(place), place % len(context.line))
        self._asked_at = self.heartbeat_at = context.now
        self._asked_patience = context.fronts.patience
        self._queue_until = context.now
        self._acknowledged = False
        if context.state is State.ASKING and self.membership.may_ask:
            context.waiting_for = f"replica {context.coordinator} to answer READY({context.epoch})"

    def is_fetching_from(self, peer: bytes) -> bool:
        """Whether the model of a TASK is on its way from this replica."""
        if self.context.state is not State.TRAINING or self.fetching is None:
            return False
        return peer == self.context.federation.replica_keys[self.context.task_from]

    def lose_task(self, reason: str) -> None:
        """The model of a TASK did not come: ask for another."""
        context = self.context
        context.notify("task_lost", "warning", epoch=context.epoch, reason=reason)
        context.state, context.task, self.fetching = State.ASKING, None, None
        self._ask_another()

    def _ask_another(self) -> None:
        """After a TASK that was of no use. Not at once: replicas that give such TASKs must not set the pace."""
        if not self.membership.update():
            self.ask_from(self.context.place + 1)
        self.heartbeat_at = self.context.now + LOST_TASK_SECONDS

    def tick(self) -> None:
        context = self.context
        if context.state is State.ASKING and self.membership.may_ask:
            self._check_silence()
        if context.now >= self.heartbeat_at:
            self._say_ready()

    def _check_silence(self) -> None:
        """Turn to the next in line when READY is not acknowledged, or brings no TASK for too long."""
        context = self.context
        silent = context.now - self._asked_at
        if not self._acknowledged and silent > max(1.0, self._asked_patience / 5):
            reason = "READY was not acknowledged"
        elif self._is_overdue(silent) and not self._is_ahead():
            reason = "READY brought no TASK"
        else:
            return
        context.notify("next_in_line", epoch=context.epoch, replica=context.coordinator, reason=reason)
        self.ask_from(context.place + 1)

    def _is_overdue(self, silent: float) -> bool:
        """Whether READY has brought no TASK for too long, a queue taken into account."""
        return silent > TASK_PATIENCES * self._asked_patience and self.context.now > self._queue_until

    def _is_ahead(self) -> bool:
        """Whether waiting is right: this client is beyond the window of the front that n-t replicas report."""
        front = self.context.fronts.front
        return front is not None and self.context.epoch > front + self.context.parameters.window

    @property
    def _heartbeat(self) -> float:
        """Seconds between signs of life: three within what the least patient replica allows."""
        return min(LONGEST_HEARTBEAT, self.context.fronts.shortest_patience / 3)

    def _say_ready(self) -> None:
        context = self.context
        self.heartbeat_at = context.now + self._heartbeat
        if context.state is State.RETIRED:
            return
        if context.state is State.LEFT:
            self._say_leave()
            return
        message = Ready(
            epoch=min(context.epoch, LAST_EPOCH),
            coordinator=context.coordinator,
            roster=context.roster.number,
            uploaded=context.uploaded,
            wants_task=context.state is State.ASKING and self.membership.may_ask,
        )
        context.broadcast(message)

    def _say_leave(self) -> None:
        context = self.context
        unsigned = Leave(epoch=min(context.epoch, LAST_EPOCH), uploads=context.events, signature=bytes(64))
        signature = context.sign(Leave.KIND, unsigned.body())
        context.broadcast(unsigned.model_copy(update={"signature": signature}))

    # answers

    def receive_front(self, replica: int, message: Front) -> None:
        context = self.context
        if message != context.fronts.latest.get(replica):
            key = context.federation.replica_keys[replica]
            if not verify(key, Front.KIND, context.federation.digest, message.body(), message.signature):
                context.notify("bad_signature", "warning", replica=replica, message=Front.KIND)
                return
            enough_before = context.fronts.is_enough
            context.fronts.hear(replica, message)
            if context.fronts.is_enough and not enough_before:
                self.heartbeat_at = context.now
            self.heartbeat_at = min(self.heartbeat_at, context.now + self._heartbeat)
        if context.state is State.ASKING and replica == context.coordinator:
            self._acknowledged = True
        front = context.fronts.front
        if context.state is State.ASKING and front is not None and front > context.epoch:
            context.notify("moved_to_front", epoch=front, skipped=front - context.epoch)
            self.move(front)
        self.membership.heard(replica)

    def receive_wait(self, replica: int, message: Wait) -> None:
        context = self.context
        asked = context.state is State.ASKING and self.membership.may_ask and replica == context.coordinator
        if asked and message.epoch == context.epoch:
            self._acknowledged = True
            context.waiting_for = f"replica {replica}: {message.reason}"
            if message.queue:
                self._wait_in_queue(message.queue)

    def _wait_in_queue(self, others: int) -> None:
        """Others wait for the same place: have patience for as long as they may take.

        From each WAIT anew, but in all never longer than a queue of the whole roster takes: a liar's queue never
        ends. Leaving an honest queue is worse than waiting: the cell would fall apart over several coordinators.
        """
        context = self.context
        places = context.parameters.concurrency
        if places:
            roster = len(context.roster.members)
            longest = TASK_PATIENCES + QUEUE_PATIENCES * roster / places
            wait = TASK_PATIENCES + QUEUE_PATIENCES * min(others, roster) / places
            self._queue_until = min(
                self._asked_at + longest * self._asked_patience, context.now + wait * context.fronts.patience
            )

    def receive_task(self, replica: int, message: Task) -> None:
        """Only for the epoch this client said, from the replica it asked, with a certificate that holds."""
        context = self.context
        asked = context.state is State.ASKING and self.membership.may_ask and replica == context.coordinator
        if not asked or message.epoch != context.epoch:
            return
        certificate = message.certificate
        if not self._is_certified(certificate) or message.model_bytes != 4 * context.federation.dimension:
            context.notify("uncertified_model", "warning", replica=replica)
            self._ask_another()
            return
        if certificate.entries < context.seen_entries:
            context.notify(
                "stale_model", "warning", replica=replica,
                entries=certificate.entries, seen=context.seen_entries,
            )  # fmt: skip
            self._ask_another()
            return
        if certificate.statement < max(context.seen_statement, context.fronts.statement):
            context.notify(
                "model_without_exclusion", "warning", replica=replica,
                statement=certificate.statement, known=max(context.seen_statement, context.fronts.statement),
            )  # fmt: skip
            self._ask_another()
            return
        if differing := context.work.differences(replica, message.epoch, message.settings):
            context.notify(
                "settings_ignored", "warning", replica=replica, epoch=message.epoch, asked=differing
            )
        context.state, context.task, context.task_from = State.TRAINING, message, replica
        self.fetching = certificate.model
        context.waiting_for = f"the model from replica {replica}"
        if certificate.entries > context.seen_entries:
            context.seen_entries = certificate.entries
            context.persist(put_integer(SEEN_ENTRIES, context.seen_entries))
        if certificate.statement > context.seen_statement:
            context.seen_statement = certificate.statement
            context.persist(put_integer(SEEN_STATEMENT, context.seen_statement))
        peer = context.federation.replica_keys[replica]
        context.effects.append(Fetch(peer, certificate.model, message.model_bytes))

    def _is_certified(self, certificate: Certificate) -> bool:
        """t+1 signatures of distinct replicas, all valid."""
        docket, parameters = self.context.docket, self.context.parameters
        votes = certificate.votes
        signed = [vote for vote in votes if self._is_signed(certificate, vote)]
        for vote in signed:
            said = ModelVote(
                version=certificate.version, entries=certificate.entries, model=certificate.model,
                statement=certificate.statement, signature=vote.signature,
            )  # fmt: skip
            docket.suspect(docket.watch.model(vote.replica, said))
        replicas = {vote.replica for vote in votes}
        if len(replicas) != len(votes) or len(votes) < parameters.certifiers:
            return False
        return len(signed) == len(votes)

    def _is_signed(self, certificate: Certificate, vote: Vote) -> bool:
        federation = self.context.federation
        if vote.replica >= federation.parameters.replicas:
            return False
        key = federation.replica_keys[vote.replica]
        return verify(key, Certificate.KIND, federation.digest, certificate.body(), vote.signature)
