"""Training on examples that an attack on learning has changed. For experiments and drills; a node never loads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asyncfl.errors import ConfigurationError
from asyncfl.poisoning import Attack, Data
from node.training.supervised import Examples, SupervisedTask
from node.training.workbench import Workbench


@dataclass(frozen=True, eq=False)
class PoisonedExamples:
    """`whole`, with the examples of `attackers` (numbers among the attackers, by client) changed.

    Implements `node.training.supervised.Examples`.
    """

    whole: Examples
    attack: Attack
    attackers: Mapping[int, int]
    classes: int
    seed: bytes

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.whole.client(index)
        if index not in self.attackers:
            return inputs, labels
        poisoned = self.attack.poison(Data(inputs, labels, self.classes), self.attackers[index], self.seed)
        return poisoned.inputs, poisoned.labels

    def test(self) -> tuple[Tensor, Tensor]:
        return self.whole.test()

    def prepare(self, clients: Collection[int]) -> None:
        self.whole.prepare(clients)


def poison(workbench: Workbench, attack: Attack, client: int, number: int, seed: bytes) -> Workbench:
    """A workbench like `workbench` where `client`, attacker number `number`, trains on what `attack` makes of its data.

    Raises `ConfigurationError` for a task that is no `SupervisedTask`: nobody knows its examples.
    """
    task = workbench.task
    if not isinstance(task, SupervisedTask):
        raise ConfigurationError(
            f"the task is a {type(task).__name__}; attacks on a client's data need a SupervisedTask, whose examples "
            "they can change: take an attack on updates, such as sign-flip"
        )
    examples = PoisonedExamples(task.examples, attack, {client: number}, _classes(workbench, client), seed)
    changed = SupervisedTask(task.build, examples, clock=task.clock, own_test=task.own_test)
    return Workbench(
        changed, seed=workbench.seed, device=workbench.device, frozen_buffers=workbench.frozen_buffers
    )


def _classes(workbench: Workbench, client: int) -> int:
    """How many the model tells apart: one client's labels need not show all."""
    task = workbench.task
    assert isinstance(task, SupervisedTask)
    module = task.build().eval()
    with torch.no_grad():
        logits: Tensor = module(task.examples.client(client)[0][:1])
    return int(logits.shape[1])
