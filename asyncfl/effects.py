"""What a state machine asks its shell to do.

Contract: the shell carries effects out in order, and nothing that follows a `Persist` leaves the process
before that `Persist` is on disk (fsync). It may carry out a `Persist` earlier than its place, together with
others in one transaction. `Compute` jobs run in a worker thread; their result comes back through
`machine.computed(key, result, now)`. A lost `Send` is harmless: machines repeat what is unanswered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from asyncfl.messages import Message


class Table(StrEnum):
    """Durable tables; the data model page says what each key and value is."""

    META = "meta"
    MANIFESTS = "manifests"
    SHARES = "shares"
    SEEN = "seen"
    LOCKS = "locks"
    GROUPS = "groups"
    ITEMS = "items"
    MODELS = "models"
    EPOCHS = "epochs"
    PRIVACY = "privacy"
    ROSTERS = "rosters"
    EVIDENCE = "evidence"
    EXCLUSIONS = "exclusions"
    CERTIFICATES = "certificates"


@dataclass(frozen=True, slots=True)
class Put:
    table: Table
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    table: Table
    key: bytes


@dataclass(frozen=True, slots=True)
class Persist:
    """Write all or none, durably (one transaction, fsync) before anything that follows is sent."""

    writes: tuple[Put | Delete, ...]


@dataclass(frozen=True, slots=True)
class Send:
    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class SendBlob:
    """Stream the blob named `digest` to `peer` from `offset` on, in chunks, with back-pressure."""

    peer: bytes
    digest: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Pull the blob `digest` of exactly `size` bytes from `peer`.

    The shell sends `Pull`, accepts chunks from this peer only, verifies the digest, stores the blob durably
    and calls `machine.fetched(peer, digest, now)`; or, on any failure (peer gone, no progress, `Missing`,
    wrong digest), `machine.fetch_failed(peer, digest, reason, now)`.
    """

    peer: bytes
    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class DeleteBlob:
    """Delete the blob unless `machine.needs(digest)` by the time that this is carried out.

    What a job has written, and the machine has not heard of, stays too; and a fetch of the blob that was under way
    meanwhile has failed.
    """

    digest: bytes


class Blobs(Protocol):
    """The content-addressed store a job may use, from its worker thread."""

    def read(self, digest: bytes) -> bytes:
        """The blob's bytes. Raises `StorageError` when it is absent."""
        ...

    def write(self, data: bytes) -> bytes:
        """Store durably; returns the digest."""
        ...

    def has(self, digest: bytes) -> bool: ...


class Job(Protocol):
    """Heavy work: tensors, bulk verification. Must not touch machine state."""

    def run(self, blobs: Blobs) -> Any: ...


@dataclass(frozen=True, slots=True)
class Compute:
    """Run `job` off the event loop. One `key` is under way at most once."""

    key: tuple[Any, ...]
    job: Job


@dataclass(frozen=True, slots=True)
class Notify:
    """Something worth a log line or a figure: `event` in snake_case, plain values."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"


Effect = Persist | Send | SendBlob | Fetch | DeleteBlob | Compute | Notify


class Machine(Protocol):
    """A state machine without input or output, as `asyncfl.replica.Replica` and `asyncfl.client.Client` are.

    Peers are 32-byte public keys, `now` is monotonic seconds; `tick` is called at least ten times a second.
    """

    def accepts(self, peer: bytes) -> bool:
        """Whether a channel with this peer may come up now; asked at every handshake."""
        ...

    def start(self, now: float) -> list[Effect]: ...
    def connected(self, peer: bytes, now: float) -> list[Effect]: ...
    def disconnected(self, peer: bytes, now: float) -> list[Effect]: ...
    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]: ...
    def tick(self, now: float) -> list[Effect]: ...
    def computed(self, key: tuple[Any, ...], result: Any, now: float) -> list[Effect]: ...
    def compute_failed(self, key: tuple[Any, ...], error: Exception, now: float) -> list[Effect]: ...
    def fetched(self, peer: bytes, digest: bytes, now: float) -> list[Effect]: ...
    def fetch_failed(self, peer: bytes, digest: bytes, reason: str, now: float) -> list[Effect]: ...
    def referenced_blobs(self) -> set[bytes]: ...

    def needs(self, blob: bytes) -> bool:
        """Whether a blob is in use, or wanted; asked right before it is deleted."""
        ...

    def status(self, now: float) -> dict[str, Any]: ...
