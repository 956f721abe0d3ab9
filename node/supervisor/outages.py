"""Plans that put a deployment under stress, and what it did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from random import Random
from typing import Final

from node.supervisor.plan import Action, Moment, Step
from node.supervisor.record import Record
from node.supervisor.watch import Phase, Snapshot

FIRST_EPOCH: Final = 2
"""Nothing is killed before the ledger got here."""
CALM_SECONDS: Final = (3.0, 8.0)
"""Between everybody being up and the next kills."""
DOWN_SECONDS: Final = (4.0, 12.0)
HOLD_SECONDS: Final = 10.0
"""How long a training that must stall is watched to make no entry."""
IN_FLIGHT_SECONDS: Final = 3.0
"""After a kill, groups that were locked before may still be opened."""
MEASURABLE_SECONDS: Final = 1.0
"""Shorter times give no rate."""


class RandomOutages:
    """Kills `faulty` replicas at random moments, starts each again later, waits until all are up; repeats."""

    def __init__(self, faulty: int, seed: int) -> None:
        self._faulty: Final = faulty
        self._random: Final = Random(seed)
        self._pending: list[Step] = []
        self._next: float | None = None

    def due(self, snapshot: Snapshot, seconds: float) -> Sequence[Step]:
        if snapshot.epoch < FIRST_EPOCH:
            return []
        calm = not self._pending and all(replica.phase is Phase.UP for replica in snapshot.replicas)
        if calm and self._next is None:
            self._next = seconds + self._random.uniform(*CALM_SECONDS)
        if calm and self._next is not None and seconds >= self._next:
            self._next = None
            victims = self._random.sample([replica.name for replica in snapshot.replicas], self._faulty)
            self._pending = [
                Step(Action.RESTART, name, Moment(seconds=seconds + self._random.uniform(*DOWN_SECONDS)))
                for name in victims
            ]
            return [Step(Action.KILL, name, Moment(seconds=seconds)) for name in victims]
        steps = [step for step in self._pending if step.at.has_come(snapshot.epoch, seconds)]
        self._pending = [step for step in self._pending if step not in steps]
        return steps

    def rest(self) -> Sequence[Step]:
        return self._pending

    def waits(self) -> bool:
        return bool(self._pending)


class _Stage(Enum):
    BEFORE = auto()
    STALLED = auto()
    RESUMING = auto()
    OVER = auto()


class TooManyOutages:
    """Kills t+1 replicas at once; when the rest has stalled for a while, starts one of them, then the others.

    `said` keeps what the remaining replicas gave as the reason; `resumed_s` is how long after the first
    return the next entry came; `entries_while_stalled` must stay 0.
    """

    def __init__(self, faulty: int, seed: int, epoch: int) -> None:
        """`faulty`: t, so that t+1 are killed, when the ledger reaches `epoch`."""
        self._count: Final = faulty + 1
        self._epoch: Final = epoch
        self._random: Final = Random(seed)
        self._stage = _Stage.BEFORE
        self._victims: list[str] = []
        self._at = 0.0
        self._entries = 0
        self.said: str | None = None
        self.entries_while_stalled = 0
        self.resumed_s: float | None = None

    def due(self, snapshot: Snapshot, seconds: float) -> Sequence[Step]:
        if self._stage is _Stage.BEFORE and snapshot.epoch >= self._epoch:
            self._victims = self._random.sample([replica.name for replica in snapshot.replicas], self._count)
            self._enter(_Stage.STALLED, snapshot, seconds)
            return [Step(Action.KILL, name, Moment(seconds=seconds)) for name in self._victims]
        if self._stage is _Stage.STALLED:
            return self._while_stalled(snapshot, seconds)
        if self._stage is _Stage.RESUMING and snapshot.entries > self._entries:
            self.resumed_s = seconds - self._at
            self._enter(_Stage.OVER, snapshot, seconds)
            return self._starts(self._victims[1:])
        return []

    def _while_stalled(self, snapshot: Snapshot, seconds: float) -> Sequence[Step]:
        if seconds - self._at < IN_FLIGHT_SECONDS:
            self._entries = snapshot.entries
            return []
        self.entries_while_stalled = snapshot.entries - self._entries
        self.said = next(iter(snapshot.stalls), self.said)
        if seconds - self._at < IN_FLIGHT_SECONDS + HOLD_SECONDS:
            return []
        self._enter(_Stage.RESUMING, snapshot, seconds)
        return self._starts(self._victims[:1])

    def rest(self) -> Sequence[Step]:
        return []

    def waits(self) -> bool:
        return self._stage is _Stage.STALLED

    def failures(self) -> list[str]:
        """What did not hold, a sentence each."""
        if self._stage is _Stage.BEFORE:
            return [f"the ledger never reached epoch {self._epoch}, so that nothing was killed"]
        killed = " and ".join(self._victims)
        failures = []
        if self.entries_while_stalled:
            failures.append(f"{self.entries_while_stalled} entries were made while {killed} were down")
        if self.said is None:
            failures.append(f"no replica said why nothing moved while {killed} were down")
        if self.resumed_s is None:
            failures.append(f"training did not resume when {self._victims[0]} was back")
        return failures

    def _enter(self, stage: _Stage, snapshot: Snapshot, seconds: float) -> None:
        self._stage, self._at, self._entries = stage, seconds, snapshot.entries

    def _starts(self, names: Sequence[str]) -> list[Step]:
        return [Step(Action.RESTART, name, Moment(seconds=self._at)) for name in names]


@dataclass(frozen=True, slots=True)
class Rates:
    """Entries a second around one outage: since the last one, while it lasted, until the next one."""

    replicas: tuple[str, ...]
    at: float
    seconds: float
    before: float | None
    during: float | None
    after: float | None
    """None: there was no such time while clients had work to do."""


def rates(record: Record) -> list[Rates]:
    """The outages of a run in order; kills within one outage count as one."""
    spans: list[tuple[list[str], float, float]] = []
    away: set[str] = set()
    for event in record.events:
        if event.action is Action.KILL:
            if not away:
                spans.append(([], event.seconds, record.seconds))
            spans[-1][0].append(event.replica)
            away.add(event.replica)
        else:
            away.discard(event.replica)
            if not away:
                spans[-1] = (spans[-1][0], spans[-1][1], event.seconds)
    if not spans:
        return []
    first = record.entries[1][0] if len(record.entries) > 1 else 0.0
    last = record.seconds if record.trained is None else record.trained
    edges = [first, *(min(edge, last) for _, start, stop in spans for edge in (start, stop)), last]
    found = []
    for index, (names, start, stop) in enumerate(spans):
        begins, down, up, ends = edges[2 * index : 2 * index + 4]
        found.append(
            Rates(
                tuple(names), start, stop - start,
                _rate(record, begins, down), _rate(record, down, up), _rate(record, up, ends),
            )
        )  # fmt: skip
    return found


def _rate(record: Record, start: float, stop: float) -> float | None:
    if stop - start < MEASURABLE_SECONDS:
        return None
    made = sum(
        after - before
        for (_, before), (seconds, after) in pairwise(record.entries)
        if start < seconds <= stop
    )
    return made / (stop - start)
