"""Keeps a party that misbehaves from filling our disk with what we say about it.

Of each kind of line about each party, `BURST` are written at once and `PER_SECOND` from then on; the next one that is
written says how many were left out. Warnings and errors that name nobody are counted together by kind; other lines
that name nobody, such as those of every entry, are always written.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

BURST: Final = 50
PER_SECOND: Final = 2.0
KINDS: Final = 4096
"""(Kind, party) pairs that are counted; the one that was quiet for longest is forgotten beyond that."""
_PARTY: Final = ("peer", "client", "replica", "address")


class Limiter:
    """A structlog processor."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[tuple[str, str, Any], _Count] = OrderedDict()

    def __call__(
        self, _logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Raises `structlog.DropEvent` for a line too many."""
        party = next((event[field] for field in _PARTY if field in event), None)
        if party is None and method not in {"warning", "error"}:
            return event
        key = (str(event.get("event")), str(event.get("node")), str(party))
        now = self._clock()
        count = self._counts.setdefault(key, _Count(now))
        self._counts.move_to_end(key)
        if len(self._counts) > KINDS:
            self._counts.popitem(last=False)
        if not count.take(now):
            raise structlog.DropEvent
        if count.left_out:
            event["left_out"], count.left_out = count.left_out, 0
        return event


class _Count:
    """A bucket of lines that may be written."""

    __slots__ = ("at", "left_out", "room")

    def __init__(self, now: float) -> None:
        self.at = now
        self.room = float(BURST)
        self.left_out = 0

    def take(self, now: float) -> bool:
        self.room = min(BURST, self.room + PER_SECOND * (now - self.at))
        self.at = now
        if self.room < 1:
            self.left_out += 1
            return False
        self.room -= 1
        return True
