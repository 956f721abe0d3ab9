"""What a task is: the model, its training on one client's data, and its evaluation.

A task is named in the deployment file as `module:factory` (any importable function) or by a built-in name.
The factory is called as `factory(clients=C, seed=S, **options)`, with the options of the deployment file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from asyncfl.messages import Settings


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What one training was: `steps` done of `planned`, if the task counts them (both 0: it does not).

    An update of fewer steps than planned is scaled up for that (`asyncfl.client.work.normalised`).
    """

    examples: int
    """Held by the client."""
    loss: float
    """Mean over the steps."""
    steps: int = 0
    planned: int = 0


@runtime_checkable
class Task(Protocol):
    """The contract. Any object with these three methods will do.

    Clients are numbered 0 .. clients-1. Before `train`, torch's generators are seeded from (seed, client,
    epoch): a training that draws only from them is reproducible.
    """

    def model(self) -> nn.Module:
        """A new module, the same initial weights each time (torch's generators are seeded before)."""
        ...

    def train(
        self, module: nn.Module, client_index: int, settings: Settings, epoch: int
    ) -> tuple[int, float] | LocalTraining:
        """Train `module` in place, where it is, on this client's data. Returns (examples held, mean loss).

        `settings.seconds` and `settings.most_steps` (0: none) say when to stop early; a training that does
        returns a `LocalTraining` with the steps done and planned.
        """
        ...

    def evaluate(self, module: nn.Module) -> float:
        """Accuracy in [0, 1] on held-out data."""
        ...


@runtime_checkable
class ClientEvaluation(Protocol):
    """A task that can measure a model on one client's own test data (`metrics = true`)."""

    def evaluate_client(self, module: nn.Module, client_index: int) -> tuple[float, float]:
        """(correct, count): how many of this client's own test examples the module gets right; (0, 0) without any."""
        ...


@runtime_checkable
class Preparable(Protocol):
    """A task that reads the data of several clients faster together than one by one."""

    def prepare(self, clients: Collection[int]) -> None:
        """The data of these clients will be needed in this process, and no others'."""
        ...
