"""Clients in NumPy terms (`get_parameters`, `fit`, `evaluate`), as Flower has them, made into a task.

Any object with these methods fits; nothing here imports Flower. What is trained can be
anything: the arrays are carried by a module that computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from node.training.supervised import check_client
from node.training.task import LocalTraining

Arrays: TypeAlias = list[NDArray[Any]]
Config: TypeAlias = dict[str, Any]


class NumPyClient(Protocol):
    """One client. Arrays are given as copies, which it may change; always as many, in the same order."""

    def get_parameters(self, config: Config) -> Sequence[NDArray[Any]]:
        """The initial model. Asked of client 0 alone, in every process; `config` is empty."""
        ...

    def fit(
        self, parameters: Arrays, config: Config
    ) -> tuple[Sequence[NDArray[Any]], int, Mapping[str, Any]]:
        """Train from `parameters`. Returns (new parameters, examples held, metrics).

        `config` has `learning_rate`, `local_steps` (0: one pass), `batch_size`, `proximal_mu` (0: off),
        `seconds` and `most_steps` (a budget; 0: none), `epoch`, `client` (its number, from 0) and `seed`, a
        number in [0, 2^63) that is another one for every client and epoch and the same when the run is
        repeated. The metric `loss`, where present, goes to the client's log. A fit that ends early says so
        by the metrics `steps` and `planned` (which is `local_steps` where that is not 0).
        """
        ...

    def evaluate(self, parameters: Arrays, config: Config) -> tuple[float, int, Mapping[str, Any]]:
        """Returns (loss, examples, metrics) on this client's held-out data.

        The metric `accuracy`, in [0, 1], is needed. `config` is empty.
        """
        ...


class CarriedArrays(nn.Module):
    """Arrays as the state of a module: floating ones are its parameters and travel, all others stay."""

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Raises `ConfigurationError` for what is no array of a type that torch has."""
        super().__init__()
        for index, array in enumerate(arrays):
            tensor = _tensor(index, array)
            if tensor.is_floating_point():
                self.register_parameter(_name(index), nn.Parameter(tensor))
            else:
                self.register_buffer(_name(index), tensor)

    def arrays(self) -> Arrays:
        """Copies of all, in order."""
        state = self.state_dict()
        return [state[_name(index)].cpu().numpy().copy() for index in range(len(state))]

    def take(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Hold these instead, cast to the types held. Raises `ConfigurationError` for other shapes."""
        state = self.state_dict()
        if len(arrays) != len(state):
            raise ConfigurationError(f"fit() returned {len(arrays)} arrays, the model has {len(state)}")
        for index, array in enumerate(arrays):
            held, new = state[_name(index)], _tensor(index, array)
            if new.shape != held.shape:
                raise ConfigurationError(
                    f"fit() returned array {index} with shape {tuple(new.shape)}, the model's has "
                    f"{tuple(held.shape)}"
                )
            held.copy_(new)


class NumPyTask:
    """A task whose clients are made by `client(index)`, index from 0, each when it is first needed.

    Accuracy is the mean of the clients' `accuracy`, weighted by the examples that each was measured on.
    """

    def __init__(self, client: Callable[[int], NumPyClient], clients: int) -> None:
        self._make: Final = client
        self._count: Final = clients
        self._made: Final[dict[int, NumPyClient]] = {}

    def model(self) -> nn.Module:
        return CarriedArrays(self._client(0).get_parameters({}))

    def train(self, module: nn.Module, client_index: int, settings: Settings, epoch: int) -> LocalTraining:
        """Calls `fit`. Raises `ConfigurationError` when it returns something else than it should."""
        carried = _carried(module)
        # The generator is seeded for every training, by seed, client and epoch.
        seed = int(torch.randint(2**63 - 1, ()))
        config = settings.model_dump(exclude={"proximal"})
        config |= {"proximal_mu": settings.proximal, "epoch": epoch, "client": client_index, "seed": seed}
        outcome = self._client(client_index).fit(carried.arrays(), config)
        arrays, examples, metrics = _three("fit", "(parameters, examples, metrics)", outcome)
        carried.take(arrays)
        steps = int(metrics.get("steps", 0))
        planned = int(metrics.get("planned", settings.local_steps or steps)) if steps else 0
        return LocalTraining(int(examples), float(metrics.get("loss", nan)), steps, planned)

    def evaluate(self, module: nn.Module) -> float:
        total, right = 0, 0.0
        for index in range(self._count):
            correct, count = self.evaluate_client(module, index)
            if not 0 <= correct <= count:
                raise ConfigurationError(
                    f"evaluate() of client {index} returned accuracy {correct / count}: it must lie in [0, 1]"
                )
            total, right = total + count, right + correct
        if total < 1:
            raise ConfigurationError("no client's evaluate() had any examples: accuracy cannot be measured")
        return right / total

    def evaluate_client(self, module: nn.Module, client_index: int) -> tuple[float, int]:
        """(accuracy * examples, examples) by the client's `evaluate`; zeros where it has no examples.

        Raises `ConfigurationError` when it returns no accuracy. One out of range, such as NaN, is passed on:
        what becomes of it depends on whether noise is on.
        """
        outcome = self._client(client_index).evaluate(_carried(module).arrays(), {})
        _, examples, metrics = _three("evaluate", "(loss, examples, metrics)", outcome)
        if "accuracy" not in metrics:
            raise ConfigurationError(
                f"evaluate() of client {client_index} returned no metric 'accuracy' (a number in [0, 1]), only "
                f"{sorted(metrics)}"
            )
        count = int(examples)
        return (count * float(metrics["accuracy"]), count) if count else (0.0, 0)

    def _client(self, index: int) -> NumPyClient:
        check_client(index, self._count)
        if index not in self._made:
            self._made[index] = self._make(index)
        return self._made[index]


def _carried(module: nn.Module) -> CarriedArrays:
    if not isinstance(module, CarriedArrays):
        raise ConfigurationError(f"a NumPyTask trains what its model() makes, not a {type(module).__name__}")
    return module


def _name(index: int) -> str:
    # State dicts keep parameters before buffers, so that the order has to be in the name.
    return f"array_{index}"


def _tensor(index: int, array: Any) -> Tensor:
    if not isinstance(array, np.ndarray | np.generic):
        raise ConfigurationError(f"array {index} is a {type(array).__name__}, not a NumPy array")
    try:
        # A copy in native byte order and plain strides, which is all that torch reads.
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise ConfigurationError(
            f"array {index} has type {array.dtype}, which torch lacks; convert it to float32 or int64"
        ) from None


def _three(method: str, expected: str, outcome: Any) -> tuple[Any, Any, Mapping[str, Any]]:
    if not (isinstance(outcome, tuple) and len(outcome) == 3 and isinstance(outcome[2], Mapping)):
        raise ConfigurationError(
            f"{method}() must return {expected}, metrics a dictionary; not {outcome!r:.80}"
        )
    return outcome
