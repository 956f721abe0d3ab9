"""Image archives: read in part, in whatever way they were written, with errors that name the array."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asyncfl.errors import ConfigurationError
from asyncfl.model import Layout
from node.training import archive
from node.training.archive import ArchiveArray
from node.training.baseline import fedavg_baseline
from node.training.defaults import IMAGES
from node.training.loader import load_task
from node.training.npz import SmallConvNet, _Images

Save = Callable[..., None]
WRITERS = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])


def make_images(count: int, seed: int, shape: tuple[int, ...] = (10, 12)) -> tuple[Any, Any]:
    """Three classes: a bright bar at the left, in the middle, at the right; on noise."""
    draw = np.random.RandomState(seed)
    labels = draw.randint(0, 3, count).astype(np.uint8)
    images = draw.randint(0, 90, (count, *shape)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 120
    return images, labels


def contents(shape: tuple[int, ...] = (10, 12), **changes: Any) -> dict[str, Any]:
    x_train, y_train = make_images(120, 0, shape)
    x_test, y_test = make_images(60, 1, shape)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changes}


@WRITERS
@pytest.mark.parametrize("slab", [1, 700, 1 << 20])
def test_rows_are_those_of_the_whole_array(
    save: Save, slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_SLAB_BYTES", slab)
    data = contents()
    save(tmp_path / "a.npz", **data)
    array = ArchiveArray.open(tmp_path / "a.npz", "x_train")
    assert (array.offset is not None) == (save is np.savez)
    for chosen in ([], [0], [119], [5, 3, 3, 100, 7], list(range(120))):
        assert np.array_equal(array.rows(chosen), data["x_train"][chosen])
    assert np.array_equal(array.rows(), data["x_train"])


@WRITERS
@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3)], ids=["grey", "colour"])
def test_a_small_archive_trains(save: Save, shape: tuple[int, ...], tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **contents(shape))
    task = load_task(f"npz:{tmp_path / 'a.npz'}", clients=3, options={"partition": "dirichlet", "alpha": 5.0})
    result = fedavg_baseline(task, 3, 4, IMAGES.schedule, 0, evaluate_every=4)
    assert result["accuracy"] > 0.8


def test_labels_in_a_column_are_taken_too(tmp_path: Path) -> None:
    data = contents()
    np.savez(tmp_path / "a.npz", **{**data, "y_train": data["y_train"][:, None].astype(np.int32)})
    images = _Images(tmp_path / "a.npz", 2, 0, "iid", 0.5)
    joined = torch.cat([images.client(0)[1], images.client(1)[1]])
    assert torch.equal(joined.bincount(), torch.from_numpy(np.bincount(data["y_train"])))


def test_images_and_labels_of_a_client_belong_together(tmp_path: Path) -> None:
    data = contents()
    np.savez_compressed(tmp_path / "a.npz", **data)
    images = _Images(tmp_path / "a.npz", 4, 0, "iid", 0.5)
    for client in range(4):
        inputs, labels = images.client(client)
        part = images._parts[client]
        assert inputs.dtype == torch.uint8
        assert np.array_equal(inputs.numpy(), data["x_train"][part])
        assert np.array_equal(labels.numpy(), data["y_train"][part])


def test_a_process_holds_its_own_clients_images_only(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **contents())
    images = _Images(tmp_path / "a.npz", 4, 0, "iid", 0.5)
    images.prepare([1, 3])
    assert sorted(images._held) == [1, 3]
    held = sum(part.untyped_storage().nbytes() for part in images._held.values())
    assert held == 60 * 10 * 12
    assert "_test_images" not in vars(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": np.zeros((120, 10, 12), np.float32)},
            r"x_train is float32 \(120, 10, 12\); uint8 images",
        ),
        ({"x_train": np.zeros((120, 3, 10, 12), np.uint8)}, r"x_train is uint8 \(120, 3, 10, 12\)"),
        ({"x_train": np.zeros((120, 4, 12), np.uint8)}, "at least one image of 8 x 8"),
        ({"x_test": np.zeros((60, 10, 13), np.uint8)}, r"x_train has images \(10, 12\), x_test \(10, 13\)"),
        ({"y_train": np.zeros(119, np.int64)}, r"y_train is int64 \(119,\); 120 integer labels"),
        ({"y_train": np.zeros(120, np.float64)}, "y_train is float64"),
        ({"y_train": np.full(120, -1)}, "y_train has labels from -1 to -1"),
        ({"y_test": np.full(60, 7)}, "y_test has labels up to 7, y_train only up to 2"),
        ({"x_train": np.array([{}], dtype=object)}, "plain array of numbers"),
        ({"x_train": np.asfortranarray(np.zeros((120, 10, 12), np.uint8))}, "C order"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused_naming_the_array(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **contents(**changes))
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_task(f"npz:{tmp_path / 'a.npz'}", clients=2)
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_a_missing_array_is_named_with_those_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros(3))
    with pytest.raises(ConfigurationError, match="no array 'x_train'; it holds train_images"):
        load_task(f"npz:{tmp_path / 'a.npz'}", clients=2)


def test_a_missing_file_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_task(f"npz:{tmp_path / 'nothing.npz'}", clients=2)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ConfigurationError, match="not a readable NumPy archive"):
        load_task(f"npz:{tmp_path / 'text.npz'}", clients=2)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_that_is_cut_short_is_refused(compression: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as file:
        for key, array in contents().items():
            data = io.BytesIO()
            np.save(data, array)
            file.writestr(key + ".npy", data.getvalue()[:-1] if key == "x_train" else data.getvalue())
    message = r"'x_train' is damaged: its header says \(120, 10, 12\) uint8, its data are 14399 bytes"
    with pytest.raises(ConfigurationError, match=message):
        load_task(f"npz:{tmp_path / 'a.npz'}", clients=2)


def test_compressed_data_that_rot_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **contents())
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("x_train.npy").header_offset
    data = bytearray(path.read_bytes())
    data[start + 2000 : start + 2100] = bytes(100)
    path.write_bytes(data)
    task = load_task(f"npz:{path}", clients=2)
    with pytest.raises(ConfigurationError, match="array 'x_train' is damaged"):
        task.prepare([0, 1])  # type: ignore[attr-defined]


def test_the_network_has_the_size_its_description_states() -> None:
    assert [Layout.of_module(SmallConvNet(channels, 10)).dimension for channels in (1, 3)] == [20586, 20874]
    for shape in ((2, 28, 28), (2, 32, 32, 3), (2, 8, 8)):
        network = SmallConvNet(3 if len(shape) == 4 else 1, 5)
        assert network(torch.zeros(shape, dtype=torch.uint8)).shape == (2, 5)
