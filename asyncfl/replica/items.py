"""Ledger items at one replica: attestations, certification, gossip, catching up.

An item enters the ledger when this replica has opened its group itself, or when t+1 replicas attest it and
the opened sum has been pulled and matches its digest. Once t+1 attest it, the raw uploads and shares go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from asyncfl.durable import require_name
from asyncfl.effects import Put, Table
from asyncfl.messages import (
    Attest,
    CertifiedItem,
    Entry,
    GroupId,
    Item,
    ItemRequest,
    LockContent,
    Locked,
    attest_body,
)
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.item_record import ItemRecord, Signatures
from asyncfl.replica.locks import Locks
from asyncfl.replica.uploads import Uploads

MAX_EARLY_ATTESTS = 4096
MAX_REQUESTED = 16384


@dataclass(slots=True)
class Requested:
    """Whom an item was asked of. Always the first of those who show it would let one silent liar keep it away."""

    again_at: float = float("-inf")
    replicas: set[int] = field(default_factory=set)

    def is_due(self, replica: int, now: float) -> bool:
        """A second time only if nobody else was left to ask for a second."""
        return now >= self.again_at + (RESEND_SECONDS if replica in self.replicas else 0.0)

    def ask(self, replica: int, now: float) -> None:
        self.again_at = now + RESEND_SECONDS
        if replica in self.replicas:
            self.replicas.clear()
        self.replicas.add(replica)


class Items:
    """The items of one replica's ledger and those it is fetching."""

    def __init__(
        self, context: Context, uploads: Uploads, locks: Locks, entered: Callable[[Item], None]
    ) -> None:
        self.context = context
        self.uploads = uploads
        self.locks = locks
        self.entered = entered
        self.records: dict[bytes, ItemRecord] = {}
        self.fetching: dict[bytes, CertifiedItem] = {}
        """Certified items whose opened sum is on its way, by item digest."""
        self._early: dict[tuple[GroupId, bytes], dict[int, bytes]] = {}
        """Attestations of items that are not held yet, by group and item digest."""
        self._uncertified: dict[bytes, None] = {}
        """A set in the order of arrival: what is said must not depend on how a process hashes bytes."""
        self.sums: set[bytes] = set()
        """Blobs of the opened sums in the ledger."""
        self._requested: dict[bytes, Requested] = {}

    def load(self, rows: dict[bytes, bytes]) -> None:
        for name, value in rows.items():
            record = self.records[name] = ItemRecord.decode(value)
            item = record.item
            require_name(name, item.digest())
            self.sums.add(item.opened)
            if not record.certified:
                self._uncertified[name] = None
            self.context.ledger.add(item)
            record.encoded = self.context.ledger.items.encoded(name)

    # entering the ledger

    def add_opened(self, item: Item, size: int, entry: Entry) -> None:
        """This replica opened the group itself."""
        name = item.digest()
        if not self.context.ledger.add(item):
            return
        encoded = self.context.ledger.items.encoded(name)
        record = ItemRecord(encoded, size, locks=Signatures(entry.votes), entry=entry)
        record.votes.update(self._early.pop((item.id, name), {}))
        record.votes[self.context.index] = self.context.sign(Attest.KIND, attest_body(item.id, name))
        self._insert(name, item, record)
        own = self._attest(name, record)
        self._watch(self.context.index, own)
        self.context.broadcast(own)
        if item.id.coordinator == self.context.index:
            self.context.broadcast(entry)

    def _insert(self, name: bytes, item: Item, record: ItemRecord) -> None:
        self.records[name] = record
        self.sums.add(item.opened)
        self._uncertified[name] = None
        self._requested.pop(name, None)
        record.resend_at = self.context.now + RESEND_SECONDS
        content = LockContent(id=item.id, members=item.members)
        self.context.persist(Put(Table.ITEMS, name, record.encode()), self.locks.table.record(content))
        self.locks.pending.pop(item.id, None)
        self.entered(item)
        self.context.notify(
            "entry", epoch=item.id.epoch, cell=item.id.cell, coordinator=item.id.coordinator,
            members=len(item.members), entries=self.context.ledger.entries,
        )  # fmt: skip
        self._certify(name, record)

    def _certify(self, name: bytes, record: ItemRecord) -> None:
        """With t+1 attestations, forget the raw uploads."""
        if record.certified or len(record.votes) < self.context.parameters.certifiers:
            return
        record.certified, record.entry = True, None
        self._uncertified.pop(name, None)
        self.context.persist(Put(Table.ITEMS, name, record.encode()))
        self._forget_uploads(record.item)

    def finish_cleanup(self) -> None:
        """After a restart: delete what a crash between certification and clean-up has left."""
        for record in self.records.values():
            if record.certified:
                self._forget_uploads(record.item)

    def _forget_uploads(self, item: Item) -> None:
        for member in item.members:
            self.uploads.drop(member.manifest)
            other = self.uploads.accepted.get((member.client, member.epoch))
            if other is not None and other != member.manifest:
                self.uploads.drop(other)

    def _attest(self, name: bytes, record: ItemRecord) -> Attest:
        return Attest(id=record.item.id, item=name, signature=record.votes[self.context.index])

    def _watch(self, replica: int, message: Attest) -> None:
        docket = self.context.docket
        docket.suspect(docket.watch.attestation(replica, message))

    # other replicas

    def receive_attest(self, replica: int, message: Attest) -> None:
        name = message.item
        record = self.records.get(name)
        if record is not None and replica in record.votes:
            return
        if not self.context.verify_replica(replica, Attest.KIND, message.body(), message.signature):
            self.context.notify("bad_signature", "warning", replica=replica, message=Attest.KIND)
            return
        self._watch(replica, message)
        if record is not None and message.id == record.item.id:
            record.votes[replica] = message.signature
            self._certify(name, record)
            return
        if message.id in self.context.ledger.by_id:
            self.context.notify(
                "attestation_of_another_sum", "warning", replica=replica, epoch=message.id.epoch
            )
            return
        if len(self._early) >= MAX_EARLY_ATTESTS:
            self._early.pop(next(iter(self._early)))
        self._early.setdefault((message.id, name), {})[replica] = message.signature

    def receive_certified(self, replica: int, message: CertifiedItem) -> None:
        """An item from somebody who has it; t+1 attestations stand for the opening."""
        name = message.item.digest()
        source = self.context.federation.replica_keys[replica]
        record = self.records.get(name)
        if record is not None and record.certified:
            return
        if record is not None or name not in self.fetching:
            needed = self.context.parameters.certifiers
            body = attest_body(message.item.id, name)
            if not self.context.are_votes_valid(message.votes, Attest.KIND, body, needed) or (
                message.locks and not self._are_locks_valid(message)
            ):
                self.context.notify("item_without_certificate", "warning", replica=replica)
                return
            for vote in message.votes:
                attest = Attest(id=message.item.id, item=name, signature=vote.signature)
                self._watch(vote.replica, attest)
            if message.opened_bytes != 4 * self.context.federation.upload_dimension:
                self.context.notify("item_of_wrong_size", "warning", replica=replica)
                return
            if record is not None:
                record.votes.update(Signatures(message.votes))
                self._certify(name, record)
                return
            self.fetching[name] = message
        self.context.want(message.item.opened, message.opened_bytes, source)

    def _are_locks_valid(self, message: CertifiedItem) -> bool:
        """Whether n-t replicas locked the group. Attestations certify an item; these are for who audits the ledger."""
        content = LockContent(id=message.item.id, members=message.item.members)
        quorum = self.context.parameters.quorum
        return self.context.are_votes_valid(message.locks, Locked.KIND, content.digest(), quorum)

    def holds(self, blob: bytes) -> bool:
        """Whether a blob is the opened sum of an item in the ledger, or of one that is being fetched."""
        return blob in self.sums or any(each.item.opened == blob for each in self.fetching.values())

    def sum_arrived(self, blob: bytes) -> None:
        """An opened sum is on disk and matches its digest."""
        for name, message in list(self.fetching.items()):
            if message.item.opened == blob:
                del self.fetching[name]
                if self.context.ledger.add(message.item):
                    encoded = self.context.ledger.items.encoded(name)
                    votes, locks = Signatures(message.votes), Signatures(message.locks)
                    record = ItemRecord(encoded, message.opened_bytes, votes, locks)
                    self._insert(name, message.item, record)

    def receive_request(self, replica: int, message: ItemRequest) -> None:
        for name in message.items:
            self._tell(replica, name)

    def tell(self, replica: int, group: GroupId) -> None:
        """Show a replica that still works on a group that it is in the ledger."""
        self._tell(replica, self.context.ledger.by_id[group])

    def acknowledge(self, replica: int, group: GroupId) -> None:
        """Answer an ENTRY that is in the ledger already, with nothing that would be answered in turn."""
        name = self.context.ledger.by_id[group]
        if self.records[name].certified:
            self._tell(replica, name)
        elif self.context.index in self.records[name].votes:
            self.context.send_replica(replica, self._attest(name, self.records[name]))

    def _tell(self, replica: int, name: bytes) -> None:
        record = self.records.get(name)
        if record is None:
            return
        if record.certified:
            message = CertifiedItem(
                item=record.item,
                votes=record.votes.votes(),
                opened_bytes=record.size,
                locks=record.locks.votes(),
            )
            self.context.send_replica(replica, message)
        elif record.entry is not None:
            self.context.send_replica(replica, record.entry)
        if self.context.index in record.votes:
            self.context.send_replica(replica, self._attest(name, record))

    def request(self, replica: int, names: list[bytes]) -> None:
        """Ask for items, each at most once a second, and everybody who has shown it before anybody again."""
        now = self.context.now
        if len(self._requested) > MAX_REQUESTED:
            self._requested.clear()
        asked = {name: self._requested.setdefault(name, Requested()) for name in names}
        due = [name for name in names if asked[name].is_due(replica, now)][:256]
        if due and self.context.is_connected(replica):
            for name in due:
                asked[name].ask(replica, now)
            self.context.send_replica(replica, ItemRequest(items=tuple(due)))

    def tick(self) -> None:
        """Repeat ENTRY and ATTEST of what is not yet certified."""
        for name in list(self._uncertified):
            record = self.records[name]
            if self.context.now < record.resend_at:
                continue
            record.resend_at = self.context.now + RESEND_SECONDS
            for replica in self.context.others:
                if replica not in record.votes:
                    self._tell(replica, name)

    def replica_connected(self, replica: int) -> None:
        for name in self._uncertified:
            self._tell(replica, name)
