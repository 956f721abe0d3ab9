"""Partitions are disjoint, cover the data, and are the same at every party."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.errors import ConfigurationError
from node.training.partitions import MINIMUM_EXAMPLES, generator, partition

LABELS = np.random.RandomState(0).randint(0, 10, 2000)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 300),
    clients=st.integers(1, 30),
    classes=st.integers(1, 12),
    kind=st.sampled_from(["iid", "dirichlet"]),
    alpha=st.sampled_from([1e-6, 0.01, 0.5, 100.0]),
    seed=st.integers(0, 2**40),
)
def test_parts_are_disjoint_and_cover_every_example(
    *, count: int, clients: int, classes: int, kind: str, alpha: float, seed: int
) -> None:
    labels = np.arange(count) % classes
    if count < MINIMUM_EXAMPLES * clients:
        with pytest.raises(ConfigurationError, match="cannot be split"):
            partition(labels, clients, kind=kind, alpha=alpha, seed=seed)
        return
    parts = partition(labels, clients, kind=kind, alpha=alpha, seed=seed)
    assert len(parts) == clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert min(map(len, parts)) >= MINIMUM_EXAMPLES
    if kind == "iid":
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_a_partition_is_a_function_of_the_seed(kind: str) -> None:
    one, same, other = (partition(LABELS, 16, kind=kind, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_draws_behind_a_partition_never_change() -> None:
    """Parties with other versions of NumPy must cut the same data alike."""
    assert generator("iid", 0).permutation(8).tolist() == [7, 0, 3, 2, 6, 4, 1, 5]


def class_skew(parts: list[np.ndarray]) -> float:
    """Mean total variation distance of the clients' class shares from the overall ones, 0 to 1."""
    overall = np.bincount(LABELS, minlength=10) / len(LABELS)
    shares = [np.bincount(LABELS[part], minlength=10) / len(part) for part in parts]
    return float(np.mean([np.abs(share - overall).sum() / 2 for share in shares]))


def test_iid_parts_have_nearly_the_overall_class_shares() -> None:
    assert class_skew(partition(LABELS, 8)) < 0.12


def test_dirichlet_parts_are_the_more_uneven_the_smaller_alpha() -> None:
    skews = [class_skew(partition(LABELS, 8, kind="dirichlet", alpha=alpha)) for alpha in (1000, 1, 0.05)]
    assert skews[0] < 0.15
    assert 0.25 < skews[1] < 0.6 < skews[2]


def test_an_unknown_partition_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="unknown partition 'sorted': use iid or dirichlet"):
        partition(LABELS, 4, kind="sorted")


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_no_positive_number_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="alpha"):
        partition(LABELS, 4, kind="dirichlet", alpha=alpha)
