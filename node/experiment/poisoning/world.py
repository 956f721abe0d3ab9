"""What one seed makes of an experiment with malicious clients: data, who is malicious, who holds what."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from asyncfl.errors import ConfigurationError
from asyncfl.poisoning import Attack
from asyncfl.privacy.allowance import colluders
from node.experiment.poisoning.configuration import Data, Poisoning
from node.experiment.population import split
from node.training.archive import ArchiveArray
from node.training.npz import SmallConvNet
from node.training.partitions import generator
from node.training.poisoned import PoisonedExamples
from node.training.supervised import Examples

Labelled = tuple[Tensor, Tensor]
"""Inputs [n, ...] and int64 labels [n]."""


@dataclass(frozen=True, eq=False)
class World:
    """`parts`: each client's own examples. `holdout` is neither theirs nor tested on. Malicious are `malicious`."""

    parts: list[Labelled]
    test: Labelled
    holdout: Labelled
    classes: int
    build: Callable[[], nn.Module]
    malicious: tuple[int, ...]

    @classmethod
    def of(cls, experiment: Poisoning, malicious: float, seed: int, directory: Path) -> World:
        """Raises `ConfigurationError` where the data cannot be read, or is not enough."""
        examples, test = _read(experiment.data, seed, directory)
        held = experiment.data.holdout
        if held >= len(examples[1]):
            raise ConfigurationError(
                f"data.holdout = {held} leaves nothing of {len(examples[1])} training examples; take fewer"
            )
        holdout, train = ([part[:held] for part in examples], [part[held:] for part in examples])
        classes = int(torch.cat([examples[1], test[1]]).max()) + 1
        parts = split(train[1].numpy(), experiment.clients, experiment.partition, seed)
        order = generator("malicious", seed).permutation(experiment.clients).tolist()
        count = colluders(experiment.clients, malicious)
        return cls(
            [(train[0][part], train[1][part]) for part in map(torch.from_numpy, parts)],
            test,
            (holdout[0], holdout[1]),
            classes,
            _builder(experiment.data, train[0], classes),
            tuple(sorted(order[:count])),
        )


@dataclass(frozen=True, eq=False)
class Everybody:
    """The examples of all clients. Implements `node.training.supervised.Examples`.

    Numbers from `clients` on are no clients: first each attacker once more, last who holds the hold-out set.
    """

    world: World

    def client(self, index: int) -> Labelled:
        world, clients = self.world, len(self.world.parts)
        if index >= clients + len(world.malicious):
            return world.holdout
        return world.parts[index if index < clients else world.malicious[index - clients]]

    def test(self) -> Labelled:
        return self.world.test

    def prepare(self, clients: Collection[int]) -> None:
        """All data is in memory."""

    def under(self, attack: Attack | None, seed: bytes) -> Examples:
        """With the attackers' examples as `attack` makes them; what they hold once more stays."""
        if attack is None:
            return self
        numbers = {client: number for number, client in enumerate(self.world.malicious)}
        return PoisonedExamples(self, attack, numbers, self.world.classes, seed)


@lru_cache(maxsize=1)
def _read(data: Data, seed: int, directory: Path) -> tuple[Labelled, Labelled]:
    if data.archive is None:
        return _digits(seed)
    path, found = directory / data.archive, []
    for part, wanted in (("train", data.train), ("test", data.test)):
        images, labels = ArchiveArray.open(path, f"x_{part}"), ArchiveArray.open(path, f"y_{part}").rows()
        count = len(images) if wanted is None else wanted + (data.holdout if part == "train" else 0)
        if count > len(images):
            raise ConfigurationError(f"{path}: x_{part} has {len(images)} images, and {count} are asked for")
        chosen = generator(f"poisoning {part}", seed).permutation(len(images))[:count].astype(np.int64)
        inputs = torch.from_numpy(images.rows(chosen))
        found.append(
            (_shrunk(inputs, data.shrink), torch.from_numpy(labels[chosen].astype(np.int64).reshape(-1)))
        )
    return found[0], found[1]


def _digits(seed: int) -> tuple[Labelled, Labelled]:
    """Three quarters to train on."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    order = torch.from_numpy(generator("poisoning digits", seed).permutation(len(labels)))
    images = torch.from_numpy((inputs * (255 / 16)).astype("uint8")).reshape(-1, 8, 8)[order]
    classes = torch.from_numpy(labels.astype("int64"))[order]
    cut = 3 * len(classes) // 4
    return (images[:cut], classes[:cut]), (images[cut:], classes[cut:])


def _shrunk(images: Tensor, factor: int) -> Tensor:
    """uint8 images, a `factor`-th as high and wide."""
    if factor == 1:
        return images
    planes = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    small = avg_pool2d(planes.float(), factor).round().to(torch.uint8)
    return (small.squeeze(1) if images.dim() == 3 else small.permute(0, 2, 3, 1)).contiguous()


class ConvNet(SmallConvNet):
    """`SmallConvNet`, without its memory format while several are trained side by side."""

    side_by_side = True

    def forward(self, images: Tensor) -> Tensor:
        if not self.side_by_side:
            return super().forward(images)
        planes = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        scaled = planes.to(self.classifier.weight.dtype) / 127.5 - 1
        logits: Tensor = self.classifier(self.features(scaled).flatten(1))
        return logits


class Perceptron(nn.Module):
    """One hidden layer of 64; takes uint8 images [b, ...], gives logits [b, classes]."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(pixels, 64)
        self.classifier = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1).to(self.hidden.weight.dtype) / 127.5 - 1
        logits: Tensor = self.classifier(torch.relu(self.hidden(flat)))
        return logits


class Softmax(nn.Module):
    """Multinomial regression; takes uint8 images [b, ...], gives logits [b, classes]."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images.flatten(1).to(self.classifier.weight.dtype) / 127.5 - 1)
        return logits


def _builder(data: Data, inputs: Tensor, classes: int) -> Callable[[], nn.Module]:
    if data.model != "conv":
        kind = Perceptron if data.model == "perceptron" else Softmax
        pixels = int(inputs[0].numel())
        return lambda: kind(pixels, classes)
    channels = 1 if inputs.dim() == 3 else 3
    return lambda: ConvNet(channels, classes)
