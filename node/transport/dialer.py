"""When to dial again: exponential backoff with full jitter, a fast first retry."""

from __future__ import annotations

from secrets import SystemRandom

from node.transport.limits import Limits

_RANDOM = SystemRandom()


class Backoff:
    """Waits between attempts to reach one peer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attempt = 0

    def reset(self) -> None:
        """The last attempt was a lasting success."""
        self._attempt = 0

    def next(self) -> float:
        """Seconds to wait before the next attempt: uniform below a bound that doubles up to the cap."""
        limits = self._limits
        bound = limits.retry_first_s
        if self._attempt:
            bound = min(limits.retry_cap_s, limits.retry_base_s * 2 ** min(self._attempt, 30))
        self._attempt += 1
        return _RANDOM.uniform(0, bound)
