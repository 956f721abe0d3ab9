"""Strategies in real Flower runs. Skipped where Flower is not installed (`pip install 'asyncfl[flower]'`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asyncfl.errors import LocalProtocolError, ParameterError

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'asyncfl[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from asyncfl.integrations.flower import FedAOT, Holdout, Robust
from tests.integrations.in_process import simulate

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
EVERYBODY = {"fraction_evaluate": 0.0, "min_train_nodes": 6, "min_available_nodes": 6}


def test_the_how_to_program_learns_what_flipped_labels_keep_fedavg_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(HOW_TO))
    app = importlib.import_module("flower_app")
    for name in ("fedavg", "fedaot"):
        simulate(monkeypatch, app.make_server(strategy=name), app.client_app, app.CLIENTS)
    assert app.reached["fedaot"] > 0.87
    assert app.reached["fedaot"] > app.reached["fedavg"] + 0.02


def model() -> nn.Module:
    """With a counter among its buffers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def clients() -> ClientApp:
    """All add one to every parameter; but three of six are broken, each in a way of its own."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        number = int(context.node_config["partition-id"])
        state = message.content["arrays"].to_torch_state_dict()
        moved = {name: value + 1 for name, value in state.items()}
        metrics: dict[str, Any] = {"num-examples": 10, "loss": 1.0}
        match number:
            case 0:
                moved["0.weight"] = torch.ones(7)
            case 1:
                moved["0.bias"] = torch.full((3,), torch.nan)
            case 2:
                raise RuntimeError("out of order")
            case 3:
                metrics = {"num-examples": -10, "other": [1.0, 2.0]}
        content = RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=message)

    return app


def outcome(monkeypatch: pytest.MonkeyPatch, strategy: Any, rounds: int = 2) -> Any:
    """Flower's result of a run among `clients`."""
    app, results = ServerApp(), []

    @app.main()
    def main(grid: Any, context: Any) -> None:
        initial = ArrayRecord(model().state_dict())
        results.append(strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, timeout=300))

    simulate(monkeypatch, app, clients(), 6)
    return results[0]


def test_broken_clients_are_left_out_and_end_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = FedAOT(byzantine=1, **EVERYBODY)
    result = outcome(monkeypatch, strategy)
    state, initial = result.arrays.to_torch_state_dict(), model().state_dict()
    for name, before in initial.items():
        assert torch.allclose(state[name], before + 2, atol=1e-3), name
        assert state[name].dtype == before.dtype
    assert state["1.num_batches_tracked"] == 2
    assert len(strategy.weights) == 3
    assert sum(strategy.weights.values()) == pytest.approx(1.0)
    assert strategy.rule.trust.epoch == 2
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx(1.0)


def test_with_too_few_usable_replies_the_model_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    result = outcome(monkeypatch, Robust("krum", byzantine=1, strategy=EVERYBODY), rounds=1)
    assert not result.arrays
    assert "Krum stands 1 bad inputs among 5 or more" in caplog.text


def test_a_rule_is_refused_that_does_not_exist_or_take_the_options() -> None:
    with pytest.raises(ParameterError, match="no rule is called 'kruum'"):
        Robust("kruum")
    with pytest.raises(ParameterError, match="rule krum"):
        Robust("krum", size=2)
    with pytest.raises(LocalProtocolError, match="before configure_train"):
        Robust("mean").aggregate_train(1, [])


def test_the_holdout_gradient_is_that_of_the_loss() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    inputs, labels = torch.randn(20, 4), torch.randint(3, (20,))
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    found = Holdout(net, inputs, labels)(other.state_dict())
    nn.functional.cross_entropy(other.eval()(inputs), labels).backward()
    for name, parameter in other.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad)


class _Grid:
    def get_node_ids(self) -> list[int]:
        return [1, 2, 3]


class _Reply:
    """What strategies read of a message."""

    def __init__(self, node: int, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        self.metadata = type("Metadata", (), {"src_node_id": node})
        record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
        self.content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})})

    def has_error(self) -> bool:
        return False


def test_the_aggregate_is_the_rules_of_differences_from_what_was_sent() -> None:
    sent = {"b": np.arange(3, dtype=np.float64), "a": np.ones((2, 2), np.float32)}
    replies: list[Any] = [
        _Reply(node, {name: value + by for name, value in sent.items()})
        for node, by in enumerate([1.0, 2.0, 90.0])
    ]
    strategy = Robust(
        "median", byzantine=1, strategy=EVERYBODY | {"min_train_nodes": 3, "min_available_nodes": 3}
    )
    record = ArrayRecord({name: Array(value) for name, value in sent.items()})
    strategy.configure_train(1, record, ConfigRecord(), _Grid())
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    for name, value in sent.items():
        assert np.allclose(arrays[name].numpy(), value + 2.0)
        assert arrays[name].numpy().dtype == value.dtype
