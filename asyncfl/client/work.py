"""What a client takes from a TASK's settings, and how an update is weighed that took fewer steps than planned.

Replicas are not trusted, and no digest covers [training]: a learning rate of 10^6 out of a TASK would make an
honest client a poisoner, 10^6 steps would stall it. So a client trains as its own file says for the epoch. Of the
TASK only the budget counts, which can make its work less and never more.
"""

from __future__ import annotations

from math import isclose
from typing import Final

from torch import Tensor

from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.schedule import Schedule

OWN: Final = ("learning_rate", "local_steps", "batch_size", "proximal")
"""Settings that a client takes from its own file alone."""
BUDGET: Final = ("seconds", "most_steps")
"""Settings of which the smaller counts, its own file's or the TASK's; 0 is no bound."""
TOLERANCE: Final = 1e-9
"""Relative: two machines' schedules may differ in the last bits of a power or a cosine."""

MOST_SCALE: Final = 4.0
"""A few batches scaled up are mostly noise: without this limit a coordinator that asked its clients for one step of
20 took 4 points of accuracy from digits, and the slowest clients of an honest run would do the same."""


class Work:
    """What one client trains with, and which replicas ask for something else."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule: Final = schedule
        self._noted: dict[int, int] = {}
        """The last epoch in which each replica's settings were noted."""

    def settings(self, epoch: int, asked: Settings) -> Settings:
        """The client's own settings of `epoch`, within the budget of both."""
        own = self.schedule.settings_at(epoch)
        budget = {name: _least(getattr(own, name), getattr(asked, name)) for name in BUDGET}
        return own.model_copy(update=budget)

    def differences(self, replica: int, epoch: int, asked: Settings) -> str:
        """What a replica's TASK says and this client does not do, in words; "" if nothing.

        At most once for each replica and epoch: a TASK may be repeated.
        """
        own = self.schedule.settings_at(epoch)
        differing = [
            f"{name} {getattr(asked, name):g} (own {getattr(own, name):g})"
            for name in OWN
            if not isclose(getattr(asked, name), getattr(own, name), rel_tol=TOLERANCE)
        ]
        if not differing or self._noted.get(replica) == epoch:
            return ""
        self._noted[replica] = epoch
        return ", ".join(differing)


def normalised(result: TrainingResult, weights: int) -> Tensor:
    """The update as if all planned steps had been done: its first `weights` coordinates times planned / done,
    at most times `MOST_SCALE`.

    Without this the model is drawn to the optima of the clients that do most steps. Buffers are left as they
    are: running statistics are no sum of steps, and a variance scaled up can come out negative. Source of the
    factor: FedNova, Wang et al. 2020 (arXiv 2007.07481).
    """
    if not 0 < result.steps < result.planned:
        return result.update
    update = result.update.clone()
    update[:weights] *= min(MOST_SCALE, result.planned / result.steps)
    return update


def _least(own: float, asked: float) -> float:
    """The smaller of two bounds, of which 0 is none."""
    return min(own, asked) if own and asked else own or asked
