"""From n-t locks to a ledger entry: REVEAL, SHARE_SUM, opening, ENTRY, ATTEST.

Only a group that n-t replicas locked is ever answered, whole. Whoever holds n-2t right answers opens it;
every replica opens it for itself before it attests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncfl.effects import Delete, Put, Table
from asyncfl.errors import LocalProtocolError
from asyncfl.messages import (
    Entry,
    GroupId,
    Item,
    LockContent,
    Locked,
    ManifestRequest,
    Reveal,
    ShareSum,
    Vote,
)
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.items import Items
from asyncfl.replica.jobs import Opened, OpenGroup, SumShares
from asyncfl.replica.locks import Locks
from asyncfl.replica.uploads import UploadRecord, Uploads

OPEN = "open-group"
SUM = "sum-shares"
MAX_EARLY_SUMS = 512


@dataclass(slots=True)
class OpenGroupState:
    """A group that n-t replicas locked and that is not yet in the ledger."""

    content: LockContent
    votes: tuple[Vote, ...]
    group: bytes
    source: int
    sums: dict[int, bytes] = field(default_factory=dict)
    claimed: bytes | None = None
    """The sum of secrets that an ENTRY claims."""
    answered: bool = False
    tried: int = 0
    """How many sums the last failed attempt had."""
    trying: int = 0
    pull_at: float = 0.0
    resend_at: float = 0.0


class Opening:
    """Groups between their locks and the ledger, at one replica."""

    def __init__(self, context: Context, uploads: Uploads, locks: Locks, items: Items) -> None:
        self.context = context
        self.uploads = uploads
        self.locks = locks
        self.items = items
        self.groups: dict[GroupId, OpenGroupState] = {}
        self._early: dict[GroupId, dict[int, ShareSum]] = {}

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Groups that were revealed before a restart: resume them."""
        for value in rows.values():
            reveal = Reveal.decode(value)
            if reveal.content.id not in self.context.ledger.by_id:
                self._insert(reveal.content, reveal.votes, self.context.index)

    # reveal

    def reveal(self, content: LockContent, votes: tuple[Vote, ...]) -> None:
        """This replica, as coordinator, holds n-t locks: ask everybody."""
        state = self._begin(content, votes, self.context.index)
        if state is not None:
            self._resend(state)
            self._progress(state)

    def receive_reveal(self, replica: int, message: Reveal) -> None:
        state = self._begin(message.content, message.votes, replica)
        if state is not None:
            state.source = replica
            if state.answered and (own := self._own_sum(state)) is not None:
                self.context.send_replica(replica, own)
            self._progress(state)

    def receive_entry(self, replica: int, message: Entry) -> None:
        if message.content.id in self.context.ledger.by_id:
            self.items.acknowledge(replica, message.content.id)
            return
        state = self._begin(message.content, message.votes, replica)
        if state is not None:
            state.source = replica
            state.claimed = message.secret
            self._progress(state)

    def _begin(self, content: LockContent, votes: tuple[Vote, ...], source: int) -> OpenGroupState | None:
        """The state of a group with valid locks; None if it is in the ledger, or the locks are not valid."""
        context = self.context
        if content.id in context.ledger.by_id:
            self.items.tell(source, content.id)
            return None
        state = self.groups.get(content.id)
        if state is not None and state.content == content:
            return state
        group = content.digest()
        if not context.are_votes_valid(votes, Locked.KIND, group, context.parameters.quorum):
            context.notify("reveal_without_locks", "warning", replica=source, epoch=content.id.epoch)
            return None
        docket = context.docket
        for vote in votes:
            if vote.replica != context.index:
                docket.suspect(docket.watch.group(vote.replica, content, vote.signature, asks=False))
        if state is not None:
            raise LocalProtocolError(f"two groups with n-t locks under {content.id}")
        return self._insert(content, votes, source)

    def _insert(self, content: LockContent, votes: tuple[Vote, ...], source: int) -> OpenGroupState:
        state = OpenGroupState(content, votes, content.digest(), source)
        self.groups[content.id] = state
        for replica, message in self._early.pop(content.id, {}).items():
            self._add_sum(state, replica, message)
        row = Put(Table.GROUPS, content.id.encode(), Reveal(content=content, votes=votes).encode())
        self.context.persist(self.locks.table.record(content), row)
        return state

    # sums

    def receive_sum(self, replica: int, message: ShareSum) -> None:
        state = self.groups.get(message.id)
        if state is not None:
            if state.sums.get(replica) != message.total:
                self._add_sum(state, replica, message)
                self._progress(state)
        elif message.id in self.context.ledger.by_id:
            # Nobody needs it any more, but n-t answers on one polynomial convict whose is off it.
            if self._is_signed(replica, message):
                self._compare(replica, message)
            self.items.tell(replica, message.id)
        else:
            if len(self._early) >= MAX_EARLY_SUMS:
                self._early.pop(next(iter(self._early)))
            self._early.setdefault(message.id, {})[replica] = message

    def _add_sum(self, state: OpenGroupState, replica: int, message: ShareSum) -> None:
        if message.group != state.group or not self._is_signed(replica, message):
            self.context.notify("bad_signature", "warning", replica=replica, message=ShareSum.KIND)
            return
        state.sums.setdefault(replica, message.total)
        self._compare(replica, message)

    def _is_signed(self, replica: int, message: ShareSum) -> bool:
        return self.context.verify_replica(replica, ShareSum.KIND, message.body(), message.signature)

    def _compare(self, replica: int, message: ShareSum) -> None:
        docket = self.context.docket
        docket.suspect(docket.watch.answer(replica, message.group, message.total, message.signature))
        docket.compare(message.group)

    def _own_sum(self, state: OpenGroupState) -> ShareSum | None:
        total = state.sums.get(self.context.index)
        if total is None:
            return None
        message = ShareSum(id=state.content.id, group=state.group, total=total, signature=bytes(64))
        signature = self.context.sign(ShareSum.KIND, message.body())
        return message.model_copy(update={"signature": signature})

    # progress

    def progress(self) -> None:
        for state in list(self.groups.values()):
            self._progress(state)

    def _progress(self, state: OpenGroupState) -> None:
        records = self._collect(state)
        if records is None:
            return
        shares = [record.share for record in records]
        if not state.answered and None not in shares:
            state.answered = True
            for record in records:
                record.pinned = True
            valid = [share for share in shares if share is not None]
            self.context.compute((SUM, state.group), SumShares(valid, self.context.federation))
        enough = len(state.sums) >= self.context.parameters.threshold and len(state.sums) > state.tried
        if state.claimed is not None or enough:
            job = OpenGroup(
                [record.manifest.core.upload for record in records],
                dict(state.sums), state.claimed, self.context.federation, self.context.docket.liars,
            )  # fmt: skip
            if self.context.compute((OPEN, state.group), job):
                state.trying = len(state.sums) if state.claimed is None else 0

    def summed(self, group: bytes, total: bytes) -> None:
        """This replica's own sum of shares is ready: tell everybody."""
        state = self._by_group(group)
        if state is None:
            return
        state.sums[self.context.index] = total
        own = self._own_sum(state)
        if own is not None:
            self.context.broadcast(own)
            self._compare(self.context.index, own)
        self._progress(state)

    def _collect(self, state: OpenGroupState) -> list[UploadRecord] | None:
        """All members' stored uploads; pulls what is missing from whoever referred to them."""
        members = state.content.members
        records = [self.uploads.records.get(member.manifest) for member in members]
        missing = tuple(
            member.manifest for member, record in zip(members, records, strict=True) if record is None
        )
        if missing and self.context.now >= state.pull_at:
            state.pull_at = self.context.now + RESEND_SECONDS
            self.context.send_replica(state.source, ManifestRequest(manifests=missing))
        stored = self._stored(state)
        return stored if len(stored) == len(members) else None

    def _stored(self, state: OpenGroupState) -> list[UploadRecord]:
        records = (self.uploads.records.get(member.manifest) for member in state.content.members)
        return [record for record in records if record is not None and record.stored]

    def wants(self, manifest: bytes) -> bool:
        """Whether a manifest belongs to a group under way here or to a pending lock with valid SHARE_OKs."""
        groups = [state.content for state in self.groups.values()]
        groups += [pending.lock.content for pending in self.locks.pending.values() if pending.oks_valid]
        return any(member.manifest == manifest for content in groups for member in content.members)

    def opened(self, group: bytes, result: Opened) -> None:
        """The group is open: it becomes a ledger item, and this replica attests it."""
        state = self._by_group(group)
        if state is None:
            return
        content = state.content
        item = Item(id=content.id, members=content.members, opened=result.blob)
        entry = Entry(content=content, votes=state.votes, secret=result.secret)
        self.items.add_opened(item, result.size, entry)

    def open_failed(self, group: bytes, reason: str) -> None:
        """Not yet: wait for more answers. A false claim in an ENTRY is dropped."""
        state = self._by_group(group)
        if state is None:
            return
        self.context.notify("opening_failed", "warning", epoch=state.content.id.epoch, reason=reason)
        if not state.trying:
            state.claimed = None
        else:
            state.tried = state.trying
        self._progress(state)

    def _by_group(self, group: bytes) -> OpenGroupState | None:
        return next((state for state in self.groups.values() if state.group == group), None)

    def can_open(self, group: bytes) -> bool:
        """Whether a group, by its digest, is still under way here, and all its uploads are held."""
        state = self._by_group(group)
        return state is not None and len(self._stored(state)) == len(state.content.members)

    def entered(self, item: Item) -> None:
        """The item is in the ledger, by whatever way: nothing is left to open."""
        state = self.groups.pop(item.id, None)
        self._early.pop(item.id, None)
        if state is not None:
            self.context.persist(Delete(Table.GROUPS, item.id.encode()))

    # repetition

    def _resend(self, state: OpenGroupState) -> None:
        state.resend_at = self.context.now + RESEND_SECONDS
        message = Reveal(content=state.content, votes=state.votes)
        for replica in self.context.others:
            if replica not in state.sums:
                self.context.send_replica(replica, message)

    def replica_connected(self, replica: int) -> None:
        for state in self.groups.values():
            if replica not in state.sums:
                self.context.send_replica(replica, Reveal(content=state.content, votes=state.votes))

    def tick(self) -> None:
        """Anybody who holds n-t locks repeats the REVEAL, so that no single replica is needed for it."""
        for state in list(self.groups.values()):
            if self.context.now >= state.resend_at:
                self._resend(state)
                self._progress(state)
