"""Uploads on their way: manifests, masked payloads, own shares, and who has vouched for what.

An upload is *stored* once its payload is on disk and its public part verified; *vouched for* once this
replica's own share is valid too and it is the only upload of its (client, epoch) that this replica accepts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from asyncfl import masking
from asyncfl.durable import require_name
from asyncfl.effects import Delete, Put, Table
from asyncfl.errors import DealingError, InvalidItem
from asyncfl.evidence import BadManifest, FalseProof, TwoUploads
from asyncfl.groups import check_assignment
from asyncfl.messages import (
    Expired,
    Manifest,
    Refused,
    Relay,
    ShareBad,
    ShareOk,
    Stored,
    Upload,
    Wait,
    share_ok_body,
)
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.jobs import Dealt, VerifyUpload
from asyncfl.wire import pack, unpack

MAX_UNOPENED_PER_CLIENT = 24
KEEP_EPOCHS = 16
KEEP_LOCKED_EPOCHS = 64
MAX_EARLY_OKS = 4096
VERIFY = "verify-upload"

UploadKey = tuple[bytes, int]


@dataclass(slots=True)
class UploadRecord:
    """One upload that is not yet in a certified entry."""

    manifest: Manifest
    digest: bytes
    stored: bool = False
    share: bytes | None = None
    share_bad: bool = False
    carrier: bool = False
    """Came from the client itself: relayed from here until everybody has answered."""
    oks: dict[int, bytes] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    """Replicas that answered SHARE_OK or SHARE_BAD."""
    refused_by: set[int] = field(default_factory=set)
    """Replicas that answered REFUSED since they were last connected: it is not relayed to them again."""
    pinned: bool = False
    """Part of a group that was locked or revealed here: kept longer."""
    expired: bool = False
    relay_at: float = 0.0

    @property
    def key(self) -> UploadKey:
        return self.manifest.core.client, self.manifest.core.epoch


def seen_key(client: bytes, epoch: int) -> bytes:
    return client + epoch.to_bytes(8, "big")


class Uploads:
    """The uploads one replica holds, by manifest digest."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.records: dict[bytes, UploadRecord] = {}
        self.accepted: dict[UploadKey, bytes] = {}
        self.changed: set[bytes] = set()
        """Uploads that were stored, vouched for or dropped since somebody last looked."""
        self._first: dict[UploadKey, bytes] = {}
        """Of the uploads of one (client, epoch) that are held, the first."""
        self._by_payload: dict[bytes, list[bytes]] = defaultdict(list)
        self._unopened: dict[bytes, int] = defaultdict(int)
        self._early: dict[bytes, dict[int, tuple[UploadKey, bytes]]] = {}
        self._early_since = 0
        """The front at which SHARE_OKs of uploads too long past were last forgotten."""
        self._awaiting: dict[bytes, Manifest] = {}
        """The last upload of a client that names a roster not held here, by client."""
        self.is_needed: Callable[[bytes], bool] = lambda blob: False
        """Whether anything else has this digest: a manifest can name any blob as its payload."""
        self._arrived: set[bytes] = set()
        """Payloads that are on disk. Others of the same name, as the sum that a job has just written, are not ours."""

    def load(
        self, manifests: dict[bytes, bytes], shares: dict[bytes, bytes], seen: dict[bytes, bytes]
    ) -> None:
        """Restore what was on disk."""
        for key, digest in seen.items():
            self.accepted[key[:32], int.from_bytes(key[32:], "big")] = digest
        for digest, value in manifests.items():
            encoded, carrier = unpack(value)
            record = UploadRecord(Manifest.decode(encoded), digest, carrier=bool(carrier), stored=True)
            require_name(digest, record.manifest.digest())
            share = shares.get(digest)
            record.share = share or None
            record.share_bad = share == b""
            self._insert(record)
            self._arrived.add(record.manifest.core.upload)
            if record.share and self.accepted.get(record.key) == digest:
                record.oks[self.context.index] = self._sign(ShareOk.KIND, record)
            record.answered.add(self.context.index)

    # arrival

    def receive_upload(self, client: bytes, message: Upload) -> None:
        """UPLOAD from the client itself."""
        core = message.manifest.core
        if core.client != client:
            self._refuse(client, message.manifest, "the manifest is another client's")
            return
        self._accept(message.manifest, client, carrier=True)

    def receive_relay(self, replica: int, message: Relay, *, asked_for: bool) -> None:
        """RELAY from a replica; `asked_for` when this replica requested the manifest for a lock or an entry."""
        source = self.context.federation.replica_keys[replica]
        self._accept(message.manifest, source, carrier=False, asked_for=asked_for)

    def _accept(self, manifest: Manifest, source: bytes, *, carrier: bool, asked_for: bool = False) -> None:
        context, core = self.context, manifest.core
        digest = manifest.digest()
        key = (core.client, core.epoch)
        record = self.records.get(digest)
        if record is None:
            self._suspect_second(manifest, digest)
            if key in context.ledger.included:
                self._answer_included(manifest, digest, source, carrier=carrier)
                return
            if not asked_for and not self._has_room(manifest, digest, source):
                return
            if not self._is_assigned(manifest, source, carrier=carrier, asked_for=asked_for):
                return
            record = UploadRecord(manifest, digest)
            self._insert(record)
        if carrier and not record.carrier:
            record.carrier = True
            if record.stored:
                context.persist(self._manifest_row(record))
        if record.stored:
            self._answer(record, source)
        else:
            context.want(core.upload, context.parameters.upload_bytes(context.federation.dimension), source)

    def _is_assigned(self, manifest: Manifest, source: bytes, *, carrier: bool, asked_for: bool) -> bool:
        """Whether a manifest is well-formed, of its client, and in the cell of a roster that may be named."""
        context, core = self.context, manifest.core
        try:
            masking.check_manifest(manifest, context.federation)
            if core.roster > context.rosters.highest:
                self._await_roster(manifest, source, carrier=carrier)
                return False
            check_assignment(manifest, context.federation, context.rosters, context.assignment)
            if not asked_for and not context.rosters.is_current(core.roster, core.epoch):
                newest = context.rosters.at(core.epoch).number
                raise InvalidItem(
                    f"the upload names roster {core.roster}; epoch {core.epoch} is roster {newest}'s"
                )
        except InvalidItem as error:
            context.docket.suspect((BadManifest(manifest=manifest),))
            self._refuse(source, manifest, str(error))
            return False
        return True

    def _suspect_second(self, manifest: Manifest, digest: bytes) -> None:
        """An upload other than the one that is held: an honest client never signs two for one epoch."""
        core = manifest.core
        other = self.records.get(self._first.get((core.client, core.epoch), digest))
        if other is not None:
            first, second = sorted((manifest, other.manifest), key=Manifest.digest)
            self.context.docket.suspect((TwoUploads(first=first, second=second),))

    def _reason_to_refuse(self, client: bytes) -> str | None:
        """Why nothing of this client is vouched for any more; None for most."""
        if client in self.context.docket.convicted:
            return "there is proof that this client has dealt badly"
        if client in self.context.exclusions.in_force.clients:
            return "the operator has excluded this client"
        return None

    def _has_room(self, manifest: Manifest, digest: bytes, source: bytes) -> bool:
        context, core = self.context, manifest.core
        reason = self._reason_to_refuse(core.client)
        if reason is not None:
            self._refuse(source, manifest, reason)
            return False
        other = self.accepted.get((core.client, core.epoch))
        if other is not None and other != digest:
            self._refuse(source, manifest, f"another upload of epoch {core.epoch} was accepted before")
            return False
        limit = context.inclusion.front + context.parameters.window
        if core.epoch > limit:
            self._postpone(source, core.epoch, f"epoch {core.epoch} is beyond front + window = {limit}")
            return False
        if core.epoch + KEEP_EPOCHS < context.inclusion.front:
            self._refuse(source, manifest, f"epoch {core.epoch} is too long past")
            return False
        if self._unopened[core.client] >= MAX_UNOPENED_PER_CLIENT:
            self._postpone(source, core.epoch, f"{MAX_UNOPENED_PER_CLIENT} uploads wait to be opened already")
            return False
        return True

    def _await_roster(self, manifest: Manifest, source: bytes, *, carrier: bool) -> None:
        """It names a roster not held here: who sent it has the statement. One upload of each client is kept.

        What came from a replica is not kept: it is sent again within a second.
        """
        core = manifest.core
        self.context.request_rosters(source)
        if carrier:
            self._awaiting[core.client] = manifest
        self._postpone(
            source, core.epoch, f"the operator's statement of roster {core.roster} is not here yet"
        )

    def rosters_changed(self) -> None:
        """A roster was added: look again at the uploads that wait for one."""
        awaiting, self._awaiting = self._awaiting, {}
        for client, manifest in awaiting.items():
            self._accept(manifest, client, carrier=True)

    def _postpone(self, source: bytes, epoch: int, reason: str) -> None:
        """Not now: whoever carries the upload asks again."""
        self.context.notify("upload_postponed", "debug", epoch=epoch, reason=reason)
        if source not in self.context.federation.replica_index:
            self.context.send(source, Wait(epoch=epoch, reason=reason))

    def _answer_included(self, manifest: Manifest, digest: bytes, source: bytes, *, carrier: bool) -> None:
        core = manifest.core
        item = self.context.ledger.items[self.context.ledger.included[core.client, core.epoch]]
        if carrier and any(member.manifest == digest for member in item.members):
            self.context.send(source, Stored(epoch=core.epoch, manifest=digest))
        elif carrier:
            self._refuse(source, manifest, f"another upload of epoch {core.epoch} is in the ledger")

    def _insert(self, record: UploadRecord) -> None:
        core = record.manifest.core
        self.records[record.digest] = record
        self._first.setdefault(record.key, record.digest)
        self._by_payload[core.upload].append(record.digest)
        self._unopened[core.client] += 1
        for replica, (key, signature) in self._early.pop(record.digest, {}).items():
            if key != record.key:
                continue
            record.oks[replica] = signature
            record.answered.add(replica)

    def _refuse(self, peer: bytes, manifest: Manifest, reason: str) -> None:
        core = manifest.core
        self.context.notify(
            "upload_refused", "warning", client=core.client.hex()[:12], epoch=core.epoch, reason=reason
        )
        self.context.send(peer, Refused(epoch=core.epoch, manifest=manifest.digest(), reason=reason[:400]))

    # verification

    def holds(self, payload: bytes) -> bool:
        """Whether an upload that is held names this blob."""
        return payload in self._by_payload

    def payload_arrived(self, payload: bytes) -> None:
        """A blob is on disk: verify every upload that it belongs to."""
        if self.holds(payload):
            self._arrived.add(payload)
        for digest in self._by_payload.get(payload, ()):
            record = self.records[digest]
            if not record.stored:
                job = VerifyUpload(
                    record.manifest, self.context.index, self.context.identity, self.context.federation
                )
                self.context.compute((VERIFY, digest), job)

    def verified(self, digest: bytes, dealt: Dealt) -> None:
        """The public part holds."""
        context, record, share = self.context, self.records.get(digest), dealt.share
        if record is None or record.stored:
            return
        if dealt.evidence is not None:
            context.docket.suspect((dealt.evidence,))
        record.stored, record.share, record.share_bad = True, share, share is None
        writes = [self._manifest_row(record), Put(Table.SHARES, digest, share or b"")]
        client, epoch = record.key
        front = context.inclusion.front
        # One pulled for a lock may be of any epoch: a coordinator must not buy OKs for epochs nobody is at.
        timely = epoch <= front + context.parameters.window and epoch + KEEP_EPOCHS >= front
        timely = timely and context.rosters.is_current(record.manifest.core.roster, epoch)
        timely = timely and self._reason_to_refuse(client) is None
        if share is not None and record.key not in self.accepted and timely:
            self.accepted[record.key] = digest
            writes.append(Put(Table.SEEN, seen_key(client, epoch), digest))
            context.inclusion.worked_on(epoch, context.now)
        context.persist(*writes)
        if share is not None and self.accepted.get(record.key) == digest:
            record.oks[context.index] = self._sign(ShareOk.KIND, record)
        if record.share_bad:
            context.notify("share_bad", "warning", client=client.hex()[:12], epoch=epoch)
        record.answered.add(context.index)
        self.changed.add(digest)
        verdict = self._verdict(record)
        if verdict is not None:
            context.broadcast(verdict)
        if record.carrier:
            context.inclusion.stored(client, epoch, context.now)
            context.send(client, Stored(epoch=epoch, manifest=digest))
            self._relay(record)

    def rejected(self, digest: bytes, error: InvalidItem) -> None:
        """The public part does not hold: nobody can count this upload."""
        record = self.records.get(digest)
        if record is not None and not record.stored:
            if isinstance(error, DealingError):
                proof = FalseProof(manifest=record.manifest, checks=error.shown)
                self.context.docket.suspect((proof,))
            self._refuse(record.manifest.core.client, record.manifest, str(error))
            self.drop(digest)

    def _sign(self, kind: str, record: UploadRecord) -> bytes:
        return self.context.sign(kind, share_ok_body(*record.key, record.digest))

    def _verdict(self, record: UploadRecord) -> ShareOk | ShareBad | None:
        """What this replica says of its share; None when it vouched for another upload of this (client, p)."""
        client, epoch = record.key
        own = record.oks.get(self.context.index)
        if own is not None:
            return ShareOk(client=client, epoch=epoch, manifest=record.digest, signature=own)
        if record.share_bad:
            signature = self._sign(ShareBad.KIND, record)
            return ShareBad(client=client, epoch=epoch, manifest=record.digest, signature=signature)
        return None

    def _answer(self, record: UploadRecord, source: bytes) -> None:
        """Repeat to `source` what was said of a stored upload."""
        core = record.manifest.core
        if source == core.client:
            self.context.inclusion.stored(core.client, core.epoch, self.context.now)
            self.context.send(source, Stored(epoch=core.epoch, manifest=record.digest))
            return
        verdict = self._verdict(record)
        if verdict is not None:
            self.context.send(source, verdict)

    def _manifest_row(self, record: UploadRecord) -> Put:
        value = pack((record.manifest.encode(), int(record.carrier)))
        return Put(Table.MANIFESTS, record.digest, value)

    # other replicas' verdicts

    def receive_verdict(self, replica: int, message: ShareOk | ShareBad) -> None:
        """SHARE_OK or SHARE_BAD of another replica; it may come before the upload itself."""
        record = self.records.get(message.manifest)
        answered = record is not None and replica in record.answered
        if record is not None and answered and (replica in record.oks) == isinstance(message, ShareOk):
            return
        if not self.context.verify_replica(replica, message.KIND, message.body(), message.signature):
            self.context.notify("bad_signature", "warning", replica=replica, message=message.KIND)
            return
        docket = self.context.docket
        docket.suspect(docket.watch.verdict(replica, message))
        if answered:
            return
        if record is None:
            if isinstance(message, ShareOk) and (message.client, message.epoch) not in (
                self.context.ledger.included
            ):
                if len(self._early) >= MAX_EARLY_OKS:
                    self._early.pop(next(iter(self._early)))
                self._early.setdefault(message.manifest, {})[replica] = (
                    (message.client, message.epoch),
                    message.signature,
                )
            return
        if (message.client, message.epoch) != record.key:
            return
        record.answered.add(replica)
        if isinstance(message, ShareOk):
            record.oks[replica] = message.signature
            self.changed.add(record.digest)

    def receive_refused(self, replica: int, message: Refused) -> None:
        """A replica does not take what was relayed to it; where a LOCK needs it, it asks for it by itself."""
        record = self.records.get(message.manifest)
        if record is not None:
            record.refused_by.add(replica)

    # repetition and clean-up

    def _relay(self, record: UploadRecord) -> None:
        record.relay_at = self.context.now + RESEND_SECONDS
        for replica in self.context.others:
            if replica not in record.answered | record.refused_by:
                self.context.send_replica(replica, Relay(manifest=record.manifest))

    def replica_connected(self, replica: int) -> None:
        """Tell a returning replica of everything carried here that it has not answered."""
        for record in self.records.values():
            record.refused_by.discard(replica)  # started again, it may be at an earlier epoch
            if record.carrier and record.stored and replica not in record.answered:
                self.context.send_replica(replica, Relay(manifest=record.manifest))

    def _forget_early(self, front: int) -> None:
        """SHARE_OKs of uploads that would be deleted if they came now."""
        self._early_since = front
        for digest, oks in list(self._early.items()):
            kept = {j: ok for j, ok in oks.items() if front <= ok[0][1] + KEEP_EPOCHS}
            if kept:
                self._early[digest] = kept
            else:
                del self._early[digest]

    def tick(self) -> None:
        front = self.context.inclusion.front
        if front != self._early_since:
            self._forget_early(front)
        for record in list(self.records.values()):
            keep = KEEP_LOCKED_EPOCHS if record.pinned else KEEP_EPOCHS
            if front > record.manifest.core.epoch + keep:
                self.drop(record.digest)
            elif record.carrier and record.stored and self.context.now >= record.relay_at:
                self._relay(record)

    def expire(self, record: UploadRecord) -> None:
        """Give an upload up: it found no group within its time."""
        client, epoch = record.key
        record.expired = True
        self.context.notify("upload_expired", "warning", client=client.hex()[:12], epoch=epoch)
        self.context.send(client, Expired(epoch=epoch, manifest=record.digest))

    def drop(self, digest: bytes) -> None:
        """Delete an upload's bytes and share; that it was seen stays on record."""
        record = self.records.pop(digest, None)
        if record is None:
            return
        core = record.manifest.core
        if self._first.get(record.key) == digest:
            del self._first[record.key]
        self._unopened[core.client] -= 1
        if record.stored:
            self.context.persist(Delete(Table.MANIFESTS, digest), Delete(Table.SHARES, digest))
        sharing = self._by_payload[core.upload]
        sharing.remove(digest)
        if not sharing:
            del self._by_payload[core.upload]
            arrived = core.upload in self._arrived
            self._arrived.discard(core.upload)
            if not self.is_needed(core.upload):
                self.context.want_no_more(core.upload)
                if arrived:
                    self.context.delete_blob(core.upload)
        self.changed.add(digest)
