"""The evaluator's process: accuracy, baseline and model files, without torch in the supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from asyncfl.digest import content_digest
from asyncfl.errors import ConfigurationError
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.supervisor.children import ChildFailed
from node.supervisor.evaluation import Evaluator, find_blobs
from node.supervisor.watch import Certified

from .test_children import eventually, gone


@pytest.fixture
def evaluator(copied: DeploymentDirectory) -> Iterator[Evaluator]:
    process = Evaluator(copied)
    process.start()
    yield process
    process.kill()


def stored(files: DeploymentDirectory, data: bytes) -> Certified:
    digest = content_digest(data).hex()
    folder = files.state("replica-3") / "blobs" / digest[:2]
    folder.mkdir(parents=True)
    (folder / digest).write_bytes(data)
    return Certified("aa" * 32, 4, digest)


def test_models_are_evaluated_saved_and_compared(
    copied: DeploymentDirectory, evaluator: Evaluator, tmp_path: Path
) -> None:
    from node.training.files import read_model

    initial = copied.initial_model()
    model = stored(copied, initial)
    accuracy = evaluator.accuracy(model)
    assert 0.0 < accuracy < 0.5
    assert evaluator.accuracy(model) == accuracy
    evaluator.save(model, tmp_path / "m.safetensors", {"asyncfl.entries": "4"})
    assert read_model(tmp_path / "m.safetensors")[1] == initial
    rounds: list[tuple[int, int]] = []
    assert evaluator.baseline(2, lambda number, of: rounds.append((number, of))) > accuracy
    assert rounds == [(1, 2), (2, 2)]

    # While a run goes on: offered, and collected when done; the same model is not evaluated twice.
    other = stored(copied, bytes(len(initial)))
    found: list[tuple[Certified, float]] = []

    def collected() -> bool:
        evaluator.offer(other)
        found.extend(evaluator.collect())
        return bool(found)

    assert eventually(collected)
    assert found[0][0] == other
    evaluator.offer(other)
    assert evaluator.collect() == []

    # One that is damaged at one replica is taken from another.
    elsewhere = copied.state("replica-1") / "blobs" / other.model[:2] / other.model
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"damaged")
    assert evaluator.accuracy(other) == found[0][1]
    elsewhere.unlink()

    # A blob that is gone or damaged in between is no reason to stop; as the final model it is.
    (path,) = find_blobs(copied, other.model)
    path.write_bytes(b"damaged")
    with pytest.raises(ChildFailed, match="damaged"):
        evaluator.accuracy(other)
    path.unlink()
    with pytest.raises(ChildFailed, match="no replica has the final model"):
        evaluator.accuracy(other)
    assert evaluator.accuracy(model) == accuracy


def test_an_evaluator_that_is_killed_is_noticed(evaluator: Evaluator, copied: DeploymentDirectory) -> None:
    assert evaluator.pid is not None
    os.kill(evaluator.pid, signal.SIGKILL)
    with pytest.raises(ChildFailed, match="evaluator ended by itself with status -9"):
        evaluator.accuracy(stored(copied, b"1234"))


def test_a_task_that_cannot_be_loaded_is_the_users_mistake_told_in_one_line(
    tmp_path: Path,
) -> None:
    archive = tmp_path / "im.npz"
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(archive, x_train=images, y_train=labels, x_test=images, y_test=labels)
    made = create_deployment(tmp_path / "run", NewDeployment(clients=4, task=f"npz:{archive}"))
    archive.unlink()
    evaluator = Evaluator(made)
    evaluator.start()
    with pytest.raises(ConfigurationError) as caught:
        evaluator.accuracy(stored(made, b"1234"))
    evaluator.kill()
    assert str(caught.value).startswith(f"evaluator: {archive}: ")
    assert "\n" not in str(caught.value)


def test_the_evaluator_ends_when_its_standard_input_ends(evaluator: Evaluator) -> None:
    assert evaluator.pid is not None
    evaluator.stdin.close()
    assert evaluator.wait(90)
    assert gone(evaluator.pid)
