"""Aggregation rules as strategies of Flower (https://flower.ai), for its message API: `pip install 'asyncfl[flower]'`.

>>> strategy = FedAOT(byzantine=3, holdout=Holdout(Net(), inputs, labels))
>>> strategy = Robust("krum", byzantine=3)
>>> result = strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=10)

Rules see what each client's reply differs by from the model that was sent. All count alike: how many examples a client
says that it has would be a way to outweigh the others. What a client sends cannot end the run: a reply of another
shape, or that is not finite, is left out, and logged.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from asyncfl.errors import LocalProtocolError, RuleError
from asyncfl.rules import FedAOT as FedAOTRule
from asyncfl.rules import make_rule
from asyncfl.rules.fedaot import Gradient

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg
except ImportError as error:
    raise ImportError(
        f"asyncfl.integrations.flower needs Flower 1.41 or newer ({error}); pip install 'asyncfl[flower]'"
    ) from error

_LOG: Final = logging.getLogger("flwr")

State = Mapping[str, Tensor]
"""A model's tensors by name, as `state_dict()` gives them."""


class Holdout:
    """The gradient of the loss on a few clean examples, from which `FedAOT` learns whom to trust.

    They must be no client's: under differential privacy the aggregate is else no longer post-processing.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    ) -> None:
        """`loss(module(inputs), labels)` is a scalar. `module` goes into evaluation mode; its weights do not matter."""
        self._module, self._inputs, self._labels, self._loss = module.eval(), inputs, labels, loss

    def __call__(self, state: State) -> dict[str, Tensor]:
        """The gradient at `state`, of every parameter that is trained."""
        trained = {
            name: state[name].detach().clone().requires_grad_()
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
        }
        outputs = functional_call(self._module, {**state, **trained}, (self._inputs,))
        loss = self._loss(outputs, self._labels)
        parts = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        return {name: part for name, part in zip(trained, parts, strict=True) if part is not None}


class _Flat:
    """Floating arrays of a model as one vector float32 [d], in the order of the names."""

    def __init__(self, arrays: ArrayRecord) -> None:
        values = {name: array.numpy() for name, array in arrays.items()}
        self._values = values
        self._floating = [name for name in sorted(values) if np.issubdtype(values[name].dtype, np.floating)]
        self._others = [name for name in values if name not in self._floating]
        self.vector = self.read(values)

    def read(self, values: Mapping[str, np.ndarray[Any, Any]]) -> Tensor:
        """Raises `ValueError` for arrays of other names or shapes, or that are not finite."""
        if values.keys() != self._values.keys():
            raise ValueError("arrays of other names than the model's")
        for name, expected in self._values.items():
            if values[name].shape != expected.shape or values[name].dtype != expected.dtype:
                raise ValueError(f"{name} is {values[name].dtype} {list(values[name].shape)}")
        parts = [np.zeros(0, np.float32), *(values[name].ravel() for name in self._floating)]
        vector = torch.from_numpy(np.concatenate(parts).astype(np.float32))
        if not bool(torch.isfinite(vector).all()):
            raise ValueError("arrays with coordinates that are not finite")
        return vector

    def state(self, vector: Tensor) -> dict[str, Tensor]:
        """Tensors by name: `vector`'s, and those that are not floating as they were sent."""
        return {name: torch.from_numpy(value) for name, value in self._write(vector, {}).items()}

    def gradient(self, named: State) -> Tensor:
        """float32 [d]: zero where nothing is named."""
        parts = [
            named[name].detach().float().flatten() if name in named else torch.zeros(self._values[name].size)
            for name in self._floating
        ]
        return torch.cat(parts)

    def record(self, vector: Tensor, replies: list[dict[str, np.ndarray[Any, Any]]]) -> ArrayRecord:
        """`vector`'s arrays; of those that are not floating (counters) each coordinate's median among `replies`."""
        others = {
            name: np.sort([reply[name] for reply in replies], axis=0)[(len(replies) - 1) // 2]
            for name in self._others
        }
        written = self._write(vector, others)
        return ArrayRecord({name: Array(np.asarray(written[name])) for name in self._values})

    def _write(
        self, vector: Tensor, others: Mapping[str, np.ndarray[Any, Any]]
    ) -> dict[str, np.ndarray[Any, Any]]:
        result, numbers, at = {**self._values, **others}, vector.numpy(), 0
        for name in self._floating:
            like = self._values[name]
            result[name] = numbers[at : at + like.size].reshape(like.shape).astype(like.dtype)
            at += like.size
        return result


class _Strategy(FedAvg, ABC):
    """Flower's `FedAvg` with another aggregate."""

    def __init__(self, byzantine: int, **options: Any) -> None:
        super().__init__(**options)
        self.byzantine = byzantine
        self._sent: _Flat | None = None

    @abstractmethod
    def _combine(self, nodes: list[int], updates: Tensor, model: _Flat) -> Tensor:
        """The aggregate [d] of the `updates` [n, d] of `nodes`, to add to `model`. Raises `RuleError`."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        """As `FedAvg`; what is sent is kept, since rules look at differences from it."""
        self._sent = _Flat(arrays)
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model and the clients' metrics; (None, None), and a warning, where too few replies can be used."""
        sent = self._sent
        if sent is None:
            raise LocalProtocolError("aggregate_train was called before configure_train had sent a model")
        read, updates, contents = {}, [], []
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                arrays = _arrays(reply, self.arrayrecord_key)
                updates.append(sent.read(arrays) - sent.vector)
            except ValueError as problem:
                _LOG.warning("aggregate_train: node %d is left out: %s", node, problem)
                continue
            read[node] = arrays
            contents.append(reply.content)
        _LOG.info("aggregate_train: %d replies can be used", len(updates))
        try:
            stacked = torch.stack(updates) if updates else torch.empty(0, len(sent.vector))
            aggregate = self._combine(list(read), stacked, sent)
        except RuleError as problem:
            _LOG.warning("aggregate_train: round %d leaves the model as it is: %s", server_round, problem)
            return None, None
        metrics = self._metrics(contents)
        return sent.record(sent.vector + aggregate, list(read.values())), metrics

    def _metrics(self, contents: list[RecordDict]) -> MetricRecord | None:
        """Of the replies whose metrics have the same keys as most others', and usable weights."""
        shapes = [_metric_shape(content, self.weighted_by_key) for content in contents]
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return None
        usual = Counter(known).most_common(1)[0][0]
        alike = [content for content, shape in zip(contents, shapes, strict=True) if shape == usual]
        metrics: MetricRecord = self.train_metrics_aggr_fn(alike, self.weighted_by_key)
        return metrics


class Robust(_Strategy):
    """The rule of that name in `asyncfl.rules`, against up to `byzantine` malicious clients among a round's.

    >>> Robust("trimmed_mean", byzantine=2, strategy={"fraction_train": 0.5})
    >>> Robust("bucketing", byzantine=2, then="krum", size=2)

    `options` are the rule's; `strategy` are `FedAvg`'s arguments. Raises `ParameterError` for those a rule does not
    take. FLTrust needs a new reference in every round, and is not for here.
    """

    def __init__(
        self, rule: str, *, byzantine: int = 0, strategy: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(byzantine, **(strategy or {}))
        self.rule = make_rule(rule, **options)

    def summary(self) -> None:
        """Log the settings."""
        _LOG.info("\t├──> %s, %d malicious clients expected", self.rule, self.byzantine)
        super().summary()

    def _combine(self, nodes: list[int], updates: Tensor, model: _Flat) -> Tensor:
        return self.rule(updates, self.byzantine)


class FedAOT(_Strategy):
    """Soft weights that are learned from round to round (arXiv 2603.16846; `asyncfl.rules.FedAOT`).

    `holdout` gives the gradient of a loss on clean examples at a model: a `Holdout`, or any function from a state
    dictionary to named gradients. Without it, weights are learned from agreement among the clients. `rule`: what it
    begins with, for example an earlier run's; the rest are `FedAvg`'s arguments.

    `rule.trust` after each round is what was learned; `weights` says how much each node counted in the last round.
    """

    def __init__(
        self,
        *,
        byzantine: int = 0,
        holdout: Callable[[State], State] | None = None,
        rule: FedAOTRule | None = None,
        **options: Any,
    ) -> None:
        super().__init__(byzantine, **options)
        self.rule = rule or FedAOTRule()
        self._holdout = holdout
        self.weights: dict[int, float] = {}

    def summary(self) -> None:
        """Log the settings."""
        learns = "agreement among clients" if self._holdout is None else "clean examples"
        _LOG.info("\t├──> FedAOT learns from %s, %d malicious clients expected", learns, self.byzantine)
        super().summary()

    def _combine(self, nodes: list[int], updates: Tensor, model: _Flat) -> Tensor:
        weighed = self.rule.step(updates, self.byzantine, _gradient(self._holdout, model))
        self.rule = replace(self.rule, trust=weighed.trust)
        self.weights = dict(zip(nodes, weighed.weights.tolist(), strict=True))
        return weighed.aggregate


def _gradient(holdout: Callable[[State], State] | None, model: _Flat) -> Gradient | None:
    """Of the flat aggregate that is added to `model`."""
    if holdout is None:
        return None
    return lambda aggregate: model.gradient(holdout(model.state(model.vector + aggregate)))


def _arrays(reply: Message, key: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a reply, by name. Raises `ValueError`."""
    if reply.has_error():
        raise ValueError(reply.error.reason)
    records = reply.content.array_records
    if len(records) != 1:
        raise ValueError(f"{len(records)} records of arrays in place of one, {key!r}")
    try:
        return {name: array.numpy() for name, array in next(iter(records.values())).items()}
    except (ValueError, TypeError, EOFError) as problem:  # Bytes that are no array.
        raise ValueError(f"arrays that cannot be read ({problem})") from None


def _metric_shape(content: RecordDict, weighted_by: str) -> tuple[tuple[str, int], ...] | None:
    """Names, and lengths of lists (-1: a number); None for metrics that cannot be averaged."""
    records = list(content.metric_records.values())
    weight = records[0].get(weighted_by) if len(records) == 1 else None
    if not isinstance(weight, int | float) or not isfinite(weight) or weight <= 0:
        return None
    return tuple(
        sorted((name, len(value) if isinstance(value, list) else -1) for name, value in records[0].items())
    )
