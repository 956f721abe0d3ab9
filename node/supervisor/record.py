"""What happened in a run, as it is measured: the one thing that views, report, plot and result read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from node.supervisor.plan import Action
from node.supervisor.watch import Certified, Phase, Snapshot


class Stage(StrEnum):
    """Where a run stands."""

    STARTING = "starting"
    TRAINING = "training"
    DRAINING = "draining"
    EVALUATING = "evaluating"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    """Something done to a replica. `entries` and `epoch` are the ledger's at that moment."""

    seconds: float
    action: Action
    replica: str
    entries: int
    epoch: int


@dataclass(frozen=True, slots=True)
class AccuracyPoint:
    """Accuracy of a certified model. `seconds`: when it was first seen."""

    seconds: float
    entries: int
    accuracy: float


@dataclass
class Record:
    """A run from its start on; `seconds` count from there."""

    name: str
    epochs: int
    misbehaving: dict[str, str] = field(default_factory=dict)
    """What nodes do on purpose, in a drill, by name."""
    stage: Stage = Stage.STARTING
    seconds: float = 0.0
    snapshot: Snapshot = field(default_factory=lambda: Snapshot((), ()))
    waiting_for: str | None = None
    events: list[Event] = field(default_factory=list)
    accuracies: list[AccuracyPoint] = field(default_factory=list)
    entries: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, entries) whenever the ledger grew; the first one is what was there at the start."""
    phases: dict[str, list[tuple[float, Phase]]] = field(default_factory=dict)
    """By replica: (seconds, phase) whenever it changed."""
    accuracy: float | None = None
    baseline: float | None = None
    finished: str | None = None
    """Why training was over before the last epoch; None where it was not."""
    trained: float | None = None
    """When the last client had sent its last upload."""
    final: Certified | None = None
    sent_before: int = 0
    """Uploads that the clients had sent before this run."""
    failures: list[str] = field(default_factory=list)
    """What went wrong, a sentence each; empty when all is well."""

    def observe(self, seconds: float, snapshot: Snapshot) -> bool:
        """Take in what was read. Returns whether the ledger grew."""
        self.seconds, self.snapshot = seconds, snapshot
        for replica in snapshot.replicas:
            phases = self.phases.setdefault(replica.name, [])
            if not phases or phases[-1][1] is not replica.phase:
                phases.append((seconds, replica.phase))
        grew = bool(self.entries) and snapshot.entries > self.entries[-1][1]
        if not self.entries:
            self.sent_before = snapshot.sent
        if grew or not self.entries:
            self.entries.append((seconds, snapshot.entries))
        return grew

    @property
    def longest_stall(self) -> float:
        """Longest time without a new entry, from the first new entry on, while clients had work to do."""
        end = self.seconds if self.trained is None else self.trained
        times = [seconds for seconds, _ in self.entries[1:] if seconds < end]
        return max((after - before for before, after in pairwise([*times, end])), default=0.0)

    def replicas_with(self, action: Action) -> list[str]:
        """Replicas that this was done to, in order, each once."""
        return list(dict.fromkeys(event.replica for event in self.events if event.action is action))

    @property
    def entries_after_kill(self) -> int | None:
        """Entries since the first kill; None when nothing was killed."""
        first = next((event for event in self.events if event.action is Action.KILL), None)
        return None if first is None else self.snapshot.entries - first.entries
