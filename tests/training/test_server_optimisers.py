"""Server optimisers train: with little local work a row, momentum and Adam need fewer rows than sgd."""

import pytest
import torch

from asyncfl.fold import FoldState, apply_total, fold_row
from asyncfl.masking.quantise import quantise
from asyncfl.messages import Settings
from asyncfl.parameters import Parameters
from asyncfl.simulation import Simulation
from node.training.digits import digits
from node.training.workbench import Workbench

CLIENTS = 8
ROWS = 12
SETTINGS = Settings(learning_rate=0.05, local_steps=5, batch_size=16)


@pytest.fixture(scope="module")
def workbench() -> Workbench:
    return Workbench(digits(clients=CLIENTS), seed=0, device="cpu")


def accuracy_after(rows: int, workbench: Workbench, optimizer: str) -> float:
    """Every client uploads once a row; sums are opened as they are, without masks."""
    parameters = Parameters.for_clients(CLIENTS, clip=3.2, server_optimizer=optimizer)
    federation = Simulation(
        parameters, CLIENTS, initial=workbench.initial, weights=workbench.layout.weights
    ).federation
    trainers, model = workbench.trainers(range(CLIENTS)), workbench.initial
    state = FoldState.start(federation)
    for epoch in range(1, rows + 1):
        updates = (trainers[client].train(model, SETTINGS, epoch).update for client in range(CLIENTS))
        images = [quantise(update, federation.segments, federation.dimension) for update in updates]
        opened = torch.stack(images).sum(dim=0).to(torch.int32)
        state = fold_row(state, [(opened, CLIENTS)], epoch, CLIENTS, federation)
        model = apply_total(workbench.initial, state.total)
    return workbench.evaluate(model)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_digits_are_learnt_in_fewer_rows_than_with_sgd(workbench: Workbench, optimizer: str) -> None:
    assert accuracy_after(ROWS, workbench, optimizer) > 0.85
    assert accuracy_after(ROWS, workbench, "sgd") < 0.80
