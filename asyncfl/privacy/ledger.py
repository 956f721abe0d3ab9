"""What one client's durable privacy events say: epsilon spent, and what a budget leaves.

Events say what happened, this module interprets them. An event that it does not know, or that cannot have
happened in this deployment, is refused, never approximated: epsilon would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from asyncfl.errors import AsyncflError, UnsupportedEvent
from asyncfl.parameters import Parameters
from asyncfl.privacy.accountant import Mechanism, epsilon
from asyncfl.privacy.calibration import Budget, affordable_uploads
from asyncfl.wire import unpack

KEY_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class UploadEvent:
    """An upload was written: its epoch, and the noise and group size that it was made for."""

    epoch: int
    noise_multiplier: float
    min_group: int


@dataclass(frozen=True, slots=True)
class PrivacyLedger:
    """One client's events in a deployment of these `parameters` and `dimension` coordinates."""

    events: tuple[UploadEvent, ...]
    parameters: Parameters
    dimension: int

    @classmethod
    def read(cls, rows: Mapping[bytes, bytes], parameters: Parameters, dimension: int) -> PrivacyLedger:
        """Interpret the rows of `Table.PRIVACY`. Raises `UnsupportedEvent`."""
        events = tuple(decode_event(key, rows[key]) for key in sorted(rows))
        expected = parameters.noise_multiplier, parameters.min_group
        for event in events:
            if (event.noise_multiplier, event.min_group) != expected:
                raise UnsupportedEvent(
                    f"the privacy event of epoch {event.epoch} is of noise multiplier "
                    f"{event.noise_multiplier:g} and groups of {event.min_group}, but the deployment has "
                    f"{expected[0]:g} and {expected[1]}; restore the deployment file that the client ran with"
                )
        return cls(events, parameters, dimension)

    @property
    def uploads(self) -> int:
        """Uploads written so far, whether they were ever opened or not."""
        return len(self.events)

    def spent(self, delta: float) -> float:
        """Epsilon spent at `delta`: 0 without uploads, infinite for uploads without noise."""
        return self.after(self.uploads, delta)

    def after(self, uploads: int, delta: float) -> float:
        """Epsilon at `delta` after `uploads` uploads in all."""
        if uploads and self.parameters.noise_multiplier == 0:
            return inf
        return epsilon(self._mechanism, uploads, delta) if uploads else 0.0

    def left(self, budget: Budget) -> float:
        """Epsilon of the budget that is not spent, at least 0."""
        return max(0.0, budget.epsilon - self.spent(budget.delta))

    def uploads_left(self, budget: Budget) -> int:
        """How many more uploads stay within the budget: the client has to stop at 0."""
        if self.parameters.noise_multiplier == 0:
            return 0
        return max(0, affordable_uploads(budget, self._mechanism) - self.uploads)

    @property
    def _mechanism(self) -> Mechanism:
        return Mechanism.of(self.parameters, self.dimension)


def decode_event(key: bytes, value: bytes) -> UploadEvent:
    """One row: key, the epoch as 8 big-endian bytes; value, packed (epoch, noise multiplier, min_group).

    Raises `UnsupportedEvent` for anything else.
    """
    try:
        fields = unpack(value)
    except AsyncflError as error:
        raise UnsupportedEvent(f"a privacy event cannot be read: {error}; {_REMEDY}") from None
    match fields:
        case (int(epoch), float(multiplier), int(group)) if (
            not isinstance(epoch, bool)
            and not isinstance(group, bool)
            and 0 < epoch < 1 << 8 * KEY_BYTES
            and key == epoch.to_bytes(KEY_BYTES, "big")
            and 0 <= multiplier < inf
            and group >= 1
        ):
            return UploadEvent(epoch, multiplier, group)
        case _:
            raise UnsupportedEvent(f"an unknown privacy event under key {key.hex()}: {fields!r}; {_REMEDY}")


_REMEDY: Final = "epsilon is not guessed: use the version of asyncfl that wrote it"
