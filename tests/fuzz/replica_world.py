"""One replica under attack: everything around it, and what may never be seen of it.

Replica 0 is the real machine. Replicas 1 and 2 are honest: a few lines here keep their promises for them (one upload
of a client and epoch vouched for, one group locked). Replica 3 and every client are liars whose keys are at hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import torch

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.digest import content_digest, digest
from asyncfl.effects import (
    Compute,
    DeleteBlob,
    Effect,
    Fetch,
    Notify,
    Persist,
    Put,
    Send,
    SendBlob,
    Table,
)
from asyncfl.errors import StorageError
from asyncfl.evidence.verify import is_lawful
from asyncfl.messages import (
    Attest,
    GroupId,
    Item,
    Lock,
    LockContent,
    Locked,
    Manifest,
    Member,
    Message,
    ModelVote,
    Reveal,
    ShareOk,
    ShareSum,
    Stored,
    Vote,
    attest_body,
    decode_message,
    encode_message,
    share_ok_body,
)
from asyncfl.replica import Replica
from asyncfl.replica.jobs import OpenGroup
from asyncfl.ring import SecretStream
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import MemoryBlobs
from asyncfl.simulation.randomness import SeededSeal
from tests.core.builders import make_parameters

HONEST: Final = (1, 2)
LIAR: Final = 3
CLIENTS: Final = 8
FAR: Final = 2**31 - 1
SIMULATION: Final = Simulation(make_parameters(CLIENTS, cell_size=4, min_group=3), CLIENTS, seed=11)
FEDERATION: Final = SIMULATION.federation
REPLICAS: Final = SIMULATION.replica_ids
IDENTITIES: Final = SIMULATION.client_ids
ASSIGNMENT: Final = Assignment(FEDERATION)


@cache
def cell_of(client: int, epoch: int) -> int:
    return ASSIGNMENT.cell_of(IDENTITIES[client].public, FEDERATION.rosters[0], epoch)


@cache
def made(client: int, epoch: int, variant: int = 0, coordinator: int | None = None) -> masking.Protected:
    """An honest upload; `variant`s are contradictory ones of the same (client, epoch)."""
    cell = cell_of(client, epoch)
    context = masking.UploadContext(
        epoch=epoch, cell=cell, coordinator=cell % 4 if coordinator is None else coordinator,
        roster=0, roster_digest=FEDERATION.rosters[0].digest, base_version=bytes(32),
    )  # fmt: skip
    stream = SecretStream(digest("fuzz upload", repr((client, epoch, variant, coordinator)).encode()))
    return masking.protect(
        torch.zeros(FEDERATION.upload_dimension), context, IDENTITIES[client], FEDERATION,
        stream=stream, seal_with=SeededSeal(stream),
    )  # fmt: skip


class World:
    """The machine, its disk, what it has asked for, and what it has promised over all its lives."""

    def __init__(self) -> None:
        self.now = 100.0
        self.durable: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self.blobs = MemoryBlobs()
        self.uploads: dict[bytes, masking.Protected] = {}
        """All that were ever shown to the machine, by manifest digest."""
        self.opened: dict[bytes, Item] = {}
        """The item of every group that was opened here, by group digest."""
        self.vouched: dict[tuple[int, bytes, int], bytes] = {}
        self.locked: dict[int, dict[object, bytes]] = {j: {} for j in HONEST}
        """What honest replicas have locked: group digest by id, and by upload."""
        self.promised: dict[object, bytes] = {}
        """What the machine has signed, by what it may sign once only."""
        self.own_locked: dict[bytes, bytes] = {}
        """The machine's LOCKED signatures, by group digest."""
        self.own_locks: list[Lock] = []
        self.answered: set[tuple[bytes, int]] = set()
        """Uploads in groups whose share sums the machine has given away."""
        self.answered_groups: set[bytes] = set()
        self.lives = 0
        self.start()

    # the machine's life

    def start(self) -> None:
        self.lives += 1
        self.fetches: dict[bytes, Fetch] = {}
        self.jobs: dict[tuple[Any, ...], Compute] = {}
        self.connected: set[bytes] = set()
        rows = {table: dict(found) for table, found in self.durable.items()}
        self.machine = Replica(FEDERATION, REPLICAS[0], rows, SIMULATION.initial)
        referenced = self.machine.referenced_blobs()
        for name in set(self.blobs.data) - referenced:
            del self.blobs.data[name]
        assert referenced <= set(self.blobs.data), "a row refers to a blob that is not on disk"
        self.take(self.machine.start(self.now))

    def connect(self, peer: bytes) -> None:
        if peer not in self.connected and self.machine.accepts(peer):
            self.connected.add(peer)
            self.take(self.machine.connected(peer, self.now))

    def disconnect(self, peer: bytes) -> None:
        if peer in self.connected:
            self.connected.discard(peer)
            self.take(self.machine.disconnected(peer, self.now))

    def hear(self, peer: bytes, message: Message) -> None:
        """What the transport would deliver: a valid frame of a peer with a channel."""
        self.connect(peer)
        if peer in self.connected:
            self.take(self.machine.receive(peer, decode_message(encode_message(message)), self.now))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.machine.tick(self.now))

    def settle(self, rounds: int = 20) -> None:
        """Serve what is fetched and run what is computed until nothing is left."""
        for _ in range(rounds):
            if not self.fetches and not self.jobs:
                return
            for name in list(self.fetches):
                self.serve(name)
            for key in list(self.jobs):
                self.run_job(key)

    def serve(self, name: bytes, *, well: bool = True) -> None:
        fetch = self.fetches.pop(name, None)
        if fetch is None:
            return
        data = self._known_blob(name)
        if well and (name in self.blobs.data or (data is not None and len(data) == fetch.size)):
            if data is not None:
                self.blobs.data[name] = data
            self.take(self.machine.fetched(fetch.peer, name, self.now))
        else:
            self.take(self.machine.fetch_failed(fetch.peer, name, "the peer does not have it", self.now))

    def _known_blob(self, name: bytes) -> bytes | None:
        found = next((u.payload for u in self.uploads.values() if u.manifest.core.upload == name), None)
        return found if found is not None else self.sums.get(name)

    @property
    def sums(self) -> dict[bytes, bytes]:
        return {item.opened: _opened(group)[1] for group, item in self.opened.items()}

    def run_job(self, key: tuple[Any, ...]) -> None:
        job = self.jobs.pop(key).job
        try:
            result = job.run(self.blobs)
        except Exception as error:
            if isinstance(error, StorageError) and key[0] not in ("open-group", "verify-upload"):
                raise AssertionError(f"{key[0]} lacks a blob that is on disk for ever") from error
            self.take(self.machine.compute_failed(key, error, self.now))
        else:
            self.take(self.machine.computed(key, result, self.now))

    # effects, and what may never be seen in them

    def take(self, effects: Iterable[Effect]) -> None:
        effects = list(effects)
        assert len(effects) < 5000, "one event with thousands of effects"
        for effect in effects:
            match effect:
                case Persist(writes):
                    for write in writes:
                        if isinstance(write, Put):
                            self.durable[write.table][write.key] = write.value
                        else:
                            assert write.table not in (Table.LOCKS, Table.SEEN, Table.MODELS), (
                                "a promise is deleted"
                            )
                            self.durable[write.table].pop(write.key, None)
                case Send(peer, message):
                    assert peer in self.connected, "a message to nobody"
                    assert decode_message(encode_message(message)) == message, (
                        "what it says is no valid message"
                    )
                    self._check_promise(message)
                case Fetch(peer, name, _):
                    assert peer in self.connected
                    self.fetches[name] = effect
                case Compute(key, _):
                    assert key not in self.jobs, "one job is under way twice"
                    self.jobs[key] = effect
                case DeleteBlob(name):
                    if not self.machine.needs(name):
                        self.blobs.data.pop(name, None)
                case SendBlob(peer, _, _):
                    assert peer in self.connected
                case Notify(event):
                    assert event.isidentifier()

    def _promise(self, what: object, value: bytes) -> None:
        assert self.promised.setdefault(what, value) == value, f"two signatures contradict each other: {what}"

    def _rows(self, table: Table) -> dict[bytes, bytes]:
        return self.durable[table]

    def _check_promise(self, message: Message) -> None:
        """Nothing that binds is said before it is on disk, and never the opposite, in any life."""
        match message:
            case ShareOk():
                row = self._rows(Table.SEEN).get(message.client + message.epoch.to_bytes(8, "big"))
                assert row == message.manifest, "SHARE_OK before its row"
                self._promise(("ok", message.client, message.epoch), message.manifest)
            case Stored():
                kept = message.manifest in self._rows(Table.MANIFESTS)
                assert kept or any(message.manifest in row for row in self._rows(Table.ITEMS).values())
            case Locked() | Lock():
                group = message.group if isinstance(message, Locked) else message.content.digest()
                content = self._locked_content(group)
                assert content is not None, "a lock is signed before its row"
                self._promise(("id", content.id), group)
                for member in content.members:
                    self._promise(("lock", member.client, member.epoch), group)
                if isinstance(message, Locked):
                    self.own_locked[group] = message.signature
                else:
                    self.own_locks.append(message)
            case ShareSum():
                content = self._locked_content(message.group)
                assert content is not None, "a share sum is given before the group is on disk as locked"
                if message.group not in self.answered_groups:
                    keys = {(member.client, member.epoch) for member in content.members}
                    assert len(content.members) >= FEDERATION.parameters.min_group
                    assert not keys & self.answered, "an upload is in two groups that were answered"
                    self.answered |= keys
                    self.answered_groups.add(message.group)
                self._promise(("sum", message.group), message.total)
            case Attest():
                assert message.item in self._rows(Table.ITEMS), "ATTEST before its item"
                self._promise(("attest", message.id), message.item)
            case ModelVote():
                assert self._rows(Table.MODELS).get(message.version) == message.model, (
                    "MODEL_VOTE before its row"
                )
                self._promise(("model", message.version), message.model)
            case _:
                return

    def _locked_content(self, group: bytes) -> LockContent | None:
        contents = (LockContent.decode(row) for row in self._rows(Table.LOCKS).values())
        return next((content for content in contents if content.digest() == group), None)

    # what others say

    def sign(self, replica: int, kind: str, body: bytes) -> bytes:
        return REPLICAS[replica].sign(kind, FEDERATION.digest, body)

    def upload(self, upload: masking.Protected) -> bytes:
        name = upload.manifest.digest()
        self.uploads[name] = upload
        return name

    def ok(self, replica: int, manifest: Manifest) -> bytes | None:
        """An honest replica's SHARE_OK, or the liar's for anything."""
        core, name = manifest.core, manifest.digest()
        if replica in HONEST and self.vouched.setdefault((replica, core.client, core.epoch), name) != name:
            return None
        return self.sign(replica, ShareOk.KIND, share_ok_body(core.client, core.epoch, name))

    def lock_of(self, replica: int, content: LockContent) -> bytes | None:
        """An honest replica's LOCKED signature, if it may give one; the liar's, always."""
        group = content.digest()
        if replica in HONEST:
            members = [(member.client, member.epoch) for member in content.members]
            keys: list[object] = [content.id, *members]
            table = self.locked[replica]
            if not self._keeps_rule_four(content) or any(table.get(key, group) != group for key in keys):
                return None
            table.update(dict.fromkeys(keys, group))
        return self.sign(replica, Locked.KIND, group)

    def _keeps_rule_four(self, content: LockContent) -> bool:
        """Whether an honest replica would sign: a whole group of one cell (nothing rides on top here)."""
        if any(member.manifest not in self.uploads for member in content.members):
            return False
        cores = [self.uploads[member.manifest].manifest.core for member in content.members]
        place = (content.id.epoch, content.id.cell)
        return is_lawful(FEDERATION, content) and all((core.epoch, core.cell) == place for core in cores)

    def content(self, names: Iterable[bytes], coordinator: int, part: int) -> LockContent | None:
        """A group of known uploads, sorted as the protocol has it; None for an empty one."""
        uploads = [self.uploads[name] for name in dict.fromkeys(names)][:63]
        if not uploads:
            return None
        members = sorted(
            (u.manifest.core.client, u.manifest.core.epoch, u.manifest.digest()) for u in uploads
        )
        core = max((u.manifest.core for u in uploads), key=lambda core: core.epoch)
        return LockContent(
            id=GroupId(epoch=core.epoch, cell=core.cell, coordinator=coordinator, part=part),
            members=tuple(Member(client=c, epoch=e, manifest=m) for c, e, m in members),
        )

    def votes(self, content: LockContent, signers: Iterable[int]) -> tuple[Vote, ...]:
        """Of those that would sign; the machine's own if it did."""
        found = {}
        for replica in sorted(set(signers)):
            given = self.own_locked.get(content.digest()) if replica == 0 else self.lock_of(replica, content)
            if given is not None:
                found[replica] = given
        return tuple(Vote(replica=j, signature=signature) for j, signature in found.items())

    def share_sum(self, replica: int, content: LockContent) -> ShareSum | None:
        """The right answer, which a replica gives for a group that n-t have locked."""
        if any(member.manifest not in self.uploads for member in content.members):
            return None
        shares = [_share(self.uploads[member.manifest], replica) for member in content.members]
        group = content.digest()
        message = ShareSum(
            id=content.id, group=group, total=masking.sum_packed(shares, FEDERATION), signature=bytes(64)
        )
        return message.model_copy(update={"signature": self.sign(replica, ShareSum.KIND, message.body())})

    def open(self, content: LockContent) -> Item:
        """The item that honest replicas make of a group; remembers the sum for those that pull it."""
        group = content.digest()
        _OPENED[group] = _open(tuple(self.uploads[member.manifest] for member in content.members))
        item = Item(id=content.id, members=content.members, opened=content_digest(_opened(group)[1]))
        self.opened[group] = item
        return item

    def attestations(self, item: Item) -> tuple[Vote, ...]:
        """Of both honest replicas, which have opened the group."""
        body = attest_body(item.id, item.digest())
        return tuple(Vote(replica=j, signature=self.sign(j, Attest.KIND, body)) for j in HONEST)

    def revealed(self) -> list[LockContent]:
        """The groups that are locked by n-t, by what the machine has on disk."""
        rows = self._rows(Table.GROUPS)
        return [Reveal.decode(row).content for key, row in rows.items() if not key.startswith(b"own:")]


_OPENED: dict[bytes, tuple[bytes, bytes]] = {}


def _opened(group: bytes) -> tuple[bytes, bytes]:
    """(sum of secrets, opened sum) of a group that was opened."""
    return _OPENED[group]


def _share(upload: masking.Protected, replica: int) -> bytes:
    return masking.open_share(upload.manifest, replica, REPLICAS[replica], FEDERATION)


def _open(uploads: tuple[masking.Protected, ...]) -> tuple[bytes, bytes]:
    blobs = MemoryBlobs()
    for upload in uploads:
        blobs.write(upload.payload)
    answers = {j: masking.sum_packed([_share(u, j) for u in uploads], FEDERATION) for j in HONEST}
    names = [upload.manifest.core.upload for upload in uploads]
    result = OpenGroup(names, answers, None, FEDERATION).run(blobs)
    return result.secret, blobs.read(result.blob)
