"""FedProx, budgets and normalisation in local training: what each does to an update, and to where training ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from asyncfl.client.work import normalised
from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult, flat_from_bytes, model_bytes
from node.training.numpy_client import NumPyTask
from node.training.supervised import SupervisedTask, batches, planned_steps
from node.training.task import LocalTraining
from node.training.workbench import Workbench
from tests.training.test_numpy_client import Adding
from tests.training.test_workbench import Points

SETTINGS = Settings(learning_rate=0.1, local_steps=20, batch_size=4)


def changed(**values: Any) -> Settings:
    return SETTINGS.model_copy(update=values)


def bench(clock: Callable[[], float] | None = None) -> Workbench:
    task = SupervisedTask(lambda: nn.Linear(3, 2), Points())
    if clock is not None:
        task.clock = clock
    return Workbench(task, seed=0, device="cpu")


class Ticking:
    """A clock on which every look takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def train(settings: Settings, clock: Callable[[], float] | None = None) -> TrainingResult:
    work = bench(clock)
    return work.train(work.initial, settings, 0, 1)


def test_a_budget_of_seconds_ends_training_after_the_batch_in_which_it_is_spent() -> None:
    for budget, steps in ((0.5, 1), (2.0, 1), (2.5, 2), (9.0, 5), (1000.0, 20), (0.0, 20)):
        result = train(changed(seconds=budget), Ticking(2.0))
        assert (result.steps, result.planned) == (steps, 20), budget


def test_a_shortened_training_is_the_beginning_of_the_whole() -> None:
    shortened = train(changed(most_steps=7))
    assert (shortened.steps, shortened.planned) == (7, 20)
    assert torch.equal(shortened.update, train(changed(local_steps=7)).update)
    assert torch.equal(train(changed(seconds=7.0), Ticking(1.0)).update, shortened.update)
    assert shortened.loss == train(changed(local_steps=7)).loss
    assert train(changed(most_steps=99)).steps == 20


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 9, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 10, 17])
def test_planned_steps_are_those_of_a_whole_pass(count: int, size: int) -> None:
    settings = changed(local_steps=0, batch_size=size)
    assert planned_steps(count, settings) == len(list(batches(count, size, 0)))


def test_the_proximal_term_is_mu_times_the_distance_in_every_gradient() -> None:
    """Two steps by hand: FedProx's w <- w - lr (g(w) + mu (w - w_received))."""
    mu, rate = 0.7, SETTINGS.learning_rate
    one = train(changed(local_steps=1)).update
    assert torch.equal(train(changed(local_steps=1, proximal=mu)).update, one), "at the start it is zero"
    two = train(changed(local_steps=2)).update
    found = train(changed(local_steps=2, proximal=mu)).update
    assert torch.allclose(found, two - rate * mu * one, atol=1e-7)
    assert not torch.allclose(found, two, atol=1e-4)


def test_a_larger_mu_keeps_the_model_closer_to_the_one_received() -> None:
    norms = [float(train(changed(local_steps=60, proximal=mu)).update.norm()) for mu in (0.0, 0.3, 1.0, 3.0)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < norms[0] / 3


class Quadratic:
    """Client i minimises |w - centre_i|^2 / 2 by full gradient steps; the sum is least at the centres' mean."""

    def __init__(self, centres: torch.Tensor) -> None:
        self.centres = centres

    def model(self) -> nn.Module:
        return nn.Linear(self.centres.shape[1], 1, bias=False)

    def train(self, module: Any, client_index: int, settings: Settings, epoch: int) -> LocalTraining:
        steps = min(settings.local_steps, settings.most_steps or settings.local_steps)
        for _ in range(steps):
            with torch.no_grad():
                module.weight -= settings.learning_rate * (module.weight - self.centres[client_index])
        return LocalTraining(1, 0.0, steps, settings.local_steps)

    def evaluate(self, module: nn.Module) -> float:
        return 0.0


def converged(normalise: bool, centres: torch.Tensor, budgets: list[int]) -> torch.Tensor:
    """Where rounds of all clients end, each with its own budget of steps."""
    work = Workbench(Quadratic(centres), seed=0, device="cpu")
    trainers = work.trainers(range(len(centres)))
    model = work.initial
    settings = Settings(learning_rate=0.005, local_steps=20, batch_size=1)
    for epoch in range(1, 200):
        updates = []
        for client, trainer in trainers.items():
            most = settings.model_copy(update={"most_steps": budgets[client]})
            result = trainer.train(model, most, epoch)
            updates.append(normalised(result, work.layout.weights) if normalise else result.update)
        model = model_bytes(flat_from_bytes(model) + torch.stack(updates).mean(0))
    return flat_from_bytes(model)


def test_normalised_updates_lead_to_the_optimum_and_others_to_that_of_the_fast_clients() -> None:
    centres = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, 4.0], [4.0, -2.0]])
    budgets = [0, 0, 0, 5]
    optimum = centres.mean(0)
    assert optimum.tolist() == [1.0, 1.0]
    steps = torch.tensor([20.0, 20.0, 20.0, 5.0])
    biased = (steps[:, None] * centres).sum(0) / steps.sum()
    fair, unfair = converged(True, centres, budgets), converged(False, centres, budgets)
    assert (biased - optimum).norm() > 0.9
    assert (fair - optimum).norm() < 0.08, "what is left is of the order of the learning rate"
    assert (unfair - biased).norm() < 0.12
    assert (unfair - optimum).norm() > 10 * (fair - optimum).norm()


class Stopping(Adding):
    metrics: dict[str, Any]

    def fit(self, parameters: Any, config: dict[str, Any]) -> Any:
        arrays, examples, _ = super().fit(parameters, config)
        return arrays, examples, self.metrics


@pytest.mark.parametrize(
    ("metrics", "local_steps", "expected"),
    [
        ({}, 20, (0, 0)),
        ({"steps": 5}, 20, (5, 20)),
        ({"steps": 5}, 0, (5, 5)),
        ({"steps": 5, "planned": 9}, 0, (5, 9)),
    ],
)
def test_a_numpy_client_may_say_how_many_steps_it_did(
    metrics: dict[str, Any], local_steps: int, expected: tuple[int, int]
) -> None:
    made: list[Stopping] = []

    def make(index: int) -> Stopping:
        made.append(Stopping(index))
        made[-1].metrics = metrics
        return made[-1]

    work = Workbench(NumPyTask(make, 1), seed=0, device="cpu")
    wanted = changed(local_steps=local_steps, proximal=0.5, seconds=3.0, most_steps=8)
    result = work.train(work.initial, wanted, 0, 1)
    assert (result.steps, result.planned) == expected
    (config,) = made[0].configs
    assert (config["proximal_mu"], config["seconds"], config["most_steps"]) == (0.5, 3.0, 8)


@pytest.mark.parametrize(("steps", "planned"), [(0, 5), (6, 5), (3, 0), (-1, 5)])
def test_a_task_that_counts_wrongly_is_named(steps: int, planned: int) -> None:
    class Wrong(Quadratic):
        def train(self, *_: Any) -> LocalTraining:
            return LocalTraining(1, 0.0, steps, planned)

    work = Workbench(Wrong(torch.zeros(1, 2)), seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match=f"{steps} of {planned} planned steps"):
        work.train(work.initial, SETTINGS, 0, 1)
