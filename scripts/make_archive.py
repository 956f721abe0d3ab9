#!/usr/bin/env python
"""Make the archive that the task `npz:PATH` reads from the files in which MNIST and CIFAR-10 are handed out.

The folder holds one of these sets, as downloaded (the first with or without .gz):

    train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte
    data_batch_1.bin to data_batch_5.bin, test_batch.bin       ("CIFAR-10 binary version")
    data_batch_1 to data_batch_5, test_batch                   ("CIFAR-10 python version")

    scripts/make_archive.py FOLDER data/mnist.npz
"""

from __future__ import annotations

import argparse
import gzip
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labelled = tuple[Images, NDArray[np.uint8]]

SIDE, CHANNELS = 32, 3
"""Of CIFAR-10: a colour plane after the other, row by row."""
RECORD: Final = 1 + CHANNELS * SIDE * SIDE
TRAINING_BATCHES: Final = tuple(f"data_batch_{number}" for number in range(1, 6))


class UnusableFile(Exception):
    """A file is absent, or not what its name says."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array in the IDX format (two zero bytes, type 8, rank, sizes as big-endian int32, data)."""
    data = _bytes(path)
    rank = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = tuple(np.frombuffer(data, ">i4", rank, 4)) if len(data) >= 4 + 4 * rank else ()
    if not shape or len(data) != 4 + 4 * rank + int(np.prod(shape, dtype=np.int64)):
        raise UnusableFile(f"{path}: not a complete IDX file of unsigned bytes; download it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_cifar_binary(path: Path) -> Labelled:
    """Records of a label and an image."""
    data = _bytes(path)
    if not data or len(data) % RECORD:
        raise UnusableFile(f"{path}: {len(data)} bytes are no whole number of images; download it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    return _images(records[:, 1:]), records[:, 0]


class _ArraysOnly(pickle.Unpickler):
    """A pickle can run anything; these hold arrays, and nothing else is looked up."""

    ALLOWED: Final = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_cifar_python(path: Path) -> Labelled:
    """A pickled dictionary with b"data" and b"labels"."""
    try:
        with _open(path) as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.uint8)
        if pixels.shape != (len(labels), RECORD - 1):
            raise ValueError(f"{len(labels)} labels, images {pixels.shape}")
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UnusableFile(f"{path}: not a batch of CIFAR-10: {error}") from None
    return _images(pixels), labels


def _images(pixels: NDArray[np.uint8]) -> Images:
    return np.ascontiguousarray(pixels.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1))


def _open(path: Path) -> BinaryIO:
    packed = path.with_name(path.name + ".gz")
    if packed.exists() and not path.exists():
        return cast(BinaryIO, gzip.open(packed))
    return path.open("rb")


def _bytes(path: Path) -> bytes:
    try:
        with _open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise UnusableFile(f"{path}.gz: damaged: {error}; download it again") from None


def read_mnist(folder: Path) -> dict[str, NDArray[np.uint8]]:
    names = {"train": "train", "test": "t10k"}
    arrays = {f"x_{split}": read_idx(folder / f"{name}-images-idx3-ubyte") for split, name in names.items()}
    return arrays | {
        f"y_{split}": read_idx(folder / f"{name}-labels-idx1-ubyte") for split, name in names.items()
    }


def read_cifar(folder: Path, suffix: str, read: Callable[[Path], Labelled]) -> dict[str, NDArray[np.uint8]]:
    batches = [read(folder / f"{name}{suffix}") for name in TRAINING_BATCHES]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    test_images, test_labels = read(folder / f"test_batch{suffix}")
    return {"x_train": images, "y_train": labels, "x_test": test_images, "y_test": test_labels}


def read_folder(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """`x_train, y_train, x_test, y_test` of whichever set the folder holds. Raises `UnusableFile`."""
    kinds: list[tuple[str, Callable[[], dict[str, NDArray[np.uint8]]]]] = [
        ("train-images-idx3-ubyte", lambda: read_mnist(folder)),
        ("data_batch_1.bin", lambda: read_cifar(folder, ".bin", read_cifar_binary)),
        ("data_batch_1", lambda: read_cifar(folder, "", read_cifar_python)),
    ]
    for first, read in kinds:
        if (folder / first).exists() or (folder / f"{first}.gz").exists():
            arrays = read()
            for split in ("train", "test"):
                if len(arrays[f"x_{split}"]) != len(arrays[f"y_{split}"]):
                    raise UnusableFile(f"{folder}: the {split} set has not as many labels as images")
            return arrays
    raise UnusableFile(f"{folder}: holds none of {', '.join(first for first, _ in kinds)}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="See docs/how-to/archives.md."
    )
    parser.add_argument("folder", type=Path, help="where the downloaded files lie, unpacked")
    parser.add_argument("archive", type=Path, help="what to write, such as data/mnist.npz")
    options = parser.parse_args(arguments)
    try:
        arrays = read_folder(options.folder)
        options.archive.parent.mkdir(parents=True, exist_ok=True)
        with options.archive.open("wb") as file:
            save: Callable[..., None] = np.savez  # whose own types take any array for its options
            save(file, **arrays)
    except FileNotFoundError as error:
        print(f"error: {error.filename}: missing", file=sys.stderr)
        return 1
    except (UnusableFile, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.archive}: {arrays['x_train'].shape} for training, {len(arrays['x_test'])} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
