"""Whether processes grew: a robust slope for each life, and what is allowed.

The slope is that of Theil (1950) and Sen (1968): the median of the slopes of all pairs of samples, which a third of
outliers does not move. A life counts from `WARM_UP_SECONDS` after its start and only if it lasts `SHORTEST_SECONDS`
beyond that: tables that are bounded fill first, the last of them what was locked and never opened, which is kept for
64 epochs (15 minutes where a soak makes four a minute).

What a node must remember for ever (the ledger; which uploads were accepted and locked) grows with the entries, not
with time. It is allowed for by `ENTRY_BYTES` each, and shown apart; the rest must be flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy

from chaos.gauges import Life, Sample

WARM_UP_SECONDS: Final = 900.0
SHORTEST_SECONDS: Final = 300.0
MIB: Final = 1 << 20
LEAK_MIB_PER_HOUR: Final = 20.0
"""Beyond what entries account for: 5 MiB in a quarter of an hour, which is what bounded tables may still lack. A leak
of one upload of digits (33 kB) every five seconds would be found."""
DESCRIPTORS: Final = 8
"""By which the median of a life's last third may exceed that of its first."""
THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one life, after its warm-up. `None` in slopes: too short to tell."""

    name: str
    role: str
    seconds: float
    memory_mib: float
    """Median of the last third."""
    mib_per_hour: float | None
    allowed_mib_per_hour: float | None
    descriptors: tuple[int, int]
    """Medians of the first and of the last third."""
    most_descriptors: int
    threads: tuple[int, int]

    @property
    def failures(self) -> list[str]:
        """What is not flat, a sentence each."""
        found = []
        if self.mib_per_hour is not None and self.allowed_mib_per_hour is not None:
            if self.mib_per_hour > self.allowed_mib_per_hour:
                found.append(
                    f"{self.name}: memory grew by {self.mib_per_hour:.1f} MiB an hour, "
                    f"{self.allowed_mib_per_hour:.1f} are allowed"
                )
            if self.descriptors[1] > self.descriptors[0] + DESCRIPTORS:
                found.append(
                    f"{self.name}: open descriptors went from {self.descriptors[0]} to {self.descriptors[1]}"
                )
            if self.threads[1] > self.threads[0] + THREADS:
                found.append(f"{self.name}: threads went from {self.threads[0]} to {self.threads[1]}")
        return found


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The median slope over all pairs of points with different times. At least two points are needed."""
    t, v = numpy.asarray(times, dtype=float), numpy.asarray(values, dtype=float)
    first, second = numpy.triu_indices(len(t), 1)
    apart = t[second] - t[first]
    return float(numpy.median((v[second] - v[first])[apart > 0] / apart[apart > 0]))


def judge(life: Life, entry_bytes: float, entries_per_hour: float) -> Growth | None:
    """None for a life without samples. `entry_bytes`: allowed for every entry."""
    if not life.samples:
        return None
    born = life.samples[0].seconds
    counted = [sample for sample in life.samples if sample.seconds - born >= WARM_UP_SECONDS]
    long_enough = bool(counted) and counted[-1].seconds - counted[0].seconds >= SHORTEST_SECONDS
    shown = counted if long_enough else life.samples
    slope = allowed = None
    if long_enough:
        slope = 3600 / MIB * theil_sen([each.seconds for each in shown], [each.memory for each in shown])
        allowed = LEAK_MIB_PER_HOUR + entry_bytes * entries_per_hour / MIB
    third = max(1, len(shown) // 3)

    def medians(take: str) -> tuple[int, int]:
        values = [getattr(sample, take) for sample in shown]
        return int(numpy.median(values[:third])), int(numpy.median(values[-third:]))

    return Growth(
        name=life.name,
        role=life.role,
        seconds=life.samples[-1].seconds - born,
        memory_mib=medians("memory")[1] / MIB,
        mib_per_hour=slope,
        allowed_mib_per_hour=allowed,
        descriptors=medians("descriptors"),
        most_descriptors=max(sample.descriptors for sample in life.samples),
        threads=medians("threads"),
    )


def rate(samples: Sequence[Sample]) -> float:
    """Entries an hour over samples of a replica's life."""
    seconds = samples[-1].seconds - samples[0].seconds
    return 3600 * (samples[-1].entries - samples[0].entries) / seconds if seconds else 0.0
