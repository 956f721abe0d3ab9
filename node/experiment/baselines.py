"""What asyncfl is compared to, in one process on virtual time: FedBuff, and FedAvg with a barrier.

Same data, initial model, local training and speeds; no clipping, no masks, and a server that never fails and
takes no time. Both are thus favoured over asyncfl.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from torch import Tensor

from asyncfl.client.work import normalised
from asyncfl.model import flat_from_bytes, model_bytes
from node.experiment.configuration import Experiment
from node.experiment.pace import PacedTrainer
from node.experiment.scene import Scene

ROUND_TRIP: Final = 0.055
"""Seconds between an upload's end and the next training's start: twice the simulated network's mean delay."""


@dataclass(frozen=True)
class Presence:
    """When each client joins and leaves, virtual seconds."""

    joins: list[float]
    leaves: list[float]

    @classmethod
    def of(cls, experiment: Experiment) -> Presence:
        joins, leaves = [0.0] * experiment.clients, [float("inf")] * experiment.clients
        for join in experiment.late_join:
            for client in join.clients:
                joins[client] = join.at
        for drop in experiment.drop_out:
            for client in drop.clients:
                leaves[client] = drop.at
        return cls(joins, leaves)


class _Server:
    """The model, and what is known of it."""

    def __init__(self, scene: Scene) -> None:
        self.target, self.evaluate_every = scene.experiment.target_accuracy, scene.experiment.evaluate_every
        self.evaluate_uploads = scene.experiment.evaluate_uploads
        self.judge, self.outcome = scene.judge, scene.outcome
        self.dimension = scene.workbench.layout.dimension
        self.model = scene.workbench.initial
        self.uploads = 0
        self.version = 0
        self._judge_at = 0.0
        self._judge_uploads = 0
        self._applied_at = 0.0

    def apply(self, step: Tensor, members: list[tuple[int, int]], at: float) -> None:
        """Add `step` to the model, made of uploads (client, uploads in the model it was trained from).

        `at`: virtual seconds.
        """
        self._applied_at = at
        self.model = model_bytes(flat_from_bytes(self.model, self.dimension) + step)
        self.uploads += len(members)
        self.version += 1
        self.outcome.include([client for client, _ in members])
        self.outcome.staleness.extend(self.uploads - base - 1 for _, base in members)

    def judge_until(self, now: float) -> bool:
        """Judge at the times (or uploads) up to `now` that are due; True when the target is reached."""
        if self.evaluate_uploads is not None:
            if self.uploads < self._judge_uploads:
                return False
            self._judge_uploads = (self.uploads // self.evaluate_uploads + 1) * self.evaluate_uploads
            return self._judge(self._applied_at)
        while self._judge_at <= now:
            if self._judge(self._judge_at):
                return True
            self._judge_at += self.evaluate_every
        return False

    def _judge(self, seconds: float) -> bool:
        point = self.judge.point(seconds, self.uploads, self.model)
        self.outcome.points.append(point)
        if self.target is None or point.accuracy < self.target:
            return False
        self.outcome.virtual_seconds = point.seconds
        return True

    def end(self, now: float) -> None:
        if not self.judge_until(now):
            self.outcome.points.append(self.judge.point(now, self.uploads, self.model))
            self.outcome.virtual_seconds = now


def _train(scene: Scene, trainer: PacedTrainer, model: bytes, number: int) -> Tensor:
    """A client's update, normalised as those of asyncfl are."""
    result = trainer.train(model, scene.schedule.settings_at(number), number)
    return normalised(result, scene.workbench.layout.weights)


def run_fedavg(scene: Scene) -> None:
    """Rounds of all clients present at their start; a round lasts as long as its slowest training.

    A client that leaves during a round is noticed at once, and its upload lost: a real barrier would have to
    wait for a timeout.
    """
    experiment, speed, outcome = scene.experiment, scene.pace.seconds, scene.outcome
    trainers = scene.trainers()
    server, presence, limit = _Server(scene), Presence.of(experiment), experiment.seconds
    now, number = 0.0, 0
    while experiment.epochs is None or number < experiment.epochs:
        number += 1
        present = [c for c in range(experiment.clients) if presence.joins[c] <= now < presence.leaves[c]]
        ends = {client: now + speed(client, number) + ROUND_TRIP for client in present}
        stay = [client for client in present if ends[client] <= presence.leaves[client]]
        end = max((ends[client] for client in stay), default=now + experiment.evaluate_every)
        if (limit is not None and end > limit) or not present:
            now = limit if limit is not None else now
            break
        if server.judge_until(end):
            return
        results = [_train(scene, trainers[client], server.model, number) for client in stay]
        outcome.sent += len(stay)
        outcome.upload_bytes.extend(4 * update.numel() for update in results)
        if results:
            server.apply(torch.stack(results).mean(0), [(client, server.uploads) for client in stay], end)
        now = end
    server.end(now)


def run_fedbuff(scene: Scene) -> None:
    """Buffered asynchrony: every client trains without a pause; `buffer` uploads make a step of the model.

    Weights fall with staleness s (in steps) as 1/sqrt(1+s). Source: Nguyen et al. 2022 (arXiv 2106.06639).
    """
    experiment, speed, outcome = scene.experiment, scene.pace.seconds, scene.outcome
    trainers = scene.trainers()
    server, presence, limit = _Server(scene), Presence.of(experiment), experiment.seconds
    size = scene.run.buffer or experiment.parameters().min_group
    total = None if experiment.epochs is None else experiment.epochs * experiment.clients
    queue: list[tuple[float, int, int]] = []
    bases: dict[int, tuple[bytes, int, int]] = {}
    """What each client trains from: model, uploads in it, its version. Task 0 in the queue is joining."""
    buffer: list[tuple[Tensor, int, int]] = []

    for client in range(experiment.clients):
        heapq.heappush(queue, (presence.joins[client], client, 0))
    now = 0.0
    while queue and (total is None or outcome.sent < total):
        if limit is not None and queue[0][0] > limit:
            break
        now, client, task = heapq.heappop(queue)
        if server.judge_until(now):
            return
        if task:
            model, base, version = bases[client]
            update = _train(scene, trainers[client], model, task)
            outcome.sent += 1
            outcome.upload_bytes.append(4 * update.numel())
            buffer.append((update / sqrt(1 + server.version - version), client, base))
        if len(buffer) == size:
            step = torch.stack([update for update, _, _ in buffer]).mean(0)
            server.apply(step, [(client, base) for _, client, base in buffer], now)
            buffer.clear()
        end = now + speed(client, task + 1) + ROUND_TRIP
        bases[client] = (server.model, server.uploads, server.version)
        if end <= presence.leaves[client]:
            heapq.heappush(queue, (end, client, task + 1))
    server.end(now if limit is None else limit)
