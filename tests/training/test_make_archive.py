"""The archive made of the files in which MNIST and CIFAR-10 are handed out is the one that `npz:` reads."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from node.training.loader import load_task
from scripts.make_archive import TRAINING_BATCHES, main

Write = Callable[[Path], None]


def _colours(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(seed)
    return draw.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8), np.arange(count).astype(np.uint8)


def _planes(images: np.ndarray) -> np.ndarray:
    """As CIFAR-10 has them: red, then green, then blue."""
    return np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images])


def write_idx(folder: Path, pack: Callable[[bytes], bytes] = bytes, suffix: str = "") -> None:
    for seed, (name, count) in enumerate((("train", 12), ("t10k", 4))):
        images = _colours(seed, count)[0][:, :28, :28, 0]
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count).astype(np.uint8) % 3)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{name}-{kind}-ubyte{suffix}").write_bytes(pack(head + array.tobytes()))


def write_packed_idx(folder: Path) -> None:
    write_idx(folder, gzip.compress, ".gz")


def _batches() -> list[tuple[str, np.ndarray, np.ndarray]]:
    names = (*TRAINING_BATCHES, "test_batch")
    return [(name, *_colours(seed, 3)) for seed, name in enumerate(names)]


def write_binary(folder: Path) -> None:
    for name, images, labels in _batches():
        records = np.concatenate([labels[:, None], _planes(images)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_python(folder: Path) -> None:
    for name, images, labels in _batches():
        batch = {b"data": _planes(images), b"labels": labels.tolist(), b"batch_label": b"one"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("write", [write_idx, write_packed_idx])
def test_mnist_in_idx_files(write: Write, tmp_path: Path) -> None:
    write(tmp_path)
    assert main([str(tmp_path), str(tmp_path / "data" / "mnist.npz")]) == 0
    made = np.load(tmp_path / "data" / "mnist.npz")
    assert np.array_equal(made["x_train"], _colours(0, 12)[0][:, :28, :28, 0])
    assert np.array_equal(made["x_test"], _colours(1, 4)[0][:, :28, :28, 0])
    assert made["y_train"].tolist() == [0, 1, 2] * 4
    assert made["y_test"].tolist() == [0, 1, 2, 0]
    task = load_task(f"npz:{tmp_path / 'data' / 'mnist.npz'}", clients=3)
    assert 0 <= task.evaluate(task.model()) <= 1


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_cifar_in_both_versions(write: Write, tmp_path: Path) -> None:
    write(tmp_path)
    assert main([str(tmp_path), str(tmp_path / "cifar10.npz")]) == 0
    made = np.load(tmp_path / "cifar10.npz")
    expected = [_colours(seed, 3)[0] for seed in range(6)]
    assert np.array_equal(made["x_train"], np.concatenate(expected[:5]))
    assert np.array_equal(made["x_test"], expected[5])
    assert made["y_train"].tolist() == [0, 1, 2] * 5
    load_task(f"npz:{tmp_path / 'cifar10.npz'}", clients=3)


def test_a_pickle_that_holds_anything_but_arrays_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_python(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Path("x"), b"labels": []}))
    assert main([str(tmp_path), str(tmp_path / "cifar10.npz")]) == 1
    said = capsys.readouterr().err
    assert "data_batch_3" in said
    assert "it asks for pathlib" in said
    assert not (tmp_path / "cifar10.npz").exists()


def test_missing_and_damaged_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = str(tmp_path / "a.npz")
    assert main([str(tmp_path), archive]) == 1
    assert "holds none of train-images-idx3-ubyte, data_batch_1.bin, data_batch_1" in capsys.readouterr().err
    write_binary(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    assert main([str(tmp_path), archive]) == 1
    assert "data_batch_4.bin: missing" in capsys.readouterr().err
    write_idx(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    assert main([str(tmp_path), archive]) == 1
    assert "t10k-labels-idx1-ubyte: not a complete IDX file" in capsys.readouterr().err
    write_packed_idx(tmp_path)
    labels.unlink()
    packed = tmp_path / "t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-4])
    assert main([str(tmp_path), archive]) == 1
    assert "t10k-labels-idx1-ubyte.gz: damaged" in capsys.readouterr().err
    assert not Path(archive).exists()
