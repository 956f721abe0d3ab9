"""What a seed makes of an experiment's clients: how fast they are, and which examples they hold."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError
from node.experiment.configuration import Distribution, Experiment, Partition, Speeds
from node.training.loader import load_task
from node.training.partitions import partition
from node.training.supervised import Examples, SupervisedTask, check_client

Speed = Callable[[int, int], float]
"""Seconds of the training of (client, epoch)."""


def make_speed(speeds: Speeds, clients: int, seed: int) -> Speed:
    """The seconds of every training, a function of seed, client and epoch alone: equal for all methods."""
    if speeds.factors is not None:
        own = np.array(speeds.factors)
    else:
        own = draw(speeds.persistent, clients, _draws("speeds", seed))
    for slow in speeds.slow:
        own[slow.clients] *= slow.factor

    def speed(client: int, epoch: int) -> float:
        jitter = draw(speeds.jitter, 1, _draws("jitter", seed, client, epoch))[0]
        return float(speeds.seconds * own[client] * jitter)

    return speed


def draw(distribution: Distribution, count: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """`count` factors around 1, float64."""
    if distribution.sigma is not None:
        return rng.lognormal(0.0, distribution.sigma, count)
    if distribution.shape is not None:
        return rng.gamma(distribution.shape, 1 / distribution.shape, count)
    if distribution.ratio is not None:
        if count == 1:
            return np.array([distribution.ratio ** rng.uniform(-0.5, 0.5)])
        return rng.permutation(distribution.ratio ** np.linspace(-0.5, 0.5, count))
    return np.ones(count)


def _draws(purpose: str, *numbers: int) -> np.random.RandomState:
    """A generator that depends on all of `numbers`; NumPy's legacy stream is frozen (NEP 19)."""
    words = digest("asyncfl/1/experiment", purpose.encode(), ",".join(map(str, numbers)).encode())
    return np.random.RandomState(np.frombuffer(words, dtype="<u4"))


@dataclass(frozen=True)
class Split:
    """A whole data set, shared out by example numbers. Implements `Examples`."""

    whole: Examples
    parts: list[Tensor]

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        check_client(index, len(self.parts))
        inputs, labels = self.whole.client(0)
        return inputs[self.parts[index]], labels[self.parts[index]]

    def test(self) -> tuple[Tensor, Tensor]:
        return self.whole.test()

    def prepare(self, clients: Collection[int]) -> None:
        self.whole.prepare([0])


@dataclass(frozen=True)
class Only:
    """The same examples, but held-out ones of `classes` alone. Implements `Examples`."""

    whole: Examples
    classes: tuple[int, ...]

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        return self.whole.client(index)

    def test(self) -> tuple[Tensor, Tensor]:
        inputs, labels = self.whole.test()
        chosen = torch.isin(labels, torch.tensor(self.classes))
        if not bool(chosen.any()):
            raise ConfigurationError(f"classes {list(self.classes)}: no held-out example is of these classes")
        return inputs[chosen], labels[chosen]

    def prepare(self, clients: Collection[int]) -> None:
        self.whole.prepare(clients)


def make_task(experiment: Experiment, seed: int, clock: Callable[[], float]) -> SupervisedTask:
    """The task, its training examples shared out as the experiment says. Raises `ConfigurationError`."""
    task = load_task(experiment.task, clients=1, seed=seed)
    if not isinstance(task, SupervisedTask):
        raise ConfigurationError(
            f"task {experiment.task!r}: an experiment splits the data itself and needs digits, npz:PATH or "
            "another SupervisedTask"
        )
    labels = task.examples.client(0)[1].numpy()
    parts = split(labels, experiment.clients, experiment.partition, seed)
    examples = Split(task.examples, [torch.from_numpy(part) for part in parts])
    return SupervisedTask(task.build, examples, clock=clock)


def split(labels: NDArray[np.int64], clients: int, wanted: Partition, seed: int) -> list[NDArray[np.int64]]:
    """Sorted example numbers of each client. Raises `ConfigurationError`."""
    if wanted.classes is None or wanted.clients is None:
        return partition(labels, clients, kind=wanted.kind, alpha=wanted.alpha, seed=seed)
    rare = np.isin(labels, wanted.classes)
    holders = sorted(set(wanted.clients))
    others = [client for client in range(clients) if client not in holders]
    parts: dict[int, NDArray[np.int64]] = {}
    for group, mask in ((holders, rare), (others, ~rare)):
        numbers = np.flatnonzero(mask)
        if not len(numbers):
            raise ConfigurationError(
                f"partition.classes {wanted.classes} leave some clients without examples"
            )
        pieces = partition(labels[numbers], len(group), kind=wanted.kind, alpha=wanted.alpha, seed=seed)
        parts.update(zip(group, (numbers[piece] for piece in pieces), strict=True))
    return [parts[client] for client in range(clients)]
