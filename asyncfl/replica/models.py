"""Model versions and their certificates.

A replica pins its current version, computes the model and asks the others to sign it; whoever is asked pulls
the items it lacks and computes the model *at that version*. t+1 equal signatures are a certificate: at least
one honest replica computed this model from these entries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from asyncfl.effects import Put, Table
from asyncfl.exclusions import Exclusion
from asyncfl.fold import FoldCache, Folded, FoldJob
from asyncfl.ledger import Link
from asyncfl.messages import Certificate, ModelVote, Vote, model_body
from asyncfl.record import RecordBook
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.gossip import Gossip, PeerRows
from asyncfl.reputation import Reputation
from asyncfl.statistics import RowStatistics, explain_finish

FOLD = "fold"
KEEP_VERSIONS = 12
KEEP_IN_USE = 12
"""Older versions beside these, of models that clients still pull."""
KEEP_VOTES = 64


@dataclass(slots=True)
class ModelRecord:
    """The model this replica computed for one version."""

    head: Link
    """The version, and all that is in it."""
    exclusion: Exclusion
    """The operator's statement under which it is computed."""
    model: bytes = b""
    size: int = 0
    statistics: tuple[RowStatistics, ...] = ()
    reputation: Reputation[bytes] | None = None
    """What this version's rows say of clients, where the deployment keeps it."""
    finished: str | None = None
    """Why training is over with this version's rows; None while it is not."""
    certificate: Certificate | None = None
    deleted: set[bytes] = field(default_factory=set)
    """Models that were deleted while this one was being computed."""

    @property
    def version(self) -> bytes:
        return self.exclusion.version(self.head.chain)

    @property
    def entries(self) -> int:
        return self.head.entries


