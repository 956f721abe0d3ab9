"""How long the event loop of this process makes a ready callback wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

INTERVAL_S: Final = 0.01
"""Time between two heartbeats: a blockage is measured to within this."""
WINDOW: Final = 6000
"""Heartbeats that the percentile looks back on: about a minute."""


class LoopLag:
    """Measured by a heartbeat that says how late it was. One for each process."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._largest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            # Not the loop's own clock: uvloop's counts whole milliseconds.
            due = time.monotonic() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            late = max(0.0, time.monotonic() - due)
            self._recent.append(late)
            self._largest = max(self._largest, late)

    def milliseconds(self) -> dict[str, float]:
        """`max` since the start, `p99` over the last minute."""
        ordered = sorted(self._recent)
        p99 = ordered[len(ordered) * 99 // 100] if ordered else 0.0
        return {"max": round(self._largest * 1000, 2), "p99": round(p99 * 1000, 2)}
