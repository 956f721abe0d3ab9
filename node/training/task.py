"""What a task is: the model, its training on one client's data, and its evaluation.

A task is named in the deployment file as `module:factory` (any importable function) or by a built-in name.
The factory is called as `factory(clients=C, seed=S, **options)`, with the options of the deployment file.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from asyncfl.messages import Settings


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
    ) -> tuple[int, float]:
        """Train `module` in place, where it is, on this client's data. Returns (examples held, mean loss)."""
        ...

    def evaluate(self, module: nn.Module) -> float:
        """Accuracy in [0, 1] on held-out data."""
        ...


@runtime_checkable
class Preparable(Protocol):
    """A task that reads the data of several clients faster together than one by one."""

    def prepare(self, clients: Collection[int]) -> None:
        """The data of these clients will be needed in this process, and no others'."""
        ...
