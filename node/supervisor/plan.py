"""When which replica is killed and started again.

`NAME@7`: when the ledger reaches epoch 7; `NAME@8s`: 8 seconds after the run began.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, Protocol

from asyncfl.errors import ConfigurationError
from node.supervisor.watch import Snapshot


class Action(StrEnum):
    KILL = "kill"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Moment:
    """An epoch of the ledger, or seconds since the run began."""

    epoch: int | None = None
    seconds: float | None = None

    def has_come(self, epoch: int, seconds: float) -> bool:
        if self.epoch is not None:
            return epoch >= self.epoch
        return self.seconds is not None and seconds >= self.seconds

    def __str__(self) -> str:
        return f"epoch {self.epoch}" if self.epoch is not None else f"{self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    replica: str
    at: Moment


class Plan(Protocol):
    """Decides during a run what happens to which replica."""

    def due(self, snapshot: Snapshot, seconds: float) -> Sequence[Step]:
        """What is to be done now, `seconds` after the run began."""
        ...

    def rest(self) -> Sequence[Step]:
        """What is still to come; asked once more when the clients are done."""
        ...

    def waits(self) -> bool:
        """Whether something is still to come by the clock alone, so that a stall may end."""
        ...


_SPEC: Final = re.compile(r"(?P<name>[^@]+)@(?P<number>\d+(\.\d+)?)(?P<unit>s?)")


def parse_step(action: Action, text: str, replicas: Collection[str], epochs: int) -> Step:
    """A `NAME@7` or `NAME@8s`. Raises `ConfigurationError` naming the option."""
    option = f"--{action} {text}"
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"{option}: NAME@EPOCH or NAME@SECONDSs is needed, such as replica-2@7 or replica-2@8s"
        )
    name, number, by_clock = match["name"], match["number"], bool(match["unit"])
    if name not in replicas:
        raise ConfigurationError(f"{option}: no replica is called {name!r}; there are {', '.join(replicas)}")
    if by_clock:
        return Step(action, name, Moment(seconds=float(number)))
    if "." in number or not 1 <= int(number) <= epochs:
        raise ConfigurationError(
            f"{option}: an epoch is a whole number from 1 to {epochs} (--epochs); for seconds write "
            f"{name}@{number}s"
        )
    return Step(action, name, Moment(epoch=int(number)))


class ScriptedPlan:
    """The kills and restarts that the user wrote down.

    Each replica's steps happen in order, kill, restart, kill, ...: a restart waits for its kill.
    """

    def __init__(self, kills: Sequence[Step], restarts: Sequence[Step]) -> None:
        self._queues: Final[dict[str, list[Step]]] = {}
        for name in dict.fromkeys(step.replica for step in (*kills, *restarts)):
            ups = [step for step in restarts if step.replica == name]
            downs = [step for step in kills if step.replica == name]
            if len(ups) > len(downs):
                raise ConfigurationError(
                    f"--restart {name} has no --kill {name} before it; add one, or leave the restart out"
                )
            if len(downs) > len(ups) + 1:
                raise ConfigurationError(
                    f"--kill {name} is given again without a --restart {name} in between"
                )
            pairs = [step for pair in zip(downs, ups, strict=False) for step in pair]
            self._queues[name] = pairs + downs[len(ups) :]
            _refuse_disorder(self._queues[name])

    def due(self, snapshot: Snapshot, seconds: float) -> Sequence[Step]:
        steps = []
        for queue in self._queues.values():
            if queue and queue[0].at.has_come(snapshot.epoch, seconds):
                steps.append(queue.pop(0))
        return steps

    def rest(self) -> Sequence[Step]:
        return [step for queue in self._queues.values() for step in queue]

    def waits(self) -> bool:
        return any(
            queue and queue[0].action is Action.RESTART and queue[0].at.seconds is not None
            for queue in self._queues.values()
        )


def _refuse_disorder(steps: Sequence[Step]) -> None:
    for first, second in pairwise(steps):
        for unit in ("epoch", "seconds"):
            before, after = getattr(first.at, unit), getattr(second.at, unit)
            if before is not None and after is not None and after <= before:
                raise ConfigurationError(
                    f"--{second.action} {second.replica} at {second.at} does not come after its "
                    f"--{first.action} at {first.at}"
                )
