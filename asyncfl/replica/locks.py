"""The lock round at a signer: each id and each (client, epoch) is locked once, for ever.

Two locked groups that share an upload or an id would need two sets of n-t signers; these share at least
n-2t >= t+1 members, one of them honest, who signs once. So groups that are revealed are the same at every
honest replica, and disjoint. Whether this replica signs depends on the request and on its lock table alone:
the clock, its ledger or its own opinion of a share may delay a signature, never refuse it (protocol
section 4, step 5, with the attacks that this answers).

What the request shows by itself is checked first, its SHARE_OKs included; only then is anything pulled. Of n-t
valid ones n-2t are honest, and were given within the bounds that `Uploads` keeps: nothing else gets onto this disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asyncfl.effects import Put, Table
from asyncfl.errors import InvalidItem
from asyncfl.groups import check_ages, check_group, check_members, taken_over
from asyncfl.inclusion import PATIENCE_AT_FIRST
from asyncfl.kept import Kept
from asyncfl.messages import (
    Front,
    GroupId,
    Lock,
    LockContent,
    Locked,
    LockRefused,
    ManifestRequest,
    ShareOk,
    TakenOver,
)
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.jobs import VerifyOks
from asyncfl.replica.uploads import UploadKey, UploadRecord, Uploads

CHECK = "check-lock"
MAX_PENDING_PER_REPLICA = 64
HOLD_PATIENCES = 4.0
"""How long a takeover is held at most, in units of patience (the larger of this replica's and that of the coordinators
named): where two replicas cannot reach each other but all others reach both, holding for ever would leave the asker's
uploads locked at itself alone."""


class LockTable:
    """What this replica has locked. Grows only; on disk before any signature leaves."""

    def __init__(self) -> None:
        self.by_id = Kept[GroupId, LockContent](GroupId, LockContent)
        self.by_upload: dict[UploadKey, bytes] = {}
        """Encoded ids."""
        self._first: dict[GroupId, LockContent] = {}
        """What was locked first under an id that stands for something else now: its row is named by the id alone, and
        never written over."""
        self.contested: set[GroupId] = set()
        """Groups that n-t others locked although this replica had locked something else: it never signs them, for two
        signatures that contradict each other are what convicts a liar. Nobody needs its vote any more."""

    def load(self, rows: dict[bytes, bytes]) -> None:
        for key in sorted(rows):
            self.record(LockContent.decode(rows[key]))

    def conflict(self, content: LockContent) -> LockContent | None:
        """A group locked here that shares the id or a member with different `content`."""
        same = self.by_id.get(content.id)
        if same is not None:
            return None if same == content else same
        for member in content.members:
            other = self.by_upload.get((member.client, member.epoch))
            if other is not None:
                return self.by_id[GroupId.decode(other)]
        return None

    def record(self, content: LockContent) -> Put:
        """Enter `content`; returns the row that must be on disk before anybody hears of it.

        A group that n-t others locked replaces what was locked here under its id, which can never be revealed any
        more; that row stays, for the members it has locked.
        """
        held, name = self.by_id.get(content.id), content.id.encode()
        first, key = self._first.get(content.id, held), name
        if first is not None and first != content:
            key += content.digest()
            self._first[content.id] = first
        rivals = {self.by_upload.get((member.client, member.epoch), name) for member in content.members} - {
            name
        }
        if rivals or (held is not None and held != content):
            # Which of them was signed is not on disk: after a restart none of them is signed again.
            self.contested |= {content.id, *map(GroupId.decode, rivals)}
        self.by_id[content.id] = content
        for member in content.members:
            self.by_upload[member.client, member.epoch] = name
        return Put(Table.LOCKS, key, content.encode())


@dataclass(slots=True)
class PendingLock:
    """A request that waits for a verification, manifests, payloads or a coordinator within reach."""

    lock: Lock
    asker: int
    group: bytes
    oks_valid: bool = False
    """From then on what is lacking is pulled."""
    pull_at: float = 0.0
    hold_until: float | None = None
    """Set when everything but reachability has been checked."""


class Locks:
    """Answers LOCK requests."""

    def __init__(self, context: Context, uploads: Uploads) -> None:
        self.context = context
        self.uploads = uploads
        self.table = LockTable()
        self.pending: dict[GroupId, PendingLock] = {}
        self.unannounced: dict[int, dict[GroupId, LockContent]] = {}
        """Takeovers signed here, by named coordinator, until the entry is in the ledger."""
        self.is_taken: Callable[[UploadKey, int], bool] = lambda key, asker: False
        """Whether t+1 replicas, the asker among them, say that an upload naming this replica was taken over."""
        self._patience_of: dict[int, float] = {}
        """Seconds that other replicas say they are patient for."""

    def receive_front(self, replica: int, message: Front) -> None:
        """Another replica's FRONT, of which its patience matters: so long it may wait for the rest of a cell.

        Up to what a replica has that has measured nothing yet: a liar must not keep others from its uploads.
        """
        self._patience_of[replica] = min(PATIENCE_AT_FIRST, message.patience / 1000)

    def receive_lock(self, asker: int, lock: Lock) -> None:
        """LOCK from its coordinator; anybody else's is ignored."""
        context, content = self.context, lock.content
        if content.id.coordinator != asker:
            return
        group = content.digest()
        if not context.verify_replica(asker, Lock.KIND, group, lock.signature):
            context.notify("bad_signature", "warning", replica=asker, message=Lock.KIND)
            return
        context.docket.suspect(context.docket.watch.group(asker, content, lock.signature, asks=True))
        if self.table.by_id.get(content.id) == content:
            if content.id not in self.table.contested:
                self._answer(asker, content, group)
            return
        if self._refuse_on_conflict(asker, content, group):
            return
        pending = self.pending.get(content.id)
        if pending is None:
            if sum(1 for p in self.pending.values() if p.asker == asker) >= MAX_PENDING_PER_REPLICA:
                return
            self.pending[content.id] = pending = PendingLock(lock, asker, group)
        self._progress(pending)

    def _answer(self, asker: int, content: LockContent, group: bytes) -> None:
        """Repeat, or give, the signature: the lock is on disk (or its write precedes this send)."""
        signature = self.context.sign(Locked.KIND, group)
        self.context.send_replica(asker, Locked(id=content.id, group=group, signature=signature))

    def _refuse(
        self, asker: int, content: LockContent, group: bytes, reason: str, conflict: LockContent | None
    ) -> None:
        self.context.notify(
            "lock_refused",
            "debug" if conflict else "warning",
            coordinator=asker,
            epoch=content.id.epoch,
            cell=content.id.cell,
            reason=reason,
        )
        refusal = LockRefused(
            id=content.id, group=group, reason=reason[:400], conflict=(conflict,) if conflict else ()
        )
        self.context.send_replica(asker, refusal)

    def _refuse_on_conflict(self, asker: int, content: LockContent, group: bytes) -> bool:
        conflict = self.table.conflict(content)
        if conflict is not None:
            self._refuse(asker, content, group, "the id or a member is locked in another group", conflict)
        return conflict is not None

    def progress(self) -> None:
        """Something changed: look at every request again."""
        for pending in list(self.pending.values()):
            self._progress(pending)

    def _progress(self, pending: PendingLock) -> None:
        context, lock, content = self.context, pending.lock, pending.lock.content
        if not pending.oks_valid:
            self._check(pending)
            return
        records = self._collect(pending)
        if records is None:
            return
        if pending.hold_until is None and not self._keeps_rule_four(pending, records):
            return
        if self._is_held(pending, records):
            return
        del self.pending[content.id]
        if self._refuse_on_conflict(pending.asker, content, pending.group):
            return
        context.persist(self.table.record(content))
        for record in records:
            record.pinned = True
        self._answer(pending.asker, content, pending.group)
        self._announce(lock, records)

    def _collect(self, pending: PendingLock) -> list[UploadRecord] | None:
        """All members' uploads, verified; pulls what is missing from the asker."""
        records: list[UploadRecord] = []
        missing: list[bytes] = []
        for member in pending.lock.content.members:
            record = self.uploads.records.get(member.manifest)
            if record is None:
                missing.append(member.manifest)
            elif record.stored:
                records.append(record)
        if missing and self.context.now >= pending.pull_at:
            pending.pull_at = self.context.now + RESEND_SECONDS
            self.context.send_replica(pending.asker, ManifestRequest(manifests=tuple(missing)))
        return records if len(records) == len(pending.lock.content.members) else None

    def _check(self, pending: PendingLock) -> None:
        """What the request shows without its manifests; signatures that are not yet known in a job."""
        context, lock = self.context, pending.lock
        parameters = context.parameters
        try:
            check_members(lock.content, parameters)
            check_ages(lock.content)
            supporters = set(lock.supporters)
            if len(supporters) != len(lock.supporters) or len(supporters) < parameters.quorum:
                raise InvalidItem(f"a LOCK needs the SHARE_OKs of {parameters.quorum} distinct replicas")
            if max(supporters) >= parameters.replicas:
                raise InvalidItem("a supporter is not one of the replicas")
            if any(len(signatures) != len(lock.supporters) for signatures in lock.oks) or len(
                lock.oks
            ) != len(lock.content.members):
                raise InvalidItem("SHARE_OKs do not match members and supporters")
        except InvalidItem as error:
            self._drop(pending, str(error))
            return
        records = (self.uploads.records.get(member.manifest) for member in lock.content.members)
        known = {(r.digest, replica): ok for r in records if r is not None for replica, ok in r.oks.items()}
        context.compute((CHECK, pending.group), VerifyOks(lock, known, context.federation))

    def _keeps_rule_four(self, pending: PendingLock, records: list[UploadRecord]) -> bool:
        """Rule 4 with the manifests at hand; refuses what breaks it."""
        context, manifests = self.context, [record.manifest for record in records]
        try:
            check_group(
                pending.lock.content, manifests, context.federation, context.rosters, context.assignment
            )
        except InvalidItem as error:
            self._drop(pending, str(error))
            return False
        return True

    def _drop(self, pending: PendingLock, reason: str) -> None:
        """Refuse a request, and forget it."""
        del self.pending[pending.lock.content.id]
        self._refuse(pending.asker, pending.lock.content, pending.group, reason, None)

    def checked(self, group: bytes, valid: bool) -> None:
        """The SHARE_OKs of a pending request were verified."""
        pending = next((p for p in self.pending.values() if p.group == group), None)
        if pending is None:
            return
        if valid:
            pending.oks_valid = True
            self._note_oks(pending.lock)
            self._progress(pending)
        else:
            self._drop(pending, "a SHARE_OK is not valid")

    def _note_oks(self, lock: Lock) -> None:
        """SHARE_OKs that were not heard here, and may contradict others that were."""
        docket = self.context.docket
        for member, signatures in zip(lock.content.members, lock.oks, strict=True):
            record = self.uploads.records.get(member.manifest)
            for replica, signature in zip(lock.supporters, signatures, strict=True):
                if replica != self.context.index and (record is None or replica not in record.oks):
                    ok = ShareOk(
                        client=member.client,
                        epoch=member.epoch,
                        manifest=member.manifest,
                        signature=signature,
                    )
                    docket.suspect(docket.watch.verdict(replica, ok))

    def _is_held(self, pending: PendingLock, records: list[UploadRecord]) -> bool:
        """A takeover waits while the coordinator that members name can be reached.

        That one itself waits too: else whoever asks it for its own uploads is given them while their cell gathers.
        """
        named = taken_over(pending.lock.content, [record.manifest for record in records])
        if pending.hold_until is None:
            # A replica that has measured no upload yet is patient for ten times as long as one that has.
            theirs = (self._patience_of.get(j, PATIENCE_AT_FIRST) for j in named - {self.context.index})
            patience = max([self.context.inclusion.patience.seconds, *theirs])
            pending.hold_until = self.context.now + HOLD_PATIENCES * patience
        if self.context.now >= pending.hold_until or self.table.conflict(pending.lock.content) is not None:
            return False
        mine = [record.key for record in records if record.manifest.core.coordinator == self.context.index]
        if not all(self.is_taken(key, pending.asker) for key in mine):
            return True
        return any(self.context.is_connected(j) for j in named if j != self.context.index)

    def _announce(self, lock: Lock, records: list[UploadRecord]) -> None:
        """Tell coordinators whose uploads were taken over, now or when they return."""
        for replica in taken_over(lock.content, [record.manifest for record in records]):
            if replica != self.context.index:
                self.unannounced.setdefault(replica, {})[lock.content.id] = lock.content
                self.context.send_replica(replica, TakenOver(content=lock.content))

    def replica_connected(self, replica: int) -> None:
        """A coordinator returned: tell it which of its uploads others have taken over."""
        waiting = self.unannounced.get(replica, {})
        for group_id, content in list(waiting.items()):
            if group_id in self.context.ledger.by_id:
                del waiting[group_id]
            else:
                self.context.send_replica(replica, TakenOver(content=content))
