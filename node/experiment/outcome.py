"""What one run of an experiment gives, and how a model is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from asyncfl.digest import content_digest
from node.experiment.configuration import Experiment
from node.experiment.population import Only
from node.training.supervised import SupervisedTask
from node.training.workbench import Workbench

LATE: Final = 0.75
"""Late accuracy is the mean from this part of the run on."""


@dataclass(frozen=True, slots=True)
class Point:
    """The model at one virtual time: the uploads it contains, its accuracy in all and on the chosen classes."""

    seconds: float
    uploads: int
    accuracy: float
    on_classes: float | None


class Judge:
    """Accuracy on the held-out data; a model that was seen before is not evaluated again."""

    def __init__(self, task: SupervisedTask, workbench: Workbench, classes: Sequence[int] | None) -> None:
        self._workbench = workbench
        self._chosen: Workbench | None = None
        if classes is not None:
            chosen = SupervisedTask(task.build, Only(task.examples, tuple(classes)))
            self._chosen = Workbench(chosen, seed=workbench.seed, device="cpu")
        self._seen: tuple[bytes, float, float | None] | None = None

    def point(self, seconds: float, uploads: int, model: bytes) -> Point:
        name = content_digest(model)
        if self._seen is None or self._seen[0] != name:
            on_classes = None if self._chosen is None else self._chosen.evaluate(model)
            self._seen = (name, self._workbench.evaluate(model), on_classes)
        return Point(round(seconds, 3), uploads, self._seen[1], self._seen[2])


@dataclass
class Outcome:
    """One run with one seed. `inclusion[i]`: how many uploads of client i are in the model."""

    run: str
    method: str
    seed: int
    inclusion: list[int]
    present: list[int]
    """Clients that neither dropped out nor joined late."""
    points: list[Point] = field(default_factory=list)
    sent: int = 0
    staleness: list[int] = field(default_factory=list)
    """Of each upload: how many others came into the model after the one it was trained from, itself not counted."""
    largest_difference: int = 0
    """Of the counts of clients present throughout, at any time."""
    dimension: int = 0
    """Coordinates of the model."""
    upload_bytes: list[int] = field(default_factory=list)
    """What each upload took on the wire, without the channel's framing."""
    epsilons: list[tuple[float, list[float]]] = field(default_factory=list)
    """With noise: of each client, at the looks at accuracy of the run's last quarter; the last of them at its end."""
    finished: bool = True
    """False when a run by epochs had not ended when its virtual time was over."""
    virtual_seconds: float = 0.0
    wall_seconds: float = 0.0
    processor_seconds: float = 0.0

    def include(self, clients: Sequence[int]) -> None:
        """Uploads of these clients came into the model together."""
        for client in clients:
            self.inclusion[client] += 1
        counts = [self.inclusion[client] for client in self.present]
        if counts:
            self.largest_difference = max(self.largest_difference, max(counts) - min(counts))

    @property
    def epsilon(self) -> list[float] | None:
        """Of each client at its end; None without noise."""
        return self.epsilons[-1][1] if self.epsilons else None

    def epsilon_spread(self, epsilon: list[float]) -> float:
        """By which part of the largest one the epsilon of a client present throughout is smaller at most."""
        spent = [epsilon[client] for client in self.present]
        largest = max(spent, default=0.0)
        return (largest - min(spent)) / largest if largest else 0.0

    def reached(self, target: float) -> float | None:
        """The first virtual time at which accuracy was seen to be at least `target`."""
        return next((point.seconds for point in self.points if point.accuracy >= target), None)

    def uploads_to(self, accuracy: float) -> float | None:
        """Uploads in the model when `accuracy` was first reached, on a straight line between two looks."""
        before: Point | None = None
        for point in self.points:
            if point.accuracy >= accuracy:
                if before is None:
                    return float(point.uploads)
                part = (accuracy - before.accuracy) / (point.accuracy - before.accuracy)
                return before.uploads + part * (point.uploads - before.uploads)
            before = point
        return None

    def facts(self, experiment: Experiment) -> dict[str, Any]:
        """Plain JSON values."""
        last = self.points[-1]
        late = [point for point in self.points if point.seconds >= LATE * self.virtual_seconds]
        included = sum(self.inclusion)
        target = experiment.target_accuracy
        return {
            "run": self.run,
            "method": self.method,
            "seed": self.seed,
            "accuracy": last.accuracy,
            "accuracy_on_classes": last.on_classes,
            "best_accuracy": max(point.accuracy for point in self.points),
            "late_accuracy": float(np.mean([point.accuracy for point in late])),
            "late_accuracy_on_classes": None
            if last.on_classes is None
            else float(np.mean([point.on_classes for point in late if point.on_classes is not None])),
            "target_reached_s": None if target is None else self.reached(target),
            "uploads_to": {f"{wanted:g}": self.uploads_to(wanted) for wanted in experiment.accuracies},
            "virtual_seconds": self.virtual_seconds,
            "wall_seconds": round(self.wall_seconds, 1),
            "processor_seconds": round(self.processor_seconds, 1),
            "finished": self.finished,
            "uploads": {"sent": self.sent, "included": included, "lost": self.sent - included},
            "dimension": self.dimension,
            "upload_bytes": float(np.mean(self.upload_bytes)) if self.upload_bytes else None,
            "epsilon": self.epsilon,
            "epsilon_spread": None if self.epsilon is None else self.epsilon_spread(self.epsilon),
            "late_epsilon_spread": max(
                (self.epsilon_spread(epsilon) for _, epsilon in self.epsilons), default=None
            ),
            "present_throughout": self.present,
            "inclusion": self.inclusion,
            "jain": jain(self.inclusion),
            "jain_present_throughout": jain([self.inclusion[client] for client in self.present]),
            "largest_difference": self.largest_difference,
            "staleness": _quantiles(self.staleness),
            "accuracy_over_time": [
                [point.seconds, point.uploads, point.accuracy, point.on_classes] for point in self.points
            ],
        }


def jain(counts: Sequence[int]) -> float | None:
    """Jain's fairness index, (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has all.

    None when nobody has anything. Source: Jain, Chiu, Hawe 1984 (DEC-TR-301).
    """
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else None


def _quantiles(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    mean, (median, high) = float(np.mean(values)), np.quantile(values, [0.5, 0.95])
    return {"mean": mean, "median": float(median), "p95": float(high), "max": float(max(values))}
