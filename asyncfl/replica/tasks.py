"""READY, FRONT, TASK, WAIT: signs of life and certified models for clients."""

from __future__ import annotations

from dataclasses import dataclass

from asyncfl.effects import Put, Table
from asyncfl.identity import verify
from asyncfl.inclusion import OVERDUE_FACTOR
from asyncfl.ledger import Link
from asyncfl.messages import Front, Leave, Ready, Task, Wait
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.models import Models
from asyncfl.replica.scheduler import Candidate, Scheduler, compute_deficit
from asyncfl.replica.uploads import Uploads

LEFT = b"left:"
"""Prefix of the keys of clients' LEAVE statements in `Table.META`."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A client that waits for the TASK of `epoch`, after its upload of epoch `uploaded`, since `since`."""

    epoch: int
    uploaded: int
    since: float


class Tasks:
    """Serves the clients that ask this replica to coordinate their epoch."""

    def __init__(self, context: Context, uploads: Uploads, models: Models) -> None:
        self.context = context
        self.uploads = uploads
        self.models = models
        self.asking: dict[bytes, Asking] = {}
        self.given: dict[bytes, tuple[int, float]] = {}
        """The last TASK's epoch, and when it was last sent."""
        self._pulled: dict[bytes, tuple[int, bytes]] = {}
        """The model that each client has asked for last, and the epoch of the TASK that it was for."""
        self._front: Front | None = None
        # A signature that never leaves this replica: nobody else can compute it.
        self.scheduler = Scheduler(context.parameters, context.sign("scheduler", b""))
        self.waiting: set[bytes] = set()
        """Clients that could be given a TASK but for the limit, when last looked."""

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Clients that had left before a restart."""
        for key in rows:
            if key.startswith(LEFT):
                self.context.inclusion.leave(key[len(LEFT) :])

    def receive_leave(self, client: bytes, message: Leave) -> None:
        """A client's signed statement that it takes part no more: kept, and nobody waits for it."""
        context = self.context
        if context.inclusion.has_left(client):
            return
        if not verify(client, Leave.KIND, context.federation.digest, message.body(), message.signature):
            context.notify("bad_signature", "warning", client=client.hex()[:12], message=Leave.KIND)
            return
        context.persist(Put(Table.META, LEFT + client, message.encode()))
        context.inclusion.leave(client)
        self.forget(client)
        context.notify("client_left", client=client.hex()[:12], epoch=message.epoch, uploads=message.uploads)

    def receive_ready(self, client: bytes, message: Ready) -> None:
        """Every replica answers with its front; the one that is asked also with TASK or WAIT."""
        context = self.context
        if context.inclusion.has_left(client):
            self.forget(client)
            self.scheduler.release(client)
            if client in context.inclusion.excluded:
                context.send(client, self.signed_front())
                context.send(
                    client, Wait(epoch=message.epoch, reason="the operator has excluded this client")
                )
            return
        presence = context.inclusion.heard(client, message.epoch, context.now)
        context.send(client, self.signed_front())
        if not message.wants_task or message.coordinator != context.index:
            self.asking.pop(client, None)
            if message.wants_task:
                self.scheduler.release(client)
            return
        asking = self.asking.get(client)
        if asking is None or asking.epoch != message.epoch:
            since = presence.since if presence.at == message.epoch else context.now
            self.asking[client] = Asking(message.epoch, message.uploaded, since)
            if self.scheduler.is_limited and self.scheduler.has_places(self._is_live):
                # Otherwise at the next tick: a READY must not cost a look at everybody who waits.
                self._serve_some()
        reason = self._serve(client)
        if reason is not None:
            context.send(client, Wait(epoch=message.epoch, reason=reason, queue=self._others(client)))

    def convict(self, party: bytes) -> None:
        """There is proof against somebody: a client takes part no more, whatever it says, and nobody waits for it."""
        if party not in self.context.federation.replica_index:
            self.context.inclusion.leave(party)
            self.forget(party)

    def forget(self, client: bytes) -> None:
        """The client is gone, or has left for good."""
        self.asking.pop(client, None)
        self._pulled.pop(client, None)

    def pulled(self, client: bytes, model: bytes) -> None:
        """A client asks for a model, or the rest of it."""
        if client in self.given:
            self._pulled[client] = (self.given[client][0], model)

    def models_in_use(self) -> set[bytes]:
        """Models that clients have begun to pull for a TASK that is neither over nor overdue."""
        context = self.context
        for client, (epoch, _) in list(self._pulled.items()):
            presence = context.inclusion.clients[client]
            if presence.at > epoch or presence.is_overdue(context.now) or self._is_uploaded(client, epoch):
                del self._pulled[client]
        return {model for _, model in self._pulled.values()}

    def signed_front(self) -> Front:
        """Signed once and sent to everybody, until something in it changes."""
        context, said, finished = self.context, self._front, self.models.finished is not None
        statement = context.exclusions.highest
        front, patience = context.inclusion.front, round(context.inclusion.patience.seconds * 1000)
        roster = context.rosters.highest
        if said is not None and (front, patience, roster, finished, statement) == (
            said.front, said.patience, said.roster, said.finished, said.statement,
        ):  # fmt: skip
            return said
        unsigned = Front(
            front=front, patience=patience, roster=roster, finished=finished, statement=statement,
            signature=bytes(64),
        )  # fmt: skip
        self._front = unsigned.model_copy(update={"signature": context.sign(Front.KIND, unsigned.body())})
        return self._front

    def _serve(self, client: bytes) -> str | None:
        """Send a TASK if there is one to give; else say why not."""
        obstacle = self._obstacle(client)
        if obstacle is not None:
            return obstacle
        context, epoch, latest = self.context, self.asking[client].epoch, self.models.latest
        assert latest is not None
        assert latest.certificate is not None
        if self.scheduler.is_limited and not self.scheduler.has_task(client, epoch):
            self.waiting.add(client)
            limit = context.parameters.concurrency
            return f"{self._others(client)} other clients wait too, and {limit} may train at a time"
        given = self.given.get(client)
        if given is not None and given[0] == epoch and context.now < given[1] + RESEND_SECONDS:
            return None
        self.given[client] = (epoch, context.now)
        context.inclusion.tasked(client, epoch, context.now)
        task = Task(
            epoch=epoch, certificate=latest.certificate, model_bytes=latest.size,
            settings=context.federation.schedule.settings_at(epoch),
        )  # fmt: skip
        context.send(client, task)
        return None

    def _obstacle(self, client: bytes) -> str | None:
        """Why this client could not be given a TASK now, were there a place for it."""
        context = self.context
        asking = self.asking[client]
        limit = context.inclusion.front + context.parameters.window
        if context.inclusion.has_left(client):
            return "it takes part no more"
        if asking.epoch > limit:
            return f"epoch {asking.epoch} is beyond front + window = {limit}"
        if not context.rosters.may_take_part(client, asking.epoch):
            number = context.rosters.at(asking.epoch).number
            return f"roster {number}, in force at epoch {asking.epoch}, does not list this client"
        reachable = len(context.connected_replicas())
        if reachable < context.parameters.quorum:
            # What would be trained now could not be opened before it expires, and its privacy cost is real.
            return f"{reachable} replicas can be reached, {context.parameters.quorum} are needed to open anything"
        latest = self.models.latest
        if latest is None or latest.certificate is None:
            return f"no model is certified yet: {context.parameters.certifiers} replicas must sign one"
        if latest.exclusion != context.exclusions.in_force:
            number = context.exclusions.highest
            return f"the model under the operator's exclusion {number} is not certified yet"
        if latest.finished is not None:
            return f"training is over: {latest.finished}"
        if not self._has_previous(client, asking, latest.head):
            return f"the upload of epoch {asking.uploaded} is not in a certified model yet"
        return None

    # limited concurrency

    def _others(self, client: bytes) -> int:
        """How many wait for a place beside this client."""
        return len(self.waiting - {client})

    def _serve_some(self) -> None:
        """Give the places that are free to some of those who wait."""
        context, scheduler = self.context, self.scheduler
        scheduler.expire(context.now, self._is_over)
        waiting = [
            (client, asking.epoch)
            for client, asking in self.asking.items()
            if not scheduler.has_task(client, asking.epoch) and self._obstacle(client) is None
        ]
        self.waiting = {client for client, _ in waiting}
        if not waiting or not scheduler.has_places(self._is_live):
            return
        chosen = scheduler.choose(self._candidates(waiting), self._is_live)
        for candidate in chosen:
            expires = context.now + OVERDUE_FACTOR * context.inclusion.patience.seconds
            scheduler.give(candidate.client, candidate.epoch, expires)
            self._serve(candidate.client)
            self.waiting.discard(candidate.client)

    def _candidates(self, waiting: list[tuple[bytes, int]]) -> list[Candidate]:
        context, window = self.context, self.context.parameters.window
        members = context.rosters.at(context.inclusion.front).members
        counts = [context.count(client) for client in members if self._is_live(client)]
        mean = sum(counts) / max(1, len(counts))
        return [
            Candidate(
                client,
                epoch,
                compute_deficit(context.count(client), mean, window),
                self._is_live(client),
                self.models.weight(client),
            )
            for client, epoch in waiting
        ]

    def _is_live(self, client: bytes) -> bool:
        return self.context.inclusion.is_live(client, self.context.now)

    def _is_over(self, client: bytes, epoch: int) -> bool:
        """Whether a TASK has brought its upload, here or elsewhere, or its client is silent."""
        context = self.context
        presence = context.inclusion.clients[client]
        if presence.at > epoch or context.now - presence.heard > presence.patience:
            return True
        return self._is_uploaded(client, epoch)

    def _is_uploaded(self, client: bytes, epoch: int) -> bool:
        """Whether the upload of an epoch is here, or in the ledger."""
        return (client, epoch) in self.uploads.accepted or (client, epoch) in self.context.ledger.included

    def _has_previous(self, client: bytes, asking: Asking, head: Link) -> bool:
        """Whether the model contains the client's last upload, or it has waited long enough for that."""
        context = self.context
        if not asking.uploaded or context.now - asking.since >= 2 * context.inclusion.patience.seconds:
            return True
        ledger = context.ledger
        name = ledger.included.get((client, asking.uploaded))
        return name is not None and head.contains(name, ledger.items[name].id.epoch)

    def tick(self) -> None:
        """Give TASKs that have become possible."""
        if self.scheduler.is_limited:
            self._serve_some()
        for client in list(self.asking):
            self._serve(client)
