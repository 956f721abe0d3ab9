"""How long a training takes, and what of it a budget leaves, in virtual time.

A speed says how long the training of the settings of epoch 1 takes; all steps of one training take equally long.
The trainings themselves run in no virtual time at all: each is given a clock that moves on by a step at every look.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from asyncfl.client.jobs import Trainer
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.schedule import Schedule
from node.experiment.population import Speed
from node.training.supervised import planned_steps


class StepClock:
    """A clock that a training looks at before its first step and after each: seconds since the first look."""

    def __init__(self) -> None:
        self._step = 0.0
        self._looks = 0

    def begin(self, step: float) -> None:
        """A training begins whose steps take `step` seconds each."""
        self._step, self._looks = step, 0

    def __call__(self) -> float:
        now = self._looks * self._step
        self._looks += 1
        return now


@dataclass(frozen=True)
class Pace:
    """`speed(client, epoch)`: seconds of a training without budget. `examples[i]`: how many client i holds."""

    speed: Speed
    schedule: Schedule
    examples: list[int]

    def step(self, client: int, epoch: int) -> float:
        """Seconds of one step."""
        return self.speed(client, epoch) / self._steps_of_a_speed(client)

    def seconds(self, client: int, epoch: int) -> float:
        """Of the training of `epoch`, which ends with the step in which its budget is spent."""
        settings = self.schedule.settings_at(epoch)
        planned = planned_steps(self.examples[client], settings)
        steps = steps_within(planned, self.step(client, epoch), settings)
        return self.speed(client, epoch) * (steps / self._steps_of_a_speed(client))

    def _steps_of_a_speed(self, client: int) -> int:
        return planned_steps(self.examples[client], self.schedule.settings_at(1))


def steps_within(planned: int, step: float, settings: Settings) -> int:
    """How many of the planned steps a training does, each of `step` seconds: at least one."""
    steps = min(planned, settings.most_steps or planned)
    if not settings.seconds or not step:
        return steps
    fitting = max(1, ceil(settings.seconds / step))
    # The training compares products: a quotient can round to the other side.
    while fitting > 1 and (fitting - 1) * step >= settings.seconds:
        fitting -= 1
    while fitting * step < settings.seconds:
        fitting += 1
    return min(steps, fitting)


@dataclass(frozen=True)
class PacedTrainer:
    """Trains on the virtual clock. Implements `Trainer`."""

    trainer: Trainer
    client: int
    pace: Pace
    clock: StepClock

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        self.clock.begin(self.pace.step(self.client, epoch))
        return self.trainer.train(model, settings, epoch)