class Models:
    """Models computed, signed and certified at one replica."""

    def __init__(self, context: Context, gossip: Gossip, initial_model: bytes) -> None:
        self.context = context
        self.gossip = gossip
        self.initial = initial_model
        self.in_use: Callable[[], Collection[bytes]] = tuple
        """Models that clients have begun to pull."""
        self.cache = FoldCache()
        self.book = RecordBook(context.ledger)
        self.records: OrderedDict[bytes, ModelRecord] = OrderedDict()
        self.latest: ModelRecord | None = None
        """The certified version with most entries whose model is here; one under the exclusion in force if there is."""
        self.pinned: ModelRecord | None = None
        self._votes: dict[int, OrderedDict[bytes, ModelVote]] = {}
        """The last votes of each replica, by version: a liar's many can displace its own alone."""
        self._signed: dict[bytes, bytes] = {}
        self._wanted: dict[int, PeerRows] = {}
        """Versions that other replicas have pinned, waiting for items."""
        self._serving: dict[int, ModelRecord] = {}
        """The last model computed for each other replica: one at a time, and only for a ledger that has grown."""
        self._resend_at = 0.0

    @property
    def finished(self) -> str | None:
        """Why training is over by the newest certified version; None while it is not."""
        return self.latest.finished if self.latest is not None else None

    def weight(self, client: bytes) -> float:
        """What a client counts by the newest certified version, above 0 to 1."""
        known = self.latest.reputation if self.latest is not None else None
        return 1.0 if known is None else known.weight(client)

    def load(self, signed: dict[bytes, bytes], certified: dict[bytes, bytes]) -> None:
        """After the ledger."""
        self._signed.update(signed)
        self.book.load(certified)

    # computing

    def _compute(self, head: Link) -> ModelRecord:
        context = self.context
        exclusion = context.exclusions.in_force
        version = exclusion.version(head.chain)
        record = self.records.get(version)
        if record is not None:
            return record
        record = self.records[version] = ModelRecord(head, exclusion)
        self._fold(record)
        return record

    def _fold(self, record: ModelRecord) -> None:
        context, head = self.context, record.head
        roster_size = len(context.rosters.first.members)
        own = context.ledger.link_before(head.epoch + 1) is head
        counted = context.ledger.counted(head)
        job = FoldJob(context.federation, self.initial, counted, roster_size, self.cache, own)
        context.compute((FOLD, record.version), job)

    def computed(self, version: bytes, folded: Folded) -> None:
        """A fold is done: sign it, on disk first: one model per version, for ever."""
        context, record, model = self.context, self.records.get(version), folded.model
        if record is None:
            return
        if record.exclusion != context.exclusions.in_force:
            # Nothing is signed that lacks a statement held here.
            self._drop(record, model)
            return
        if model in record.deleted:
            # The fold may have found these bytes on disk a moment before they went.
            record.deleted.clear()
            self._fold(record)
            return
        signed = self._signed.get(version)
        if signed is not None and signed != model:
            context.notify("model_differs_from_signed", "error", version=version.hex()[:12])
            self._drop(record, model)
            return
        record.model, record.size, record.statistics = model, folded.size, folded.statistics
        record.reputation = folded.reputation
        if context.federation.stop is not None:
            record.finished = explain_finish(record.statistics, context.federation.stop)
        if signed is None:
            self._signed[version] = model
            context.persist(Put(Table.MODELS, version, model))
        vote = self._own_vote(record)
        self._add_vote(context.index, vote)
        context.broadcast(vote)
        self._certify(record)
        self._prune()

    def _own_vote(self, record: ModelRecord) -> ModelVote:
        number = record.exclusion.number
        body = model_body(record.version, record.entries, record.model, number)
        return ModelVote(
            version=record.version, entries=record.entries, model=record.model, statement=number,
            signature=self.context.sign(ModelVote.KIND, body),
        )  # fmt: skip

    # votes

    def receive_vote(self, replica: int, message: ModelVote) -> None:
        if replica in self._votes and self._votes[replica].get(message.version) == message:
            return
        if not self.context.verify_replica(replica, ModelVote.KIND, message.body(), message.signature):
            self.context.notify("bad_signature", "warning", replica=replica, message=ModelVote.KIND)
            return
        self._add_vote(replica, message)
        record = self.records.get(message.version)
        if record is not None and record.model:
            self._certify(record)

    def _add_vote(self, replica: int, message: ModelVote) -> None:
        docket = self.context.docket
        docket.suspect(docket.watch.model(replica, message))
        votes = self._votes.setdefault(replica, OrderedDict())
        votes.setdefault(message.version, message)
        if len(votes) > KEEP_VOTES:
            votes.popitem(last=False)

    def _votes_on(self, version: bytes) -> dict[int, ModelVote]:
        return {replica: votes[version] for replica, votes in self._votes.items() if version in votes}

    def _certify(self, record: ModelRecord) -> None:
        votes = self._votes_on(record.version)
        equal = {
            j: vote for j, vote in votes.items()
            if (vote.model, vote.entries, vote.statement)
            == (record.model, record.entries, record.exclusion.number)
        }  # fmt: skip
        if differing := sorted(votes.keys() - equal.keys()):
            # Up to t of them lie. If more than t do not agree, it is our own model that is in doubt.
            level = "error" if len(differing) > self.context.parameters.byzantine else "warning"
            self.context.notify("models_differ", level, version=record.version.hex()[:12], replicas=differing)
        if record.certificate is not None or len(equal) < self.context.parameters.certifiers:
            return
        record.certificate = Certificate(
            version=record.version, entries=record.entries, model=record.model,
            votes=tuple(Vote(replica=j, signature=equal[j].signature) for j in sorted(equal)),
            statement=record.exclusion.number,
        )  # fmt: skip
        if self.pinned is record:
            self.pinned = None
        if self.latest is None or self._rank(record) > self._rank(self.latest):
            self.latest = record
            # Others are not written down: a liar could have one version after the other certified, each of old rows.
            at = self.context.clock_offset + self.context.now
            self.context.persist(self.book.put(record.head, record.certificate, record.exclusion.name, at))
            self.context.notify(
                "certified", entries=record.entries, version=record.version.hex()[:12],
                model=record.model.hex()[:12],
            )  # fmt: skip

    def _rank(self, record: ModelRecord) -> tuple[bool, int]:
        """Of certified versions the one with the most entries is given out; first of all one under what is in force."""
        return record.exclusion == self.context.exclusions.in_force, record.entries

    def _prune(self) -> None:
        """Keep the recent versions, the newest certified one, the pinned one, and some older ones that are in use.

        On a slow link a model takes longer than a dozen later versions, and is of use all the same.
        """
        surplus, in_use, kept = len(self.records) - KEEP_VERSIONS, self.in_use(), 0
        for record in list(self.records.values()):
            if surplus <= 0:
                return
            if record is self.latest or record is self.pinned or not record.model:
                continue
            surplus -= 1
            if kept < KEEP_IN_USE and record.model in in_use:
                kept += 1
            else:
                self._drop(record, record.model)

    def _drop(self, record: ModelRecord, model: bytes) -> None:
        """Forget a version, and delete its model unless that is another's too."""
        del self.records[record.version]
        if any(other.model == model for other in self.records.values()):
            return
        for other in self.records.values():
            if not other.model:
                other.deleted.add(model)
        self.context.delete_blob(model)

    # pinning

    def receive_pinned(self, replica: int, target: PeerRows) -> None:
        """Another replica asks for a signature on its version."""
        self._wanted[replica] = target
        self._serve(replica)

    def progress(self) -> None:
        """New items may complete a version that somebody has pinned."""
        for replica in list(self._wanted):
            self._serve(replica)

    def _serve(self, replica: int) -> None:
        target = self._wanted[replica]
        last = self._serving.get(replica)
        if last is not None and not last.model and last.version in self.records:
            return
        head = self.gossip.resolve(target)
        if head is None:
            if target.malformed:
                del self._wanted[replica]
            return
        del self._wanted[replica]
        # An honest ledger loses nothing. Who may leave entries out has as many versions signed as there are subsets.
        if last is not None and not head.includes(last.head):
            return
        record = self._serving[replica] = self._compute(head)
        if record.model:
            self.context.send_replica(replica, self._own_vote(record))

    def tick(self) -> None:
        """Pin the current version when there is news, and repeat an unanswered request."""
        context, ledger = self.context, self.context.ledger
        if self.pinned is not None and self.pinned.exclusion != context.exclusions.in_force:
            self.pinned = None
        if self.pinned is None and not self._is_current():
            if self.latest is not None and (True, ledger.entries) <= self._rank(self.latest):
                return
            self.pinned = self._compute(ledger.head)
            if self.pinned.certificate is not None:
                self.pinned = None
                return
            self._ask(self.pinned)
        elif self.pinned is not None and context.now >= self._resend_at:
            self._ask(self.pinned)

    def _is_current(self) -> bool:
        """Whether the newest certified version has everything that is held here."""
        return self.latest is not None and self.latest.version == self.context.version

    def _ask(self, record: ModelRecord) -> None:
        self._resend_at = self.context.now + RESEND_SECONDS
        votes = self._votes_on(record.version)
        view = self.gossip.view(pinned=True, head=record.head)
        for replica in self.context.others:
            if replica not in votes:
                self.context.send_replica(replica, view)

    def certified_blobs(self) -> Sequence[bytes]:
        """Models that clients may pull."""
        return [record.model for record in self.records.values() if record.certificate is not None]
