"""Weighted averages end to end: real masks, unequal clients, and the FedAvg that they should make."""

import numpy as np
import pytest
import torch

from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.parameters import Parameters
from asyncfl.simulation import Simulation

CLIENTS, DIMENSION, EPOCHS = 16, 6, 6
EXAMPLES = [1 + 4 * number**2 for number in range(CLIENTS)]
TARGETS = torch.linspace(-1, 1, CLIENTS).outer(torch.linspace(0.2, 1, DIMENSION))


class Pulling:
    """Goes half of the way from the model received to this client's own target."""

    def __init__(self, number: int) -> None:
        self.number = number

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        held = torch.frombuffer(bytearray(model), dtype=torch.float32)
        return TrainingResult((TARGETS[self.number] - held) / 2, EXAMPLES[self.number], 0.0, 0.0)


def train(weighting: str, seed: int = 0) -> np.ndarray:
    """The model that every replica ends with."""
    parameters = Parameters.for_clients(
        CLIENTS, preset="tiny", weighting=weighting, examples_cap=max(EXAMPLES), clip=4.0
    )
    simulation = Simulation(
        parameters, CLIENTS, seed=seed, initial=bytes(4 * DIMENSION), trainer=Pulling, last_epoch=EPOCHS
    )
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=600)
    latest = [replica.models.latest for replica in simulation.running_replicas()]
    assert None not in latest
    (name,) = {record.model for record in latest if record is not None}
    return np.frombuffer(simulation.network.nodes[simulation.replica_key(1)].blobs.read(name), dtype="<f4")


def fedavg(weights: np.ndarray) -> np.ndarray:
    """Synchronous FedAvg of as many rounds."""
    model = np.zeros(DIMENSION)
    for _ in range(EPOCHS):
        model += weights @ (TARGETS.numpy() - model) / 2 / weights.sum()
    return model


@pytest.fixture(scope="module")
def weighted() -> np.ndarray:
    return train("examples")


def test_unequal_clients_give_the_fedavg_weighted_by_examples(weighted: np.ndarray) -> None:
    goal = fedavg(np.array(EXAMPLES, float))
    assert np.abs(goal).max() > 0.4
    assert np.abs(weighted - goal).max() < 0.03


def test_uniform_averaging_gives_another_model(weighted: np.ndarray) -> None:
    uniform = train("uniform")
    assert np.abs(uniform - fedavg(np.ones(CLIENTS))).max() < 0.03
    assert np.abs(uniform - weighted).max() > 0.3
