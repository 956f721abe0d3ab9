"""Federated training on virtual time, with real masks and real data, is as good as plain FedAvg."""

from collections import defaultdict
from collections.abc import Iterator
from statistics import median_high

import numpy as np
import pytest
import torch

from asyncfl.messages import Item
from asyncfl.simulation.parity import Federated, clip_update
from node.training.workbench import Workbench
from scripts.parity import CLIENTS, compare, mean_and_error, train_federated

EPOCHS = 4
SEED = 6
"""One upload of its third epoch is not opened, so that a thin row and full ones weigh differently."""


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[Federated, Workbench]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train_federated(SEED, EPOCHS, preset="tiny")
    torch.set_num_threads(threads)


def rows_of(run: Federated) -> list[list[Item]]:
    """The ledger's entries by epoch."""
    rows: dict[int, list[Item]] = defaultdict(list)
    for item in run.simulation.replica(0).context.ledger.items.values():
        rows[item.id.epoch].append(item)
    return [rows[epoch] for epoch in sorted(rows)]


def fold(run: Federated, sums: list[list[np.ndarray]]) -> np.ndarray:
    """The model, float64 [d], from each entry's sum in model units: an own reading of protocol section 6."""
    model = np.frombuffer(run.simulation.initial, dtype="<f4").astype(np.float64)
    sizes: list[int] = []
    for row, parts in zip(rows_of(run), sums, strict=True):
        present = sum(len(item.members) for item in row)
        expected = median_high(sizes[-5:]) if sizes else CLIENTS
        model += np.sum(parts, axis=0) / max(present, expected)
        sizes.append(present)
    return model


def model_of(run: Federated) -> np.ndarray:
    return np.frombuffer(run.model, dtype="<f4").astype(np.float64)


def test_a_short_training_learns_and_includes_almost_every_upload(
    trained: tuple[Federated, Workbench],
) -> None:
    run, workbench = trained
    assert workbench.evaluate(workbench.initial) < 0.3
    assert workbench.evaluate(run.model) > 0.85
    assert run.included >= 0.9 * CLIENTS * EPOCHS
    assert len(run.updates) == CLIENTS * EPOCHS


def test_every_replica_ends_with_the_same_model(trained: tuple[Federated, Workbench]) -> None:
    run, _ = trained
    latest = [replica.models.latest for replica in run.simulation.running_replicas()]
    assert None not in latest
    assert len({record.model for record in latest if record is not None}) == 1


def test_the_model_is_the_fold_of_the_opened_sums_in_the_ledger(trained: tuple[Federated, Workbench]) -> None:
    run, _ = trained
    federation = run.simulation.federation
    blobs = run.simulation.network.nodes[run.simulation.replica_key(2)].blobs
    (segment,) = federation.segments
    sums = [
        [
            np.frombuffer(blobs.read(item.opened), dtype="<i4").astype(np.float64)
            * (segment.clip / segment.bound)
            for item in row
        ]
        for row in rows_of(run)
    ]
    assert {sum(len(item.members) for item in row) for row in rows_of(run)} != {CLIENTS}
    difference = np.abs(model_of(run) - fold(run, sums)).max()
    assert difference <= 1e-6


def test_the_model_is_the_fold_of_what_the_clients_trained_up_to_their_noise(
    trained: tuple[Federated, Workbench],
) -> None:
    run, _ = trained
    federation = run.simulation.federation
    number = {identity.public: index for index, identity in enumerate(run.simulation.client_ids)}
    sums = [
        [
            sum(
                clip_update(run.updates[number[member.client], member.epoch], run.simulation).numpy()
                for member in item.members
            )
            for item in row
        ]
        for row in rows_of(run)
    ]
    error = model_of(run) - fold(run, sums)
    (segment,) = federation.segments
    # The noise of a coordinate, and a quantisation error uniform in one unit.
    unit = segment.clip / segment.bound
    sigma = unit * np.sqrt(federation.parameters.payload_sigma**2 + 1 / 12)
    expected = sigma * np.sqrt(sum(run.included / EPOCHS / CLIENTS**2 for _ in range(EPOCHS)))
    assert np.abs(error).max() < 7 * expected
    # Much less would mean that no noise was added.
    assert 0.8 * expected < error.std() < 1.3 * expected


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forty_epochs_of_five_seeds_are_within_half_a_point_of_fedavg() -> None:
    torch.set_num_threads(1)
    pairs = [compare(seed, 40) for seed in range(5)]
    mean, error = mean_and_error(pair.difference for pair in pairs)
    assert mean >= -0.5, f"mean difference {mean:+.2f} +- {error:.2f} points: {pairs}"
    assert min(pair.updates for pair in pairs) >= 0.98 * 40 * CLIENTS
