"""The built-in task `digits`: 8 x 8 handwritten digits that scikit-learn ships (1797 images, 10 classes).

Split: 36 images of each class (`held_out`), drawn once for all (the same for every seed and number of clients), are
held out for accuracy; the others, 1437, are split over the clients at random into parts whose sizes differ by at most
one (`partition = "iid"`, the default; drawn from the deployment's seed), or unevenly by class
(`partition = "dirichlet"`, `alpha`). Each client keeps the share `own_test` of its part for measuring
(default 0). Grey values are scaled to [-0.6, 1.4]. Model: a perceptron 64-64-10 with ReLU, 4810 parameters.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from asyncfl.errors import ConfigurationError
from node.training.partitions import generator, partition
from node.training.supervised import SupervisedTask, check_client

HELD_OUT: Final = 36
"""Images of each class."""
MOST_HELD_OUT: Final = 160
"""The rarest class has 174 images."""
HIDDEN: Final = 64
CENTRE: Final = 0.6
"""About the mean grey value; centred inputs reach the same accuracy in half the epochs."""


def digits(
    *,
    clients: int,
    seed: int = 0,
    partition: str = "iid",
    alpha: float = 0.5,
    own_test: float = 0.0,
    held_out: int = HELD_OUT,
) -> SupervisedTask:
    """The task. Raises `ConfigurationError` for options that make no partition, or no test set."""
    if not 1 <= held_out <= MOST_HELD_OUT:
        raise ConfigurationError(f"held_out {held_out}: images of each class, 1 to {MOST_HELD_OUT}")
    examples = _Digits(clients, seed, partition, alpha, held_out)
    return SupervisedTask(_network, examples, own_test=own_test)


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


class _Digits:
    def __init__(self, clients: int, seed: int, kind: str, alpha: float, each: int = HELD_OUT) -> None:
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)
        order = generator("digits held-out", 0).permutation(len(labels))
        test = np.concatenate([order[labels[order] == label][:each] for label in range(10)])
        train = np.setdiff1d(order, test)
        self._inputs = torch.from_numpy((inputs / 8.0 - CENTRE).astype("float32"))
        self._labels = torch.from_numpy(labels.astype("int64"))
        self._test = torch.from_numpy(test)
        parts = partition(labels[train], clients, kind=kind, alpha=alpha, seed=seed)
        self._clients = [torch.from_numpy(train[part]) for part in parts]

    def prepare(self, clients: Collection[int]) -> None:
        """Nothing to do: all the data is half a megabyte."""

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        check_client(index, len(self._clients))
        chosen = self._clients[index]
        return self._inputs[chosen], self._labels[chosen]

    def test(self) -> tuple[Tensor, Tensor]:
        return self._inputs[self._test], self._labels[self._test]
