"""What every party of one deployment agrees on: the public facts that both state machines are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from asyncfl.digest import digest
from asyncfl.messages import RosterStatement
from asyncfl.parameters import Parameters, Segment
from asyncfl.schedule import Schedule
from asyncfl.stopping import Stop
from asyncfl.wire import pack


@dataclass(frozen=True)
class Roster:
    """A numbered membership list, valid from `start_epoch` on. `members` are client public keys, ascending.

    `signature` is the operator's, on `digest`.
    """

    number: int
    start_epoch: int
    members: tuple[bytes, ...] = field(hash=False)
    signature: bytes = field(default=bytes(64), compare=False, repr=False)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes; part of the shuffle seed, and what the operator signs."""
        return digest("asyncfl/1/roster", pack((self.number, self.start_epoch, self.members)))

    @property
    def statement(self) -> RosterStatement:
        """As it travels."""
        return RosterStatement(
            number=self.number,
            start_epoch=self.start_epoch,
            members=self.members,
            signature=self.signature,
        )

    @cached_property
    def position(self) -> dict[bytes, int]:
        return {member: index for index, member in enumerate(self.members)}


@dataclass(frozen=True)
class Federation:
    """The public facts of a deployment.

    `operator` is the Ed25519 key that signs rosters. `replica_keys[j]` is replica j's (its Shamir point is j+1).
    `weights` and `buffers` count the floating coordinates of the model's parameters and buffers; the flat model
    has their sum, weights first; a flat upload has `Parameters.extra_coordinates` more after them. `initial_model`
    is the content digest of its canonical bytes (float32, little-endian). `schedule` and `stop` are what this
    party's own file says of local training and of its end; others' may say something else (`asyncfl.client.work`).
    """

    digest: bytes
    parameters: Parameters
    operator: bytes
    replica_keys: tuple[bytes, ...]
    rosters: tuple[Roster, ...]
    """Those of the deployment file, ascending from number 0; machines may hold later ones (`asyncfl.rosters`)."""
    weights: int
    buffers: int
    initial_model: bytes
    schedule: Schedule
    stop: Stop | None = None

    @property
    def dimension(self) -> int:
        return self.weights + self.buffers

    @property
    def upload_dimension(self) -> int:
        return self.parameters.upload_dimension(self.dimension)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Of a flat upload: the model's, then those of the extra coordinates."""
        return self.parameters.segments(self.weights, self.buffers)

    @cached_property
    def model_segments(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.stop <= self.dimension)

    @cached_property
    def weight_segment(self) -> Segment | None:
        """The one coordinate that carries an upload's weight, where it travels."""
        return self.segments[len(self.model_segments)] if self.parameters.sends_weights else None

    @cached_property
    def metrics_segment(self) -> Segment | None:
        """The two coordinates (correct, count), where they travel."""
        return self.segments[-1] if self.parameters.metrics else None

    @cached_property
    def replica_index(self) -> dict[bytes, int]:
        return {key: index for index, key in enumerate(self.replica_keys)}
