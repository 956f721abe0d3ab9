"""The built-in task `npz:PATH`: images from a NumPy archive, a small convolutional network.

The archive has `x_train, y_train, x_test, y_test`: images uint8, grey [n, h, w] or colour [n, h, w, 3], and
integer labels 0..classes-1, [n] or [n, 1]. The training images are split over the clients, drawn from the
deployment's seed: `partition = "iid"` (parts whose sizes differ by at most one, the default) or `"dirichlet"`
(`alpha`, default 0.5: each class in Dirichlet proportions). Each client keeps the share `own_test` of its images for
measuring (default 0). `x_test` is held out for accuracy.

A process holds the images of the clients it hosts, and the test images only once it evaluates.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asyncfl.errors import ConfigurationError
from node.training.archive import ArchiveArray
from node.training.partitions import partition
from node.training.supervised import SupervisedTask, check_client

MAX_CLASSES: Final = 10_000
MIN_SIDE: Final = 8
"""Pixels; two poolings halve a side twice."""


def npz(
    *,
    path: str,
    clients: int,
    seed: int = 0,
    partition: str = "iid",
    alpha: float = 0.5,
    own_test: float = 0.0,
) -> SupervisedTask:
    """The task of the archive at `path`. Raises `ConfigurationError` naming the file and array at fault."""
    images = _Images(Path(path), clients, seed, partition, alpha)
    channels, classes = images.channels, images.classes
    return SupervisedTask(lambda: SmallConvNet(channels, classes), images, own_test=own_test)


class SmallConvNet(nn.Module):
    """Two 3x3 convolutions with pooling and group normalisation, then a linear layer on a 7x7 map.

    Takes uint8 [b, h, w] or [b, h, w, 3], gives logits [b, classes]. For ten classes: 20,586 parameters
    (grey), 20,874 (colour). Group normalisation has no running statistics that would have to be averaged.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(7),
        )
        self.classifier = nn.Linear(32 * 49, classes)

    def forward(self, images: Tensor) -> Tensor:
        planes = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        # Scaled here, not when loaded: as bytes the images take a quarter of the memory.
        scaled = planes.to(self.classifier.weight.dtype) / 127.5 - 1
        # Channels last: pooling is several times as fast then on a CPU, and images of one channel do not ask for it.
        planes = self.features[0](scaled).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.classifier(self.features[1:](planes).flatten(1))
        return logits


class _Images:
    def __init__(self, path: Path, clients: int, seed: int, kind: str, alpha: float) -> None:
        self._train = _open_images(path, "x_train")
        self._held_out = _open_images(path, "x_test")
        if self._train.shape[1:] != self._held_out.shape[1:]:
            raise ConfigurationError(
                f"{path}: x_train has images {self._train.shape[1:]}, x_test {self._held_out.shape[1:]}"
            )
        self._labels = _labels(path, "y_train", self._train)
        self._test_labels = _labels(path, "y_test", self._held_out)
        self.classes = int(self._labels.max()) + 1
        if int(self._test_labels.max()) >= self.classes:
            raise ConfigurationError(
                f"{path}: y_test has labels up to {int(self._test_labels.max())}, y_train only up to "
                f"{self.classes - 1}"
            )
        self._parts = partition(self._labels, clients, kind=kind, alpha=alpha, seed=seed)
        self._held: dict[int, Tensor] = {}
        self._loading = threading.Lock()

    @property
    def channels(self) -> int:
        return 1 if len(self._train.shape) == 3 else 3

    def prepare(self, clients: Collection[int]) -> None:
        """One reading of the archive for all of them."""
        for client in clients:
            check_client(client, len(self._parts))
        with self._loading:
            missing = [client for client in clients if client not in self._held]
            if not missing:
                return
            parts = [self._parts[client] for client in missing]
            images = torch.from_numpy(self._train.rows(np.concatenate(parts)))
            self._held.update(
                zip(
                    missing,
                    (piece.clone() for piece in torch.split(images, [len(part) for part in parts])),
                    strict=True,
                )
            )

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        self.prepare([index])
        return self._held[index], torch.from_numpy(self._labels[self._parts[index]])

    def test(self) -> tuple[Tensor, Tensor]:
        return self._test_images, torch.from_numpy(self._test_labels)

    @cached_property
    def _test_images(self) -> Tensor:
        return torch.from_numpy(self._held_out.rows())


def _open_images(path: Path, key: str) -> ArchiveArray:
    array = ArchiveArray.open(path, key)
    grey_or_colour = len(array.shape) == 3 or (len(array.shape) == 4 and array.shape[3] == 3)
    if array.dtype != np.uint8 or not grey_or_colour:
        raise ConfigurationError(
            f"{path}: {key} is {array.dtype} {array.shape}; uint8 images [n, h, w] or [n, h, w, 3] are needed"
        )
    if len(array) == 0 or min(array.shape[1:3]) < MIN_SIDE:
        raise ConfigurationError(
            f"{path}: {key} has shape {array.shape}; at least one image of {MIN_SIDE} x {MIN_SIDE} is needed"
        )
    return array


def _labels(path: Path, key: str, images: ArchiveArray) -> NDArray[np.int64]:
    array = ArchiveArray.open(path, key)
    if array.shape not in ((len(images),), (len(images), 1)) or array.dtype.kind not in "iu":
        raise ConfigurationError(
            f"{path}: {key} is {array.dtype} {array.shape}; {len(images)} integer labels are needed, "
            f"one for each image of {images.key}"
        )
    labels: NDArray[Any] = array.rows().reshape(-1)
    if int(labels.min()) < 0 or int(labels.max()) >= MAX_CLASSES:
        raise ConfigurationError(
            f"{path}: {key} has labels from {labels.min()} to {labels.max()}; classes are numbered from 0, "
            f"at most {MAX_CLASSES}"
        )
    return labels.astype(np.int64)
