"""What a link does to the bytes it carries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """How a link fails, if it does."""

    NONE = "none"
    STUCK = "stuck"
    """Nothing passes, neither data nor ends of connections; what was sent arrives when it is over (a partition)."""
    BLACK_HOLE = "black hole"
    """Connections are accepted and swallow what is sent, for ever: nothing comes back, and no end is heard of."""
    LOST_LISTENER = "lost listener"
    """The listening side is cut off (it sees a reset); the dialling one hears nothing of it: half-open."""
    LOST_DIALLER = "lost dialler"
    """The dialling side is cut off (it sees a reset); the listening one hears nothing of it: half-open."""
    RESET = "reset"
    """Connections are reset, and so is every new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Of one link, both directions alike. Defaults: a link that carries what it is given."""

    fault: Fault = Fault.NONE
    delay_s: float = 0.0
    """One way."""
    jitter_s: float = 0.0
    """Up to so much more, uniformly; order is kept, as TCP keeps it."""
    bytes_per_s: float | None = None
    """In each direction of each connection."""
    corrupt: float = 0.0
    """Probability that a piece of data (at most 16 KiB) arrives with one bit changed."""
    reset_after: tuple[int, int] | None = None
    """Each connection is reset after a number of bytes drawn from these bounds: in the middle of a message."""


FAIR = Weather()
