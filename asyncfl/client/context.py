"""What the parts of a client share: public facts, where it is, what it has on disk, and the effects so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from asyncfl.assignment import Assignment
from asyncfl.client.fronts import Fronts
from asyncfl.client.work import Work
from asyncfl.durable import explaining_rows
from asyncfl.effects import Compute, Effect, Job, Notify, Persist, Put, Send, Table
from asyncfl.errors import ConfigurationError
from asyncfl.evidence import Docket
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.masking import check_manifest
from asyncfl.messages import Manifest, Message, Task
from asyncfl.rosters import Rosters, roster_key
from asyncfl.wire import pack, unpack

EPOCH = b"epoch"
SEEN_ENTRIES = b"seen-entries"
SEEN_STATEMENT = b"seen-statement"
PENDING = b"pending-upload"
UPLOADED = b"uploaded"


class State(StrEnum):
    ASKING = "asking"
    TRAINING = "training"
    UPLOADING = "uploading"
    FINISHED = "finished"
    RESTING = "resting"
    LEFT = "left"
    RETIRED = "retired"


class Context:
    """Shared by the parts of one client. Only the machine hands out the collected effects."""

    def __init__(
        self, federation: Federation, identity: Identity, durable: Mapping[Table, Mapping[bytes, bytes]]
    ) -> None:
        self.federation = federation
        self.parameters = federation.parameters
        self.identity = identity
        self.assignment = Assignment(federation)
        self.fronts = Fronts(federation.parameters)
        self.work = Work(federation.schedule)
        self.rosters = Rosters(federation)
        stored = durable.get(Table.ROSTERS, {})
        with explaining_rows():
            self.refused_rosters = self.rosters.load(stored)
        self.unsaved_rosters = [s for s in self.rosters.statements(0) if roster_key(s.number) not in stored]
        joined = next((r for r in self.rosters.held if identity.public in r.position), None)
        if joined is None:
            raise ConfigurationError(
                "this identity is not enrolled in the deployment; get the current deployment file from the operator"
            )
        self.now = 0.0
        self.connected: set[bytes] = set()
        self.effects: list[Effect] = []
        self.docket = Docket(self)
        self._computing: set[tuple[Any, ...]] = set()
        meta = durable.get(Table.META, {})
        with explaining_rows():
            self.docket.load(durable.get(Table.EVIDENCE, {}))
            self.epoch = max(1, _integer(meta.get(EPOCH), joined.start_epoch))
            self.seen_entries = _integer(meta.get(SEEN_ENTRIES), 0)
            self.seen_statement = _integer(meta.get(SEEN_STATEMENT), 0)
            self.uploaded = _integer(meta.get(UPLOADED), 0)
            pending = meta.get(PENDING)
            self.upload = Manifest.decode(pending) if pending else None
            if self.upload is not None:
                check_manifest(self.upload, federation)
        self.sent = len(durable.get(Table.EPOCHS, {}))
        self.events = len(durable.get(Table.PRIVACY, {}))
        self.state = State.UPLOADING if self.upload else State.ASKING
        self.roster = self.rosters.at(self.epoch)
        """The roster this client goes by at its epoch; it changes only between a move and a TASK."""
        self.task: Task | None = None
        self.task_from = 0
        self.place = 0
        """How far down the line of its cell this client is."""
        self.waiting_for = ""

    # where it is

    @property
    def is_member(self) -> bool:
        """Whether the roster that it goes by lists this client."""
        return self.identity.public in self.roster.position

    @property
    def cell(self) -> int:
        """The cell of its upload, or of its epoch. Raises `InvalidItem` where it is not a member."""
        if self.upload is not None:
            return self.upload.core.cell
        return self.assignment.cell_of(self.identity.public, self.roster, self.epoch)

    @property
    def line(self) -> tuple[int, ...]:
        """Replicas in the order in which this client turns to them."""
        if self.upload is None and not self.is_member:
            return self.assignment.line(0)
        epoch = self.epoch if self.upload is None else self.upload.core.epoch
        return self.assignment.line(self.assignment.coordinator(epoch, self.cell))

    def reachable_from(self, place: int) -> Iterator[int]:
        """Places in the line whose replicas can be reached, from `place` on and round; proven liars last."""
        line, liars = self.line, self.docket.liars
        places = [(place + offset) % len(line) for offset in range(len(line))]
        for candidate in sorted(places, key=lambda each: line[each] in liars):
            if self.federation.replica_keys[line[candidate]] in self.connected:
                yield candidate

    @property
    def coordinator(self) -> int:
        """The replica it asks, or uploads to."""
        return self.line[self.place]

    @property
    def coordinator_key(self) -> bytes:
        return self.federation.replica_keys[self.coordinator]

    # effects

    def take_effects(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def send(self, peer: bytes, message: Message) -> None:
        """To a connected replica; whatever cannot be sent now is repeated later."""
        if peer in self.connected:
            self.effects.append(Send(peer, message))

    def broadcast(self, message: Message) -> None:
        for key in self.federation.replica_keys:
            self.send(key, message)

    def persist(self, *writes: Put) -> None:
        self.effects.append(Persist(writes))

    def compute(self, key: tuple[Any, ...], job: Job) -> bool:
        """Start a job unless the same one is under way."""
        if key in self._computing:
            return False
        self._computing.add(key)
        self.effects.append(Compute(key, job))
        return True

    def compute_done(self, key: tuple[Any, ...]) -> None:
        self._computing.discard(key)

    def notify(self, event: str, level: str = "info", **fields: Any) -> None:
        self.effects.append(Notify(event, fields, level))

    def sign(self, kind: str, body: bytes) -> bytes:
        return self.identity.sign(kind, self.federation.digest, body)


def put_integer(key: bytes, value: int) -> Put:
    """A row of `Table.META`."""
    return Put(Table.META, key, pack(value))


def _integer(value: bytes | None, default: int) -> int:
    found = default if value is None else unpack(value)
    if type(found) is not int or not 0 <= found <= 1 << 31:
        raise ValueError(f"{found!r} is no count")
    return found
