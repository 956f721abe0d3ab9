"""A replica as coordinator: which uploads make a group, and driving it through its locks.

Forming groups is local judgement (who is live, how long to wait); whether a group may be opened is decided
by its signers alone (`asyncfl.groups`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncfl.effects import Delete, Put, Table
from asyncfl.groups import choose_supporters
from asyncfl.messages import (
    GroupId,
    Item,
    Lock,
    LockContent,
    Locked,
    LockRefused,
    Manifest,
    Member,
    TakenOver,
    Vote,
)
from asyncfl.parameters import MAX_LATE_EPOCHS
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.locks import Locks
from asyncfl.replica.opening import Opening
from asyncfl.replica.uploads import UploadKey, UploadRecord, Uploads

Place = tuple[int, int, int]
"""(epoch, cell, number of the roster whose cell it is)"""
OWN = b"own:"
"""Prefix of the keys of a coordinator's own requests in `Table.GROUPS`."""


@dataclass(slots=True)
class OwnGroup:
    """A group that this replica asks others to lock."""

    lock: Lock
    group: bytes
    votes: dict[int, bytes] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    resend_at: float = 0.0


@dataclass(slots=True)
class Taken:
    """An upload that `by` say others have taken over: left out for good if t+1 say so, else for a while.

    One liar's word for good would let it censor whomever it likes.
    """

    until: float
    by: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Ripening:
    """A cell with at least `min_group` uploads that still waits for others."""

    deadline: float


