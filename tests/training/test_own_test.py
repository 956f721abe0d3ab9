"""Examples that clients keep to measure models with."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asyncfl.client.upload import NOTHING, Measured
from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from node.training.digits import digits
from node.training.numpy_client import NumPyTask
from node.training.workbench import Workbench

SETTINGS = Settings(learning_rate=0.3, local_steps=0, batch_size=16)


def test_nothing_changes_for_a_task_that_keeps_nothing() -> None:
    plain = Workbench(digits(clients=8), seed=0, device="cpu")
    assert plain.measure(plain.initial, 3) == NOTHING
    inputs, labels = plain.task.examples.client(3)  # type: ignore[attr-defined]
    trained = plain.train(plain.initial, SETTINGS, 3, 1)
    assert trained.examples == len(labels) == len(inputs)


def test_a_client_measures_on_examples_that_it_never_trains_on() -> None:
    task = digits(clients=8, own_test=0.2)
    bench = Workbench(task, seed=0, device="cpu")
    inputs, _ = task.examples.client(3)
    (kept, _), (own, own_labels) = task._parts(3)
    assert len(own) == round(0.2 * len(inputs)) == len(own_labels)
    every = {tuple(row) for row in inputs.tolist()}
    assert {tuple(row) for row in torch.cat([kept, own]).tolist()} == every
    assert not {tuple(row) for row in kept.tolist()} & {tuple(row) for row in own.tolist()}
    assert bench.train(bench.initial, SETTINGS, 3, 1).examples == len(kept)
    measured = bench.measure(bench.initial, 3)
    assert measured.count == len(own)
    assert 0 <= measured.correct < measured.count / 2
    assert measured == bench.measure(bench.initial, 3)


def test_measuring_leaves_the_training_as_it_was() -> None:
    bench = Workbench(digits(clients=8, own_test=0.2), seed=0, device="cpu")
    before = bench.train(bench.initial, SETTINGS, 2, 1).update
    bench.measure(bench.initial, 2)
    assert torch.equal(bench.train(bench.initial, SETTINGS, 2, 1).update, before)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="own_test"):
        digits(clients=4, own_test=share)


class Answering:
    """A NumPy client whose `evaluate` answers as it was told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_parameters(self, config: dict[str, Any]) -> list[NDArray[Any]]:
        return [np.zeros(3, np.float32)]

    def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> Any:
        return parameters, 1, {}

    def evaluate(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [((0.1, 20, {"accuracy": 0.25}), Measured(5, 20)), ((0.0, 0, {"accuracy": math.nan}), NOTHING)],
)
def test_a_numpy_client_measures_with_its_evaluate(answer: Any, expected: Measured) -> None:
    bench = Workbench(NumPyTask(lambda index: Answering(answer), 2), seed=0)
    assert bench.measure(bench.initial, 1) == expected


def test_an_accuracy_out_of_range_is_passed_on_to_be_judged_with_the_noise() -> None:
    bench = Workbench(NumPyTask(lambda index: Answering((0.1, 20, {"accuracy": math.nan})), 2), seed=0)
    assert not bench.measure(bench.initial, 1).is_valid


def test_an_evaluate_client_that_returns_no_pair_is_refused() -> None:
    task = digits(clients=4)
    task.evaluate_client = lambda module, index: 0.9  # type: ignore[method-assign,assignment,return-value]
    bench = Workbench(task, seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match=r"evaluate_client\(\) returned 0.9"):
        bench.measure(bench.initial, 0)
