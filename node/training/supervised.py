"""A task from labelled examples: plain local SGD on cross-entropy, accuracy on a held-out set.

The built-in tasks are made of this; one's own can be, too::

    def factory(clients, seed):
        return SupervisedTask(build=MyNet, examples=MyData(clients, seed))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from node.training.partitions import generator
from node.training.task import LocalTraining

EVALUATION_BATCH: Final = 512


class Examples(Protocol):
    """Inputs [n, ...] and int64 labels [n], CPU tensors. Inputs are whatever the module takes."""

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        """The training examples of client `index`."""
        ...

    def test(self) -> tuple[Tensor, Tensor]:
        """The held-out examples."""
        ...

    def prepare(self, clients: Collection[int]) -> None:
        """Load these clients' examples at once."""
        ...


class SupervisedTask:
    """A classification task. `build` makes a module that maps inputs [b, ...] to logits [b, classes].

    `clock` gives the seconds that a training's budget is measured in: virtual ones in an experiment. `own_test`, in
    [0, 1): the share of each client's own examples that it never trains on and measures models with.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        examples: Examples,
        *,
        clock: Callable[[], float] = time.monotonic,
        own_test: float = 0.0,
    ) -> None:
        if not 0 <= own_test < 1:
            raise ConfigurationError(f"own_test {own_test}: a share of a client's examples, 0 to below 1")
        self.own_test = own_test
        self.build = build
        self.examples = examples
        self.clock = clock

    def model(self) -> nn.Module:
        return self.build()

    def prepare(self, clients: Collection[int]) -> None:
        self.examples.prepare(clients)

    def train(self, module: nn.Module, client_index: int, settings: Settings, epoch: int) -> LocalTraining:
        """SGD without momentum, `local_steps` batches (0: one pass) in an order drawn anew each time.

        `proximal` mu adds mu * (w - w received) to the gradient (FedProx, arXiv 1812.06127). The budget is
        looked at after each batch, so that at least one is done.
        """
        device = _device(module)
        inputs, labels = (tensor.to(device) for tensor in self._parts(client_index)[0])
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        mu = settings.proximal
        received = [parameter.detach().clone() for parameter in parameters] if mu else parameters
        total, steps = torch.zeros((), device=device), 0
        started = self.clock()
        for batch in batches(len(labels), settings.batch_size, settings.local_steps):
            chosen = batch.to(device)
            loss = cross_entropy(module(inputs[chosen]), labels[chosen])
            # By hand: torch.optim imports its compiler on first use, over a second in every process.
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient, start in zip(parameters, gradients, received, strict=True):
                    if gradient is not None:
                        step = gradient + mu * (parameter - start) if mu else gradient
                        parameter.sub_(step, alpha=settings.learning_rate)
                total += loss.detach()
            steps += 1
            if steps == settings.most_steps or (settings.seconds and self._is_over(started, settings, total)):
                break
        planned = planned_steps(len(labels), settings)
        return LocalTraining(len(labels), float(total) / steps, steps, planned)

    def _is_over(self, started: float, settings: Settings, total: Tensor) -> bool:
        total.item()  # A CUDA device is waited for: what is only queued has not been done.
        return self.clock() - started >= settings.seconds

    def evaluate(self, module: nn.Module) -> float:
        examples = self.examples.test()
        return count_correct(module, *examples) / len(examples[1])

    def evaluate_client(self, module: nn.Module, client_index: int) -> tuple[int, int]:
        """(correct, count) on the examples that this client keeps for that; zeros without `own_test`."""
        inputs, labels = self._parts(client_index)[1]
        return count_correct(module, inputs, labels), len(labels)

    def _parts(self, index: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """A client's examples to train on, and to measure models with: the same in every process."""
        inputs, labels = self.examples.client(index)
        kept = min(round(self.own_test * len(labels)), len(labels) - 1)
        if not kept:
            return (inputs, labels), (inputs[:0], labels[:0])
        order = torch.from_numpy(generator("own test data", index).permutation(len(labels)))
        test, train = order[:kept], order[kept:].sort().values
        return (inputs[train], labels[train]), (inputs[test], labels[test])


@torch.no_grad()
def count_correct(module: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    """How many of the examples the module gives the highest logit to the right class."""
    device = _device(module)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(labels), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        correct += (module(inputs[part].to(device)).argmax(1) == labels[part].to(device)).sum()
    return int(correct)


def batches(count: int, batch_size: int, steps: int) -> Iterator[Tensor]:
    """Index tensors of `steps` batches (0: one pass over `count` examples), reshuffled for every pass.

    A lone last example joins the batch before it: BatchNorm cannot train on one. Draws from torch's
    default generator.
    """
    if count < 1:
        raise ConfigurationError("a client without training examples cannot train")
    remaining = steps
    while True:
        parts = list(torch.split(torch.randperm(count), batch_size))
        if len(parts) > 1 and batch_size > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield part
            remaining -= 1
            if remaining == 0:
                return
        if steps == 0:
            return


def planned_steps(count: int, settings: Settings) -> int:
    """How many batches `batches` gives a client with `count` examples when no budget ends it."""
    if settings.local_steps:
        return settings.local_steps
    whole, rest = divmod(count, settings.batch_size)
    return max(1, whole + (rest > 1 or (rest == 1 and whole == 0)))


def check_client(index: int, clients: int) -> None:
    """Raises `ConfigurationError` when the data was split over fewer clients."""
    if not 0 <= index < clients:
        raise ConfigurationError(f"client {index} has no data: the task was split over {clients} clients")


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
