"""A whole federated training on virtual time, with the real state machines and the real masking.

What is trained comes in as one `Trainer` for each client, so that any task can be held against plain FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asyncfl.client import Client
from asyncfl.client.context import State
from asyncfl.client.jobs import Trainer
from asyncfl.errors import DeadlineExceeded
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.parameters import Parameters
from asyncfl.schedule import Schedule
from asyncfl.simulation.deployment import Simulation

SLOWEST_SECONDS = 2.0
SPEED_SPREAD = 4.0
JITTER = 0.2
SECONDS_PER_EPOCH = 60.0
"""Virtual time after which a run that is not over is given up: an epoch takes two or three seconds."""
QUIET_SECONDS = 15.0
"""A run is over when all clients are done and no replica's ledger has grown for so long: an upload of the
last epochs that missed its group finds no later one to ride on."""


@dataclass(frozen=True)
class Recorder:
    """Passes a training on and keeps its update, float32 [d] by (client, epoch), which no replica sees."""

    trainer: Trainer
    client: int
    updates: dict[tuple[int, int], Tensor]

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        result = self.trainer.train(model, settings, epoch)
        self.updates[self.client, epoch] = result.update.detach().cpu()
        return result


@dataclass(frozen=True)
class Federated:
    """A training that has drained. `simulation` is as it was left: every replica holds the same model."""

    simulation: Simulation
    model: bytes
    """Canonical bytes of the certified model of the whole ledger."""
    updates: Mapping[tuple[int, int], Tensor]
    """What each client trained, before clipping and masking, by (client number, epoch)."""
    included: int
    entries: int
    virtual_seconds: float


def federate(
    parameters: Parameters,
    trainers: Mapping[int, Trainer],
    *,
    initial: bytes,
    weights: int,
    schedule: Schedule,
    epochs: int,
    seed: int,
) -> Federated:
    """Train for `epochs` epochs of all clients, numbered from 0, and let the run drain.

    A local training takes up to `SLOWEST_SECONDS` of virtual time; the fastest client is `SPEED_SPREAD` times
    as fast as the slowest. Raises `DeadlineExceeded` when the run does not end.
    """
    updates: dict[tuple[int, int], Tensor] = {}
    clients = len(trainers)
    paces = np.random.default_rng(seed).permutation(np.geomspace(1 / SPEED_SPREAD, 1.0, clients))

    def speed(client: int, epoch: int) -> float:
        jitter = np.random.default_rng((seed, client, epoch)).uniform(1 - JITTER, 1 + JITTER)
        return float(SLOWEST_SECONDS * paces[client] * jitter)

    simulation = Simulation(
        parameters,
        clients,
        seed=seed,
        initial=initial,
        schedule=schedule,
        trainer=lambda client: Recorder(trainers[client], client, updates),
        speed=speed,
        last_epoch=epochs,
        weights=weights,
    )
    simulation.start()
    _drain(simulation, SECONDS_PER_EPOCH * (epochs + 1))
    replica = simulation.replica(0)
    latest = replica.models.latest
    assert latest is not None
    blobs = simulation.network.nodes[simulation.replica_key(0)].blobs
    return Federated(
        simulation,
        blobs.read(latest.model),
        updates,
        included=len(replica.context.ledger.included),
        entries=replica.context.ledger.entries,
        virtual_seconds=simulation.network.now,
    )


def _drain(simulation: Simulation, limit: float) -> None:
    """Run until all clients are done and the replicas agree, for good. Raises `DeadlineExceeded`."""
    network = simulation.network
    versions: set[bytes] = set()
    while True:
        if not network.run(until=lambda: _is_agreed(simulation), seconds=limit - network.now):
            waiting = {client.status(network.now)["waiting_for"] for client in _unfinished(simulation)}
            raise DeadlineExceeded(f"the run did not end within {limit:g} s of virtual time: {waiting}")
        before, versions = (
            versions,
            {replica.context.ledger.version for replica in simulation.running_replicas()},
        )
        if versions == before:
            return
        network.run(seconds=QUIET_SECONDS)


def _unfinished(simulation: Simulation) -> list[Client]:
    clients = map(simulation.client, range(simulation.clients))
    return [client for client in clients if client.state is not State.RESTING]


def _is_agreed(simulation: Simulation) -> bool:
    """No client trains, and every replica holds the same certified model with no group left to open."""
    if _unfinished(simulation):
        return False
    replicas = simulation.running_replicas()
    version = replicas[0].context.ledger.version
    return all(
        replica.context.ledger.version == version
        and replica.models.latest is not None
        and replica.models.latest.version == version
        and not replica.opening.groups
        and not replica.coordination.own
        for replica in replicas
    )


def clip_update(update: Tensor, simulation: Simulation) -> Tensor:
    """The update as masking clips it, each segment to its own norm, float64 [d]; nothing is quantised."""
    clipped = update.to(torch.float64)
    for segment in simulation.federation.model_segments:
        part = clipped[segment.start : segment.stop]
        norm = float(torch.linalg.vector_norm(part))
        if norm > segment.clip:
            part *= segment.clip / norm
    return clipped
