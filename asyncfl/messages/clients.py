"""What a client and a replica say to each other."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from asyncfl.messages.blobs import MAX_BLOB_BYTES
from asyncfl.messages.uploads import (
    Manifest,
    Votes,
)
from asyncfl.wire import (
    Count,
    Digest,
    Epoch,
    ReplicaIndex,
    ShortText,
    Signature,
    Wire,
    pack,
)


def model_body(version: bytes, entries: int, model: bytes, statement: int = 0) -> bytes:
    """What a model certificate signs."""
    return pack((version, entries, statement, model))


class Ready(Wire):
    """Client: I am at `epoch` (also the sign of life); `coordinator` is asked for the TASK."""

    epoch: Epoch
    coordinator: ReplicaIndex
    roster: Count
    uploaded: Count
    """The client's last stored upload (0: none): its next TASK comes from a model that contains it."""
    wants_task: bool


class Leave(Wire):
    """Client: I take part no more; my privacy budget is spent after `uploads` uploads. Instead of READY."""

    KIND: ClassVar = "leave"

    epoch: Epoch
    uploads: Count
    signature: Signature

    def body(self) -> bytes:
        return pack((self.epoch, self.uploads))


class Front(Wire):
    """Replica's signed answer to READY: its front, and the patience it uses (milliseconds).

    `finished`: by its ledger and its own file's [stop], training is over. `statement`: the highest number of an
    EXCLUSION_STATEMENT that it holds, 0 if it holds none.
    """

    KIND: ClassVar = "front"

    front: Epoch
    patience: Annotated[int, Ge(1), Le(86_400_000)]
    roster: Count
    finished: bool
    signature: Signature
    statement: Count = 0

    def body(self) -> bytes:
        return pack((self.front, self.patience, self.roster, self.finished, self.statement))


class Wait(Wire):
    """Coordinator: no TASK for `epoch` yet, and why."""

    epoch: Epoch
    reason: ShortText
    queue: Count = 0
    """Other clients that wait for a place at this coordinator, if its TASKs are limited."""


class Settings(Wire):
    """How to train: learning rate, steps planned (0: one pass over the data), batch size, FedProx's mu (0: off);
    and how much work it may be at most, in seconds and in steps (0: no bound)."""

    learning_rate: Annotated[float, Ge(0), Le(1e6)]
    local_steps: Annotated[int, Ge(0), Le(1_000_000)]
    batch_size: Annotated[int, Ge(1), Le(1_000_000)]
    proximal: Annotated[float, Ge(0), Le(1e6)] = 0.0
    seconds: Annotated[float, Ge(0), Le(1e7)] = 0.0
    most_steps: Annotated[int, Ge(0), Le(1_000_000)] = 0


class Certificate(Wire):
    """t+1 replicas' signatures on one model of one version, computed under the operator's statement of this number."""

    version: Digest
    entries: Count
    model: Digest
    votes: Votes
    statement: Count = 0

    KIND: ClassVar = "model"

    def body(self) -> bytes:
        return model_body(self.version, self.entries, self.model, self.statement)


class Task(Wire):
    """Coordinator: train for `epoch` from this certified model, which is then pulled as a blob."""

    epoch: Epoch
    certificate: Certificate
    model_bytes: Annotated[int, Ge(4), Le(MAX_BLOB_BYTES)]
    settings: Settings


class Upload(Wire):
    """Client: here is my upload; pull y from me."""

    manifest: Manifest


class Stored(Wire):
    """Replica: your upload is on my disk."""

    epoch: Epoch
    manifest: Digest


class Refused(Wire):
    """Replica: your upload cannot be accepted, and why."""

    epoch: Epoch
    manifest: Digest
    reason: ShortText


class Expired(Wire):
    """Replica: your upload found no group in time and was given up."""

    epoch: Epoch
    manifest: Digest
