"""The examples of the how-to pages make deployments and learn, with the settings that their pages give."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncfl.messages import Settings
from asyncfl.model import model_bytes
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.training.baseline import fedavg_baseline
from node.training.loader import load_task
from node.training.workbench import Workbench

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOW_TO))


def learn(made: DeploymentDirectory, rounds: int) -> dict[str, Any]:
    """FedAvg with the deployment's task, clients and settings; its clip must not cut the updates."""
    task, clients = made.deployment.task, len(made.deployment.first_clients)
    built = load_task(task.factory, clients=clients, seed=task.seed, options=task.options)
    federation = made.deployment.federation()
    outcome = fedavg_baseline(built, clients, rounds, federation.schedule, task.seed, evaluate_every=rounds)
    largest = max(norm["max"] for norm in outcome["norm_by_round"])
    assert largest <= federation.parameters.clip, "the clip would cut this example's updates"
    return outcome


def test_the_page_on_numpy_clients_shows_the_tested_file() -> None:
    example = (HOW_TO / "numpy_client.py").read_text()
    assert f"```python\n{example}```" in (HOW_TO / "numpy-client.md").read_text()


def test_the_page_on_own_models_shows_the_tested_file() -> None:
    example = (HOW_TO / "own_model_budget.py").read_text()
    assert f"```python\n{example}```" in (HOW_TO / "own-model.md").read_text()


def test_a_task_with_budgets_learns_and_says_how_far_it_came(tmp_path: Path) -> None:
    training = {"learning_rate": 0.1, "batch_size": 8, "proximal": 0.1, "decay": "cosine", "decay_epochs": 40}
    wanted = NewDeployment(clients=8, task="own_model_budget:Budgeted", training=training)
    made = create_deployment(tmp_path / "own", wanted)
    assert learn(made, 4)["accuracy"] >= 0.9
    bench = Workbench(load_task("own_model_budget:Budgeted", clients=8), seed=0, device="cpu")
    settings = made.deployment.training.settings_at(1)
    whole = bench.train(bench.initial, settings, client=0, epoch=1)
    part = bench.train(bench.initial, settings.model_copy(update={"most_steps": 3}), client=0, epoch=1)
    timed = bench.train(bench.initial, settings.model_copy(update={"seconds": 1e-9}), client=0, epoch=1)
    assert (whole.steps, part.steps, timed.steps) == (8, 3, 1)
    assert whole.planned == part.planned == timed.planned == 8
    near = bench.train(bench.initial, settings.model_copy(update={"proximal": 3.0}), client=0, epoch=1)
    assert near.update.norm() < whole.update.norm()


def test_numpy_clients_learn(tmp_path: Path) -> None:
    wanted = NewDeployment(
        clients=8, task="numpy_client:wine", training={"learning_rate": 0.1, "batch_size": 8}
    )
    made = create_deployment(tmp_path / "wine", wanted)
    assert made.deployment.federation().dimension == 13 * 3 + 3
    assert learn(made, 3)["accuracy"] >= 0.9


def test_the_text_model_learns_what_words_alone_do_not_tell(tmp_path: Path) -> None:
    training = {"learning_rate": 0.2, "batch_size": 8}
    made = create_deployment(
        tmp_path / "text",
        NewDeployment(
            clients=4, task="text_model:reviews", training=training, parameters={"clip": 2.0}, seed=1
        ),
    )
    words, width = 41, 32
    gates = 3 * (width * width + width)
    assert made.deployment.federation().dimension == words * width + 2 * gates + 2 * width + 2 * width + 2
    assert made.deployment.model.buffers == 0, "an integer buffer does not travel"
    assert learn(made, 8)["accuracy"] >= 0.9


def test_of_a_frozen_base_with_adapters_only_the_adapters_travel(tmp_path: Path) -> None:
    module = importlib.import_module("adapter_model")
    base_file = tmp_path / "base.pt"
    module.publish(base_file)
    made = create_deployment(
        tmp_path / "adapters",
        NewDeployment(
            clients=8,
            task="adapter_model:adapted_digits",
            task_options={"base_file": str(base_file), "rank": 4},
            training={"learning_rate": 0.1, "batch_size": 4},
            parameters={"clip": 2.0},
        ),
    )
    adapters, head = 4 * (64 + 128) + 4 * (128 + 128), 128 * 10 + 10
    assert made.deployment.federation().dimension == adapters + head
    assert learn(made, 10)["accuracy"] >= 0.7


def test_training_adapters_leaves_the_base_as_it_was_published(tmp_path: Path) -> None:
    module = importlib.import_module("adapter_model")
    base_file = tmp_path / "base.pt"
    torch.save(module.base().state_dict(), base_file)
    task = load_task("adapter_model:adapted_digits", clients=8, options={"base_file": str(base_file)})
    bench = Workbench(task, seed=0, device="cpu")
    settings = Settings(learning_rate=0.1, local_steps=5, batch_size=8)
    update = bench.train(bench.initial, settings, client=0, epoch=0).update
    flat = torch.frombuffer(bytearray(bench.initial), dtype=torch.float32) + update
    trained, published = bench.state(model_bytes(flat)), torch.load(base_file, weights_only=True)
    for layer, name in (("0.0", "0"), ("0.2", "2")):
        for kind in ("weight", "bias"):
            assert torch.equal(trained[f"{layer}.linear.{kind}"], published[f"{name}.{kind}"])
        assert trained[f"{layer}.up"].abs().max() > 0


def test_the_page_on_flower_has_loops_that_run() -> None:
    programs = re.findall(r"```python\n(.*?)```", (HOW_TO / "flower.md").read_text(), re.DOTALL)
    loop, learning = [run_program(program) for program in programs]
    assert loop["step"].shape == (1000,)
    assert learning["rule"].trust.epoch == 5
    assert float(learning["weighed"].weights.sum()) <= 1.0


def run_program(text: str) -> dict[str, Any]:
    """Its names."""
    names: dict[str, Any] = {}
    exec(text, names)
    return names
