"""The replica's state machine: takes events, hands them to its parts, returns effects.

Theory of operation. An upload passes through these parts, each its own module:

    uploads        UPLOAD / RELAY -> payload pulled -> verified -> SHARE_OK   (one per client and epoch)
    coordination   n-t SHARE_OKs for enough of a cell -> LOCK                 (only the coordinator)
    locks          LOCK -> LOCKED                                             (each id and upload once)
    opening        n-t LOCKED -> REVEAL -> SHARE_SUM -> the group's sum       (everybody)
    items          ledger item, ATTEST; t+1 attestations certify              (everybody)
    gossip         VIEW: replicas pull the items they lack
    models         model(version), MODEL_VOTE; t+1 votes certify a model
    tasks          READY -> FRONT, TASK, WAIT
    rosters        who takes part from which epoch on: the operator's statements
    exclusions     what the model leaves out: the operator's statements

Whoever is found to contradict itself on the way is proven a liar (`asyncfl.evidence.Docket`), and avoided from then on.

Nothing here touches a socket, a file or a clock. Every part repeats what is unanswered, so that any message
may be lost; all durable state is written by `Persist` effects before anything that depends on it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncfl.digest import content_digest
from asyncfl.durable import explaining_rows
from asyncfl.effects import Effect, SendBlob, Table
from asyncfl.errors import (
    BlobMissing,
    ConfigurationError,
    InvalidItem,
    LocalProtocolError,
    OpeningError,
    StorageError,
)
from asyncfl.evidence import COMPARE, JUDGE
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.messages import (
    Attest,
    CertifiedItem,
    Convictions,
    Entry,
    EvidenceRequest,
    ExclusionRequest,
    ExclusionStatement,
    Exhibit,
    Front,
    Item,
    ItemRequest,
    Leave,
    Lock,
    Locked,
    LockRefused,
    ManifestRequest,
    Message,
    Missing,
    ModelVote,
    Pull,
    Ready,
    Refused,
    Relay,
    Reveal,
    RosterRequest,
    RosterStatement,
    Rows,
    RowsRequest,
    ShareBad,
    ShareOk,
    ShareSum,
    TakenOver,
    Upload,
    View,
)
from asyncfl.replica.context import Context
from asyncfl.replica.coordination import OWN, Coordination
from asyncfl.replica.exclusions import ExclusionExchange
from asyncfl.replica.gossip import Gossip
from asyncfl.replica.items import Items
from asyncfl.replica.jobs import Opened
from asyncfl.replica.locks import CHECK, Locks
from asyncfl.replica.models import FOLD, Models
from asyncfl.replica.opening import OPEN, SUM, Opening
from asyncfl.replica.rosters import RosterExchange
from asyncfl.replica.status import describe
from asyncfl.replica.tasks import Tasks
from asyncfl.replica.uploads import VERIFY, Uploads

Durable = Mapping[Table, Mapping[bytes, bytes]]


class Replica:
    """One aggregator. Peers are 32-byte public keys; `now` is seconds of any monotonic clock.

    `clock_offset` added to that makes seconds since 1970, for what is kept of certified versions.
    """

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        durable: Durable,
        initial_model: bytes,
        *,
        clock_offset: float = 0.0,
    ) -> None:
        if content_digest(initial_model) != federation.initial_model:
            raise ConfigurationError("the initial model's digest is not the one in the deployment file")
        context = self.context = Context(federation, identity, clock_offset)
        self.uploads = Uploads(context)
        self.locks = Locks(context, self.uploads)
        self.items = Items(context, self.uploads, self.locks, self._entered)
        self.opening = Opening(context, self.uploads, self.locks, self.items)
        self.coordination = Coordination(context, self.uploads, self.locks, self.opening)
        self.gossip = Gossip(context, self.items)
        self.models = Models(context, self.gossip, initial_model)
        self.tasks = Tasks(context, self.uploads, self.models)
        self.rosters = RosterExchange(context, self.tasks.signed_front, self.uploads.rosters_changed)
        self.exclusions = ExclusionExchange(context, self.tasks.signed_front)
        self.uploads.is_needed = self.needs
        self.locks.is_taken = self.coordination.was_taken
        self.models.in_use = self.tasks.models_in_use
        context.docket.convict = self.tasks.convict
        self._load(durable)
        self._from_replica: dict[type[Any], Callable[[int, Any], object]] = {
            Relay: lambda j, m: self.uploads.receive_relay(
                j, m, asked_for=self.opening.wants(m.manifest.digest())
            ),
            ManifestRequest: self._receive_manifest_request,
            ShareOk: self.uploads.receive_verdict,
            ShareBad: self.uploads.receive_verdict,
            Refused: self.uploads.receive_refused,
            Lock: self.locks.receive_lock,
            Locked: self.coordination.receive_locked,
            LockRefused: self.coordination.receive_refused,
            TakenOver: self.coordination.receive_taken_over,
            Reveal: self.opening.receive_reveal,
            ShareSum: self.opening.receive_sum,
            Entry: self.opening.receive_entry,
            Attest: self.items.receive_attest,
            CertifiedItem: self.items.receive_certified,
            View: self._receive_view,
            RowsRequest: self.gossip.receive_rows_request,
            Rows: self.gossip.receive_rows,
            ItemRequest: self.items.receive_request,
            ModelVote: self.models.receive_vote,
            Front: self.locks.receive_front,
        }
        self._from_client: dict[type[Any], Callable[[bytes, Any], object]] = {
            Ready: self.tasks.receive_ready,
            Leave: self.tasks.receive_leave,
            Upload: self.uploads.receive_upload,
        }
        self._from_anybody: dict[type[Any], Callable[[bytes, Any], object]] = {
            RosterRequest: lambda peer, m: self.rosters.receive_request(peer, m.after),
            RosterStatement: self.rosters.receive_statement,
            ExclusionRequest: lambda peer, m: self.exclusions.receive_request(peer, m.after),
            ExclusionStatement: self.exclusions.receive_statement,
            Convictions: context.docket.receive_convictions,
            EvidenceRequest: context.docket.receive_request,
            Exhibit: context.docket.receive_exhibit,
        }
        self._parts = (
            self.rosters, self.exclusions, self.uploads, self.locks, self.opening, self.items,
            self.coordination, self.gossip,
        )  # fmt: skip

    def _load(self, durable: Durable) -> None:
        with explaining_rows():
            self._load_rows(durable)

    def _load_rows(self, durable: Durable) -> None:
        tables = {table: dict(durable.get(table, {})) for table in Table}
        self.rosters.load(tables[Table.ROSTERS])
        self.context.docket.load(tables[Table.EVIDENCE])
        self.exclusions.load(tables[Table.EXCLUSIONS])
        self.items.load(tables[Table.ITEMS])
        self.locks.table.load(tables[Table.LOCKS])
        self.uploads.load(tables[Table.MANIFESTS], tables[Table.SHARES], tables[Table.SEEN])
        for record in self.uploads.records.values():
            record.pinned = record.key in self.locks.table.by_upload
        groups = tables[Table.GROUPS]
        self.opening.load({k: v for k, v in groups.items() if not k.startswith(OWN)})
        self.coordination.load({k: v for k, v in groups.items() if k.startswith(OWN)})
        self.models.load(tables[Table.MODELS], tables[Table.CERTIFICATES])
        self.tasks.load(tables[Table.META])

    # events

    def accepts(self, peer: bytes) -> bool:
        """Replicas, the operator, and clients of any roster held."""
        context = self.context
        if peer in context.federation.replica_index or peer == context.federation.operator:
            return True
        return peer in context.rosters.clients

    def start(self, now: float) -> list[Effect]:
        """Once, after construction."""
        self.context.now = self.context.started = now
        self.context.take_effects()  # writes repeated while loading are on disk already
        # For an entry of epoch e an honest replica vouched, whose front was at least e - window.
        self.context.inclusion.resume(self.context.ledger.last_epoch - self.context.parameters.window, now)
        self.rosters.start()
        self.items.finish_cleanup()
        return self.tick(now)

    def connected(self, peer: bytes, now: float) -> list[Effect]:
        """An authenticated channel to `peer` is up."""
        context = self.context
        context.now = now
        context.connected.add(peer)
        replica = context.federation.replica_index.get(peer)
        if replica is not None:
            context.unreachable_since.pop(replica, None)
            for part in (*self._parts, self.models):
                if hasattr(part, "replica_connected"):
                    part.replica_connected(replica)
        context.docket.connected(peer)
        context.retry_fetches()
        return self._settle()

    def disconnected(self, peer: bytes, now: float) -> list[Effect]:
        """The channel to `peer` is gone."""
        context = self.context
        context.now = now
        context.connected.discard(peer)
        replica = context.federation.replica_index.get(peer)
        if replica is not None:
            context.unreachable_since.setdefault(replica, now)
        self.tasks.forget(peer)
        return self._settle()

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        """A valid message of an authenticated peer. Messages out of its role are dropped."""
        context = self.context
        context.now = now
        replica = context.federation.replica_index.get(peer)
        if isinstance(message, Pull):
            self._receive_pull(peer, replica, message)
        elif replica is not None and (by_replica := self._from_replica.get(type(message))):
            by_replica(replica, message)
        elif peer in context.rosters.clients and (by_client := self._from_client.get(type(message))):
            by_client(peer, message)
        elif self.accepts(peer) and (by_anybody := self._from_anybody.get(type(message))):
            by_anybody(peer, message)
        else:
            context.notify("message_out_of_role", "warning", type=type(message).__name__)
        return self._settle()

    def tick(self, now: float) -> list[Effect]:
        """Time passes. Call at least ten times a second."""
        context = self.context
        context.now = now
        context.inclusion.update(now)
        context.retry_fetches()
        for part in (
            self.rosters,
            self.exclusions,
            self.uploads,
            self.opening,
            self.items,
            self.gossip,
            self.coordination,
        ):
            part.tick()
        context.docket.tick()
        self.locks.progress()
        if self.gossip.is_caught_up or now - context.started > 2 * context.inclusion.patience.seconds:
            self.coordination.form()
        self.models.tick()
        self.tasks.tick()
        return self._settle()

    def computed(self, key: tuple[Any, ...], result: Any, now: float) -> list[Effect]:
        """A job is done."""
        self.context.now = now
        self.context.compute_done(key)
        kind, name = key
        if kind == VERIFY:
            self.uploads.verified(name, result)
        elif kind == CHECK:
            self.locks.checked(name, result)
        elif kind == OPEN and isinstance(result, Opened):
            self.opening.opened(name, result)
        elif kind == SUM:
            self.opening.summed(name, result)
        elif kind == FOLD:
            self.models.computed(name, result)
        elif kind in (JUDGE, COMPARE):
            self.context.docket.computed(kind, name, result)
        return self._settle()

    def compute_failed(self, key: tuple[Any, ...], error: Exception, now: float) -> list[Effect]:
        """A job raised. What the peers' data explains is handled; anything else is our bug, and is raised."""
        self.context.now = now
        self.context.compute_done(key)
        kind, name = key
        if kind == VERIFY and isinstance(error, InvalidItem):
            self.uploads.rejected(name, error)
        elif kind == OPEN and isinstance(error, OpeningError | InvalidItem):
            self.opening.open_failed(name, str(error))
        elif isinstance(error, BlobMissing) and self._is_gone(kind, name):
            pass
        elif isinstance(error, StorageError):
            raise error
        else:
            raise LocalProtocolError(f"job {kind} failed: {error}") from error
        return self._settle()

    def fetched(self, peer: bytes, digest: bytes, now: float) -> list[Effect]:
        """A blob that was asked for is on disk, and matches its digest."""
        self.context.now = now
        self.context.want_no_more(digest)
        self.uploads.payload_arrived(digest)
        self.items.sum_arrived(digest)
        return self._settle()

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str, now: float) -> list[Effect]:
        """A fetch ended without the blob: it is tried again, elsewhere first."""
        self.context.now = now
        self.context.fetch_failed(digest, peer)
        self.context.notify("fetch_failed", "debug", blob=digest.hex()[:12], reason=reason)
        return self._settle()

    def referenced_blobs(self) -> set[bytes]:
        """Every blob that the durable state refers to; the shell may delete others before `start`."""
        uploads = {record.manifest.core.upload for record in self.uploads.records.values()}
        return uploads | self.items.sums

    def needs(self, blob: bytes) -> bool:
        """Whether a blob is an upload, an opened sum or a model. An upload can name any of them as its payload."""
        if self.uploads.holds(blob) or self.items.holds(blob):
            return True
        return any(record.model == blob for record in self.models.records.values())

    def status(self, now: float) -> dict[str, Any]:
        """Plain values for status pages; see `asyncfl.replica.status`."""
        self.context.now = now
        return describe(self)

    # glue

    def _entered(self, item: Item) -> None:
        self.opening.entered(item)
        self.coordination.entered(item)

    def _settle(self) -> list[Effect]:
        """Let what changed take effect elsewhere, then hand out the effects."""
        while self.uploads.changed:
            self.uploads.changed.clear()
            self.locks.progress()
            self.opening.progress()
        self.models.progress()
        return self.context.take_effects()

    def _is_gone(self, kind: str, name: bytes) -> bool:
        """Whether the uploads went while a job worked on them: their entry came by another way, or they got too old."""
        if kind == VERIFY:
            return name not in self.uploads.records
        return kind == OPEN and not self.opening.can_open(name)

    def _receive_view(self, replica: int, message: View) -> None:
        agrees = self.exclusions.agrees(replica, message)
        target = self.gossip.receive_view(replica, message)
        if target is not None and message.pinned and agrees:
            self.models.receive_pinned(replica, target)

    def _receive_manifest_request(self, replica: int, message: ManifestRequest) -> None:
        for digest in message.manifests:
            record = self.uploads.records.get(digest)
            if record is not None and record.stored:
                self.context.send_replica(replica, Relay(manifest=record.manifest))

    def _receive_pull(self, peer: bytes, replica: int | None, message: Pull) -> None:
        """Replicas may have any blob, clients certified models only."""
        if replica is not None or message.blob in self.models.certified_blobs():
            self.tasks.pulled(peer, message.blob)
            self.context.emit(SendBlob(peer, message.blob, message.offset))
        else:
            self.context.send(peer, Missing(blob=message.blob))
