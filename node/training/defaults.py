"""Training settings and clips that suit the built-in tasks; imports no torch.

How far an update of one local training moves the model depends on all of them together, so they are
chosen together: the clip lies just above the largest L2 norm of an update that FedAvg with 16 clients shows
(a test holds that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asyncfl.schedule import Schedule


@dataclass(frozen=True, slots=True)
class TaskDefaults:
    """`clip` and `buffer_clip` are L2 norms in model units, for `asyncfl.parameters.Parameters`."""

    schedule: Schedule
    clip: float
    buffer_clip: float = 1.0


DIGITS: Final = TaskDefaults(Schedule(learning_rate=0.3, local_steps=20, batch_size=16), clip=3.2)
IMAGES: Final = TaskDefaults(Schedule(learning_rate=0.05, local_steps=20, batch_size=32), clip=3.5)
OTHER: Final = TaskDefaults(Schedule(learning_rate=0.05, local_steps=0, batch_size=32), clip=1.0)
"""For own tasks: a place to start from, one pass over the client's data."""
OWN_TEST: Final = 0.2
"""Share of its examples that a client of a built-in task keeps to measure models with, where metrics are on."""


def is_built_in(name: str) -> bool:
    return name == "digits" or name.startswith("npz:")


def task_defaults(name: str) -> TaskDefaults:
    """The defaults for a task's name as in the deployment file: `digits`, `npz:PATH` or `module:factory`."""
    if name == "digits":
        return DIGITS
    return IMAGES if name.startswith("npz:") else OTHER
