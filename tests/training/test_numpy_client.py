"""NumPy clients become a task: arrays arrive as they were returned, settings in the config, mistakes are named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from node.training.numpy_client import CarriedArrays, NumPyTask
from node.training.task import Task
from node.training.workbench import Workbench

SETTINGS = Settings(learning_rate=0.5, local_steps=3, batch_size=7)


class Adding:
    """Adds its number + 1 to every floating array; remembers what it was given."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.configs: list[dict[str, Any]] = []
        self.given: list[np.ndarray[Any, Any]] = []

    def get_parameters(self, config: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
        return [
            np.arange(3, dtype=np.int64),
            np.ones((2, 3), np.float64),
            np.zeros((), np.float32),
            np.arange(8, dtype=">f4")[::-2],
        ]

    def fit(self, parameters: list[np.ndarray[Any, Any]], config: dict[str, Any]) -> Any:
        self.configs.append(config)
        self.given = [array.copy() for array in parameters]
        for array in parameters:
            array[...] += self.index + 1
        return parameters, 10 * (self.index + 1), {"loss": 0.25}

    def evaluate(self, parameters: list[np.ndarray[Any, Any]], config: dict[str, Any]) -> Any:
        return 1.0, 10 * (self.index + 1), {"accuracy": float(parameters[1].mean() - 1) / (self.index + 1)}


class Made:
    """A task of `clients` Adding clients, the Workbench on it, and the clients made so far."""

    def __init__(self, clients: int = 3, kind: Callable[[int], Adding] = Adding) -> None:
        self.clients: dict[int, Adding] = {}

        def make(index: int) -> Adding:
            assert index not in self.clients, "a client is made once"
            return self.clients.setdefault(index, kind(index))

        self.task = NumPyTask(make, clients)
        self.bench = Workbench(self.task, seed=4, device="cpu")


def test_it_is_a_task_whose_floating_arrays_travel_and_no_others() -> None:
    made = Made()
    assert isinstance(made.task, Task)
    assert made.bench.layout.dimension == 6 + 1 + 4
    assert set(made.clients) == {0}, "only client 0 is needed for the initial model"
    initial = np.frombuffer(made.bench.initial, "<f4")
    assert initial.tolist() == [1.0] * 6 + [0.0] + [7.0, 5.0, 3.0, 1.0]


def test_fit_gets_the_model_and_settings_and_its_result_is_the_update() -> None:
    made = Made()
    result = made.bench.train(made.bench.initial, SETTINGS, client=2, epoch=5)
    assert result.update.tolist() == [3.0] * 11
    assert (result.examples, result.loss) == (30, 0.25)
    (config,) = made.clients[2].configs
    settings = {"learning_rate": 0.5, "local_steps": 3, "batch_size": 7}
    assert config.items() >= {**settings, "epoch": 5, "client": 2}.items()
    given, initial = made.clients[2].given, Adding(0).get_parameters({})
    assert [array.dtype.name for array in given] == ["int64", "float64", "float32", "float32"]
    assert all(np.array_equal(got, sent) for got, sent in zip(given, initial, strict=True))


def test_arrays_that_do_not_travel_are_the_initial_ones_at_the_next_training() -> None:
    made = Made()
    for _ in range(2):
        made.bench.train(made.bench.initial, SETTINGS, client=1, epoch=1)
        assert made.clients[1].given[0].tolist() == [0, 1, 2]


def test_the_seed_differs_by_client_and_epoch_and_is_the_same_when_repeated() -> None:
    def seeds() -> list[int]:
        made = Made()
        for client, epoch in ((0, 0), (0, 1), (1, 0)):
            made.bench.train(made.bench.initial, SETTINGS, client=client, epoch=epoch)
        return [config["seed"] for index in (0, 1) for config in made.clients[index].configs]

    first = seeds()
    assert first == seeds()
    assert len(set(first)) == 3
    assert all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in first)


def test_accuracy_is_weighted_by_the_clients_examples() -> None:
    made = Made()
    model = np.frombuffer(made.bench.initial, "<f4") + 0.5
    # Clients answer 0.5, 0.25 and 1/6 over 10, 20 and 30 examples.
    assert made.bench.evaluate(model.astype("<f4").tobytes()) == pytest.approx(0.25)


def test_results_in_another_precision_are_cast_and_a_loss_may_be_absent() -> None:
    class Wide(Adding):
        def fit(self, parameters: list[np.ndarray[Any, Any]], config: dict[str, Any]) -> Any:
            return [array.astype(np.float64) + 2 for array in parameters], np.int64(3), {}

    made = Made(kind=Wide)
    result = made.bench.train(made.bench.initial, SETTINGS, client=0, epoch=0)
    assert result.update.tolist() == [2.0] * 11
    assert result.examples == 3
    assert math.isnan(result.loss)


def test_more_than_ten_arrays_keep_their_order() -> None:
    arrays = [np.full((1,), index, np.float32 if index % 2 else np.int32) for index in range(13)]
    carried = CarriedArrays(arrays)
    assert [int(array[0]) for array in carried.arrays()] == list(range(13))
    carried.take([array + 1 for array in arrays])
    assert [int(array[0]) for array in carried.arrays()] == list(range(1, 14))


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("fit", lambda p: (p[:3], 1, {}), r"fit\(\) returned 3 arrays, the model has 4"),
        ("fit", lambda p: ([p[0], p[1].T, *p[2:]], 1, {}), r"array 1 with shape \(3, 2\).*\(2, 3\)"),
        ("fit", lambda p: p, r"fit\(\) must return \(parameters, examples, metrics\)"),
        ("fit", lambda p: ([p[0], p[1].tolist(), *p[2:]], 1, {}), "array 1 is a list, not a NumPy array"),
        ("evaluate", lambda p: (0.1, 5), r"evaluate\(\) must return \(loss, examples, metrics\)"),
        ("evaluate", lambda p: (0.1, 5, {"acc": 1.0}), r"no metric 'accuracy'.*\['acc'\]"),
        ("evaluate", lambda p: (0.1, 5, {"accuracy": 95.0}), r"accuracy 95.0: it must lie in \[0, 1\]"),
        ("evaluate", lambda p: (0.1, 5, {"accuracy": math.nan}), "accuracy nan"),
        ("evaluate", lambda p: (0.1, 0, {"accuracy": 1.0}), "no client's evaluate"),
    ],
)
def test_what_a_client_returns_wrongly_is_said(
    method: str, answer: Callable[[Any], Any], message: str
) -> None:
    wrong = type("Wrong", (Adding,), {method: lambda self, parameters, config: answer(parameters)})
    made = Made(kind=wrong)
    call = {
        "fit": lambda: made.bench.train(made.bench.initial, SETTINGS, client=0, epoch=0),
        "evaluate": lambda: made.bench.evaluate(made.bench.initial),
    }[method]
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_an_array_that_torch_cannot_hold_is_refused_with_its_number() -> None:
    with pytest.raises(ConfigurationError, match=r"array 1 has type .*, which torch lacks"):
        CarriedArrays([np.zeros(2), np.array(["text"])])


def test_other_modules_and_clients_are_refused() -> None:
    made = Made()
    with pytest.raises(ConfigurationError, match="not a Linear"):
        made.task.evaluate(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="client 3 has no data"):
        made.bench.train(made.bench.initial, SETTINGS, client=3, epoch=0)