class Coordination:
    """Forms groups from the uploads that name this replica (or one that cannot be reached)."""

    def __init__(self, context: Context, uploads: Uploads, locks: Locks, opening: Opening) -> None:
        self.context = context
        self.uploads = uploads
        self.locks = locks
        self.opening = opening
        self.own: dict[GroupId, OwnGroup] = {}
        self.taken: dict[UploadKey, Taken] = {}
        self._ripe: dict[Place, Ripening] = {}

    def load(self, rows: dict[bytes, bytes]) -> None:
        for value in rows.values():
            lock = Lock.decode(value)
            if lock.content.id not in self.context.ledger.by_id:
                self._insert(lock)

    def _insert(self, lock: Lock) -> OwnGroup:
        group = lock.content.digest()
        own = OwnGroup(lock, group)
        own.votes[self.context.index] = self.context.sign(Locked.KIND, group)
        self.own[lock.content.id] = own
        return own

    # forming

    def form(self) -> None:
        """Form every group that is due."""
        places: dict[Place, list[UploadRecord]] = {}
        for record in self.uploads.records.values():
            if self._is_available(record):
                core = record.manifest.core
                places.setdefault((core.epoch, core.cell, core.roster), []).append(record)
        late = self._late(places)
        for place in sorted(places):
            ready = [record for record in places[place] if record.digest not in late]
            if len(ready) >= self.context.parameters.min_group:
                self._consider(place, ready, late)
        self._expire(late)

    def _is_available(self, record: UploadRecord) -> bool:
        """Stored here, in no group, and this replica's to group (by name, or by takeover)."""
        if not record.stored or not self.is_groupable(record) or self._is_taken(record.key):
            return False
        client = record.key[0]
        if client in self.context.docket.convicted or client in self.context.exclusions.in_force.clients:
            return False
        if self._is_hopeless(record):
            return False
        if record.manifest.core.coordinator != self.context.index and not self._takes_over(record.manifest):
            return False
        # Whoever groups an upload gathers its SHARE_OKs: whoever else had them may have died with them.
        record.carrier = True
        return True

    def _is_hopeless(self, record: UploadRecord) -> bool:
        """Whether too many replicas have said SHARE_BAD: nobody need wait for this upload."""
        silent = self.context.parameters.replicas - len(record.answered)
        return len(record.oks) + silent < self.context.parameters.quorum

    def is_groupable(self, record: UploadRecord) -> bool:
        """Whether an upload may still find a group: not expired, locked in none, not in the ledger."""
        if record.expired or record.key in self.locks.table.by_upload:
            return False
        return record.key not in self.context.ledger.included

    def _is_taken(self, key: UploadKey) -> bool:
        taken = self.taken.get(key)
        if taken is None:
            return False
        return len(taken.by) >= self.context.parameters.certifiers or self.context.now < taken.until

    def was_taken(self, key: UploadKey, asker: int) -> bool:
        """Whether t+1 replicas, the asker among them, say that others have grouped an upload: one of them is honest."""
        taken = self.taken.get(key)
        return taken is not None and len(taken.by | {asker}) >= self.context.parameters.certifiers

    def _takes_over(self, manifest: Manifest) -> bool:
        """Whether this replica is next in line after a coordinator out of reach for `patience`."""
        context, core = self.context, manifest.core
        patience = context.inclusion.patience.seconds
        if not context.is_unreachable_for(core.coordinator, patience):
            return False
        line = [j for j in context.assignment.line(core.coordinator)[1:] if context.is_connected(j)]
        trusted = [j for j in line if j not in context.docket.liars]
        return (trusted or line)[0] == context.index

    def _late(self, places: dict[Place, list[UploadRecord]]) -> dict[bytes, UploadRecord]:
        """Uploads whose cell cannot reach `min_group` although all its live members are in."""
        late: dict[bytes, UploadRecord] = {}
        for place, records in places.items():
            supported = [r for r in records if len(r.oks) >= self.context.parameters.quorum]
            missing_group = len(records) < self.context.parameters.min_group
            if missing_group and not self._pending(place, records):
                late.update({record.digest: record for record in supported})
        return late

    def _pending(self, place: Place, ready: list[UploadRecord]) -> list[bytes]:
        """Live members of a cell that may still bring an upload of this epoch."""
        epoch, cell, number = place
        context = self.context
        roster = context.rosters.get(number)
        assert roster is not None, "an upload is taken under a roster that is held"
        have = {record.key[0] for record in ready}
        return [
            client
            for client in context.assignment.cells(roster, epoch)[cell]
            if client not in have and context.inclusion.is_expected(client, epoch, context.now)
        ]

    def _consider(self, place: Place, ready: list[UploadRecord], late: dict[bytes, UploadRecord]) -> None:
        """Form the group of one cell if nobody is worth waiting for, or patience is over."""
        context, parameters = self.context, self.context.parameters
        supported = [record for record in ready if len(record.oks) >= parameters.quorum]
        if len(supported) < parameters.min_group:
            return
        ripe = self._ripe.get(place)
        if ripe is None:
            ripe = self._ripe[place] = Ripening(context.now + context.inclusion.patience.seconds)
        waiting = len(supported) < len(ready) or self._pending(place, ready)
        if waiting and context.now < ripe.deadline:
            return
        supporters, admitted = choose_supporters(
            {record.digest: record.oks for record in supported},
            parameters.replicas,
            parameters.quorum,
            also=[record.oks for record in late.values()],
        )
        if len(admitted) < parameters.min_group:
            return
        members = [self.uploads.records[name] for name in admitted]
        members = sorted(members, key=self._count)[: parameters.max_group]
        members += self._riders(place, supporters, members, late)
        del self._ripe[place]
        self._lock(place, supporters, members)

    def _count(self, record: UploadRecord) -> tuple[float, bytes]:
        return self.context.count(record.key[0]), record.digest

    def _riders(
        self,
        place: Place,
        supporters: tuple[int, ...],
        members: list[UploadRecord],
        late: dict[bytes, UploadRecord],
    ) -> list[UploadRecord]:
        """Late uploads that may ride on top: lowest inclusion count first, each client once."""
        epoch, cell, _ = place
        parameters = self.context.parameters
        if self.context.assignment.coordinator(epoch, cell) != self.context.index:
            return []
        clients = {record.key[0] for record in members}
        riders: list[UploadRecord] = []
        for record in sorted(late.values(), key=self._count):
            if len(members) + len(riders) >= parameters.max_group:
                break
            client, late_epoch = record.key
            core = record.manifest.core
            fits = epoch - MAX_LATE_EPOCHS <= late_epoch <= epoch and client not in clients
            # Of the same epoch and cell number under another roster: it would count as the group's own.
            fits = fits and (late_epoch, core.cell) != (epoch, cell)
            if fits and all(replica in record.oks for replica in supporters):
                riders.append(record)
                clients.add(client)
        for record in riders:
            del late[record.digest]
        return riders

    def _lock(self, place: Place, supporters: tuple[int, ...], members: list[UploadRecord]) -> None:
        context = self.context
        epoch, cell, _ = place
        members = sorted(members, key=lambda record: record.key)
        part = 0
        while (
            group_id := GroupId(epoch=epoch, cell=cell, coordinator=context.index, part=part)
        ) in self.locks.table.by_id:
            part += 1
        content = LockContent(
            id=group_id,
            members=tuple(Member(client=r.key[0], epoch=r.key[1], manifest=r.digest) for r in members),
        )
        lock = Lock(
            content=content,
            supporters=supporters,
            oks=tuple(tuple(record.oks[j] for j in supporters) for record in members),
            signature=context.sign(Lock.KIND, content.digest()),
        )
        context.persist(
            self.locks.table.record(content), Put(Table.GROUPS, OWN + group_id.encode(), lock.encode())
        )
        for record in members:
            record.pinned = True
        context.notify("group", epoch=epoch, cell=cell, members=len(members))
        own = self._insert(lock)
        self._resend(own)
        self._advance(own)

    def _expire(self, late: dict[bytes, UploadRecord]) -> None:
        """Give up what has ridden along for too long."""
        limit = self.context.inclusion.front - MAX_LATE_EPOCHS - self.context.parameters.window
        for record in late.values():
            if record.manifest.core.epoch < limit:
                self.uploads.expire(record)

    # locking

    def receive_locked(self, replica: int, message: Locked) -> None:
        own = self.own.get(message.id)
        if own is None or message.group != own.group or replica in own.votes:
            return
        if not self.context.verify_replica(replica, Locked.KIND, message.body(), message.signature):
            self.context.notify("bad_signature", "warning", replica=replica, message=Locked.KIND)
            return
        docket = self.context.docket
        docket.suspect(docket.watch.group(replica, own.lock.content, message.signature, asks=False))
        own.votes[replica] = message.signature
        self._advance(own)

    def _advance(self, own: OwnGroup) -> None:
        if len(own.votes) >= self.context.parameters.quorum:
            votes = tuple(Vote(replica=j, signature=own.votes[j]) for j in sorted(own.votes))
            # First the votes to disk, then the request off it: a crash between the two must not lose the locks.
            self.opening.reveal(own.lock.content, votes)
            if own.lock.content.id in self.own:
                self._forget(own)

    def receive_refused(self, replica: int, message: LockRefused) -> None:
        """A group that more than t replicas refuse can never be locked: its uploads are lost, nothing else."""
        own = self.own.get(message.id)
        if own is None or message.group != own.group:
            return
        if replica not in own.refused:
            own.refused.add(replica)
            self.context.notify(
                "lock_was_refused", "warning", replica=replica, epoch=message.id.epoch, reason=message.reason
            )
        if len(own.refused) > self.context.parameters.byzantine:
            self._forget(own)

    def receive_taken_over(self, replica: int, message: TakenOver) -> None:
        """Others group these uploads: leave them out of what is not yet locked here."""
        until = self.context.now + 2 * self.context.inclusion.patience.seconds
        for member in message.content.members:
            key = (member.client, member.epoch)
            if self.uploads.accepted.get(key) == member.manifest:
                self.taken.setdefault(key, Taken(until)).by.add(replica)

    def _forget(self, own: OwnGroup) -> None:
        del self.own[own.lock.content.id]
        self.context.persist(Delete(Table.GROUPS, OWN + own.lock.content.id.encode()))

    def entered(self, item: Item) -> None:
        """The group is in the ledger, whoever drove it there."""
        own = self.own.get(item.id)
        if own is not None:
            self._forget(own)
        for member in item.members:
            self.taken.pop((member.client, member.epoch), None)

    def _resend(self, own: OwnGroup) -> None:
        own.resend_at = self.context.now + RESEND_SECONDS
        for replica in self.context.others:
            if replica not in own.votes:
                self.context.send_replica(replica, own.lock)

    def replica_connected(self, replica: int) -> None:
        for own in self.own.values():
            if replica not in own.votes:
                self.context.send_replica(replica, own.lock)

    def tick(self) -> None:
        for own in list(self.own.values()):
            if self.context.now >= own.resend_at:
                self._resend(own)
                self._advance(own)
