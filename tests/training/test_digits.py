"""The embedded default trains well by plain FedAvg, and its updates fit its clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from asyncfl.errors import ConfigurationError
from asyncfl.schedule import Schedule
from node.training.baseline import fedavg_baseline
from node.training.defaults import DIGITS, IMAGES, OTHER, task_defaults
from node.training.digits import _Digits
from node.training.loader import load_task


@pytest.fixture(scope="module")
def baseline() -> dict[str, Any]:
    return fedavg_baseline(load_task("digits", clients=16), 16, 20, DIGITS.schedule, 0, evaluate_every=5)


def test_twenty_rounds_of_sixteen_clients_reach_95_percent(baseline: dict[str, Any]) -> None:
    assert baseline["accuracy"] > 0.95
    assert list(baseline["accuracy_by_round"]) == [5, 10, 15, 20]
    assert baseline["updates"] == 320


def test_no_update_exceeds_the_default_clip(baseline: dict[str, Any]) -> None:
    largest = max(norms["max"] for norms in baseline["norm_by_round"])
    # Nor is the clip much too large: noise grows with it.
    assert 0.6 * DIGITS.clip < largest <= DIGITS.clip


def test_a_baseline_is_a_function_of_the_seed() -> None:
    def run(seed: int) -> str:
        digest = fedavg_baseline(load_task("digits", clients=4, seed=seed), 4, 2, DIGITS.schedule, seed)
        return str(digest["model_digest"])

    assert run(0) == run(0) != run(1)


def test_a_baseline_averages_the_updates_of_a_round() -> None:
    """With one step on all of a client's data, FedAvg of equal clients is one step on the whole data."""
    schedule = Schedule(learning_rate=0.1, local_steps=1, batch_size=2000)
    spread = fedavg_baseline(load_task("digits", clients=3), 3, 3, schedule, 0)
    pooled = fedavg_baseline(load_task("digits", clients=1), 1, 3, schedule, 0)
    assert spread["loss_by_round"] == pytest.approx(pooled["loss_by_round"], rel=1e-4)


def test_a_baseline_reports_progress_each_round() -> None:
    seen: list[tuple[int, float | None]] = []
    result = fedavg_baseline(
        load_task("digits", clients=2), 2, 3, DIGITS.schedule, 0,
        evaluate_every=2, on_round=lambda number, accuracy: seen.append((number, accuracy)),
    )  # fmt: skip
    assert seen == [(1, None), (2, result["accuracy_by_round"][2]), (3, result["accuracy"])]


def test_a_baseline_without_rounds_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one client, one round"):
        fedavg_baseline(load_task("digits", clients=2), 2, 0, DIGITS.schedule, 0)


def test_the_held_out_images_are_no_clients_and_the_same_for_every_seed() -> None:
    one, other = _Digits(16, 0, "iid", 0.5), _Digits(5, 9, "dirichlet", 0.5)
    assert torch.equal(one.test()[0], other.test()[0])
    for data, clients in ((one, 16), (other, 5)):
        used = torch.cat([data._clients[index] for index in range(clients)])
        everything = torch.cat([used, data._test])
        assert sorted(everything.tolist()) == list(range(1797))


def test_the_held_out_images_show_every_class_equally() -> None:
    assert torch.bincount(_Digits(4, 0, "iid", 0.5).test()[1]).tolist() == [36] * 10


def test_a_client_beyond_the_split_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigurationError, match="client 4 has no data: the task was split over 4 clients"):
        _Digits(4, 0, "iid", 0.5).client(4)


def test_every_task_name_has_defaults() -> None:
    assert task_defaults("digits") is DIGITS
    assert task_defaults("npz:archive.npz") is IMAGES
    assert task_defaults("package.module:factory") is OTHER


def test_early_rounds_improve_most(baseline: dict[str, Any]) -> None:
    norms = [norms["mean"] for norms in baseline["norm_by_round"]]
    assert all(later < earlier for earlier, later in pairwise(norms[:4]))


def test_more_images_can_be_held_out_and_the_clients_share_the_others() -> None:
    examples = _Digits(5, 0, "iid", 0.5, 90)
    assert len(examples.test()[1]) == 900
    assert torch.bincount(examples.test()[1]).tolist() == [90] * 10
    assert sum(len(examples.client(index)[1]) for index in range(5)) == 1797 - 900
    with pytest.raises(ConfigurationError, match="held_out 161"):
        load_task("digits", clients=5, options={"held_out": 161})
