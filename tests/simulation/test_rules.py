"""Rules and reputation in whole deployments: masked uploads, opened groups, several replicas, malicious clients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.parameters import Parameters
from asyncfl.replay import replay
from asyncfl.simulation import Simulation

DIMENSION, CLIENTS, EPOCHS = 64, 12, 7
BAD = 3
TARGET = np.linspace(-1.0, 1.0, DIMENSION)


@dataclass(frozen=True)
class Seeker:
    """Goes half of the way to `TARGET`, with an error of its own; a malicious one goes far away from it."""

    number: int

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        way = TARGET - np.frombuffer(model, dtype="<f4")
        error = np.random.default_rng([self.number, epoch]).normal(size=DIMENSION) / 40.0
        update = -8.0 * TARGET if self.number == BAD else 0.5 * way + error
        return TrainingResult(torch.tensor(update, dtype=torch.float32), 1, 0.0, 0.0)


KNOWN = {"rule": "median", "bad_groups": 0.2, "reputation": True, "concurrency": 3}


CHOICES = {"mean": {}, "known": KNOWN, "multi_krum": {"rule": "multi_krum", "bad_groups": 0.2}}


@cache
def train(choice: str) -> Simulation:
    small = {"cell_size": 2, "min_group": 2, "clip": 6.0, "preset": "tiny"}
    parameters = Parameters.for_clients(CLIENTS, **small, **CHOICES[choice])
    simulation = Simulation(
        parameters, CLIENTS, initial=bytes(4 * DIMENSION), trainer=Seeker, last_epoch=EPOCHS
    )
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=600), "no end"
    return simulation


def distance(simulation: Simulation) -> float:
    """Of the certified model, which all replicas must have, from the target; before training it is 4.7."""
    models = set()
    for replica in simulation.running_replicas():
        latest = replica.models.latest
        assert latest is not None
        assert latest.version == replica.context.ledger.version
        models.add(latest.model)
    (model,) = models
    blobs = simulation.network.nodes[simulation.replica_key(0)].blobs
    return float(np.linalg.norm(np.frombuffer(blobs.read(model), dtype="<f4") - TARGET))


def test_a_poisoner_of_twelve_spoils_the_mean_and_no_robust_rule_and_replicas_agree() -> None:
    assert distance(train("mean")) > 0.8
    assert distance(train("known")) < 0.5
    assert distance(train("multi_krum")) < 0.5


def test_reputation_finds_the_poisoner_and_is_the_same_everywhere() -> None:
    simulation = train("known")
    known = [replica.models.latest.reputation for replica in simulation.running_replicas()]
    assert all(each == known[0] for each in known)
    suspicions = [known[0].suspicion(simulation.client_key(number))[0] for number in range(CLIENTS)]
    assert suspicions.index(max(suspicions)) == BAD
    weights = [simulation.replica(0).models.weight(simulation.client_key(n)) for n in range(CLIENTS)]
    assert weights.index(min(weights)) == BAD
    assert weights[BAD] < 0.5


@pytest.mark.parametrize("choice", CHOICES)
def test_the_certified_model_is_what_an_audit_of_items_and_sums_recomputes(choice: str) -> None:
    simulation = train(choice)
    replica = simulation.replica(1)
    blobs = simulation.network.nodes[simulation.replica_key(1)].blobs
    *_, (_, state) = replay(replica.context.ledger.counted_head, simulation.federation, blobs)
    model = (state.total.double() / 2**32).float().numpy().astype("<f4").tobytes()
    assert model == blobs.read(replica.models.latest.model)
    assert state.reputation == replica.models.latest.reputation
    assert (state.judgement is None) == (choice == "mean")
