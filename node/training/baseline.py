"""Plain synchronous FedAvg in one process: what the federated run is measured against.

Same data split, same local training, same number of client updates; every client takes part in every
round, updates are averaged with equal weight. No clipping, no masking, no noise, and no budget for local work: what
every client could do if it had the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from asyncfl.digest import content_digest
from asyncfl.errors import ConfigurationError
from asyncfl.model import flat_from_bytes, model_bytes
from asyncfl.schedule import Schedule
from node.training.task import Task
from node.training.workbench import Workbench


def fedavg_baseline(
    task: Task,
    clients: int,
    rounds: int,
    schedule: Schedule,
    seed: int,
    *,
    evaluate_every: int = 1,
    on_round: Callable[[int, float | None], None] | None = None,
    frozen_buffers: bool = False,
) -> dict[str, Any]:
    """Train for `rounds` rounds of `clients` updates each, from the initial model of `seed`.

    Accuracy is taken every `evaluate_every` rounds and after the last. `on_round(round, accuracy)` reports
    progress. Returns plain values: `accuracy`, `accuracy_by_round` {round: accuracy}, `norm_by_round`
    [{"mean", "max"}] (L2 norm of the clients' updates), `loss_by_round`, `updates`, `training_ms` (mean of
    one local training), `model_digest` (hex), `seconds`.
    """
    if clients < 1 or rounds < 1 or evaluate_every < 1:
        raise ConfigurationError("a baseline needs at least one client, one round and evaluate_every >= 1")
    started = time.perf_counter()
    workbench = Workbench(task, seed=seed, frozen_buffers=frozen_buffers)
    trainers = workbench.trainers(range(clients))
    model = workbench.initial
    accuracies: dict[int, float] = {}
    norms: list[dict[str, float]] = []
    losses: list[float] = []
    training_seconds = 0.0
    for number in range(1, rounds + 1):
        settings = schedule.settings_at(number).model_copy(update={"seconds": 0.0, "most_steps": 0})
        results = [trainers[client].train(model, settings, number - 1) for client in range(clients)]
        updates = torch.stack([result.update for result in results])
        flat = flat_from_bytes(model, workbench.layout.dimension)
        model = model_bytes(flat + updates.mean(0).cpu())
        lengths = updates.norm(dim=1)
        norms.append({"mean": float(lengths.mean()), "max": float(lengths.max())})
        losses.append(sum(result.loss for result in results) / clients)
        training_seconds += sum(result.seconds for result in results)
        if number % evaluate_every == 0 or number == rounds:
            accuracies[number] = workbench.evaluate(model)
        if on_round is not None:
            on_round(number, accuracies.get(number))
    return {
        "accuracy": accuracies[rounds],
        "accuracy_by_round": accuracies,
        "norm_by_round": norms,
        "loss_by_round": losses,
        "updates": clients * rounds,
        "training_ms": 1000 * training_seconds / (clients * rounds),
        "model_digest": content_digest(model).hex(),
        "seconds": time.perf_counter() - started,
    }
