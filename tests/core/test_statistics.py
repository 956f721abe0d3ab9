"""What rows say of the clients' own accuracy: decoded with the stated noise, and decided from rows alone."""

from fractions import Fraction
from math import sqrt
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from asyncfl import masking
from asyncfl.client.upload import Measured, compose
from asyncfl.federation import Federation
from asyncfl.rows import row_statistics, sum_row
from asyncfl.statistics import (
    RowStatistics,
    compute_accuracy,
    compute_smoothed,
    explain_finish,
    find_best,
)
from asyncfl.stopping import Stop
from tests.masking.builders import CONTEXT, client_identity, loads, make_federation, share_sums

MEMBERS = 3
NEVER = 1e-6
"""A p-value below this fails: less than once in a million runs by chance."""


def federation_with(multiplier: float, **options: Any) -> Federation:
    values: dict[str, Any] = {
        "min_group": 3,
        "allow_small_private_groups": True,
        "metrics": True,
        "weighting": "examples",
        **options,
    }
    return make_federation(10, 3, noise_multiplier=multiplier, **values)


def opened_sum(federation: Federation, measured: Measured) -> torch.Tensor:
    """What a group of three opens to, by way of the masks; all members alike, 250 examples each."""
    update = torch.full((federation.dimension,), 0.01)
    uploads = [
        masking.protect(
            compose(update, 250, measured, federation), CONTEXT, client_identity(number), federation
        )
        for number in range(MEMBERS)
    ]
    secret = masking.find_secret(loads(uploads), share_sums(federation, uploads), federation)
    return masking.open_sum((upload.payload for upload in uploads), secret, federation)


@pytest.mark.parametrize("multiplier", [0.0, 0.01, 0.5])
def test_extra_coordinates_come_out_with_the_stated_noise(multiplier: float) -> None:
    federation = federation_with(multiplier)
    found = []
    for _ in range(60):
        opened = opened_sum(federation, Measured(30, 40))
        told = row_statistics(5, sum_row([(opened, MEMBERS)], federation), federation)
        found += [(told.correct - 90) / told.noise, (told.count - 120) / told.noise]
        if federation.weight_segment is not None:
            place = federation.weight_segment
            weight = int(opened[place.start]) / place.bound
            found.append((weight - 0.75) * place.bound / (4.5 * sqrt(MEMBERS)))
    # Rounded to integers, the samples are spread over many sigma-sized steps: continuous enough for the test.
    assert (
        kstest(np.array(found) + np.random.default_rng(0).uniform(-0.01, 0.01, len(found)), "norm").pvalue
        > NEVER
    )
    assert 0.6 < np.std(found) < 1.5


def test_with_privacy_on_the_noise_of_the_accuracy_is_that_of_everything() -> None:
    federation = federation_with(0.5)
    parameters, place = federation.parameters, federation.metrics_segment
    assert place is not None
    row = sum_row([(torch.zeros(federation.upload_dimension, dtype=torch.int32), 4)], federation)
    told = row_statistics(1, row, federation)
    per_member = 0.5 * parameters.scale / sqrt(parameters.honest_members)
    assert told.noise == pytest.approx(per_member * 2 * place.clip / place.bound)


@given(st.lists(st.integers(-(2**22), 2**22), min_size=2, max_size=2), st.integers(1, 8))
def test_a_group_shows_no_more_examples_than_its_members_can_have(lie: list[int], members: int) -> None:
    federation = federation_with(0.0, metrics_cap=50)
    opened = torch.tensor([0] * (federation.upload_dimension - 2) + lie, dtype=torch.int32)
    told = row_statistics(1, sum_row([(opened, members)], federation), federation)
    slack = 25 * told.noise
    assert -slack <= told.count <= 50 * members + slack
    assert -slack <= told.correct <= max(told.count, 0) + slack


def rows(*accuracies: float, count: float = 1000.0, noise: float = 1.0) -> list[RowStatistics]:
    return [RowStatistics(epoch, share * count, count, noise) for epoch, share in enumerate(accuracies, 1)]


def test_accuracy_is_pooled_and_unknown_below_the_noise() -> None:
    pair = [RowStatistics(1, 10, 100, 1.0), RowStatistics(2, 290, 300, 1.0)]
    assert compute_accuracy(pair) == pytest.approx(300 / 400)
    assert compute_accuracy([]) is None
    assert compute_accuracy([RowStatistics(1, 3.0, 3.0, 1.0)]) is None
    assert compute_smoothed(pair, 2) == [None, pytest.approx(0.75)]


def test_training_is_over_at_the_accuracy_of_several_rows_together() -> None:
    stop = Stop(rows=3, accuracy=0.9)
    assert explain_finish([], stop) is None
    assert explain_finish(rows(0.99, 0.99), stop) is None
    assert explain_finish(rows(0.5, 0.99, 0.8), stop) is None
    assert "0.9100 over the last 3 rows, at least 0.9" in str(
        explain_finish(rows(0.2, 0.9, 0.92, 0.91), stop)
    )
    # A late entry can undo it: nothing is remembered.
    assert explain_finish(rows(0.2, 0.9, 0.92, 0.87), stop) is None


def test_training_is_over_when_nothing_improves() -> None:
    stop = Stop(rows=2, patience_rows=3)
    assert explain_finish(rows(0.5, 0.6, 0.7, 0.7, 0.6), stop) is None
    reason = explain_finish(rows(0.5, 0.6, 0.7, 0.7, 0.6, 0.6, 0.65), stop)
    assert reason is not None
    assert "has not improved for 3 rows: 0.7000" in reason
    assert "up to epoch 4" in reason
    assert explain_finish(rows(0.5, 0.6, 0.7, 0.7, 0.6, 0.6, 0.85), stop) is None


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e3)), min_size=2, max_size=12), st.randoms())
def test_an_accuracy_is_the_exact_one_rounded_once_in_each_sum(
    counts: list[tuple[float, float]], random: Random
) -> None:
    """So it is the same under every Python: the built-in sum of floats rounds otherwise from 3.12 on."""
    told = [RowStatistics(e, correct, count, 1e-9) for e, (count, correct) in enumerate(counts, 1)]
    correct = sum((Fraction(row.correct) for row in told), Fraction())
    count = sum((Fraction(row.count) for row in told), Fraction())
    assert compute_accuracy(told) == float(correct) / float(count)
    random.shuffle(told)
    assert compute_accuracy(told) == float(correct) / float(count)


def test_noise_alone_ends_nothing() -> None:
    hidden = rows(1.0, 1.0, 1.0, count=10.0, noise=10.0)
    assert explain_finish(hidden, Stop(rows=2, accuracy=0.5, patience_rows=1)) is None
    assert find_best(hidden, 1) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 6))
def test_patience_is_that_of_a_plain_loop(shares: list[float], width: int, patience: int) -> None:
    best, at = -1.0, -1
    for last in range(width - 1, len(shares)):
        mean = compute_accuracy(rows(*shares)[last + 1 - width : last + 1])
        assert mean is not None
        if mean > best:
            best, at = mean, last
    expected = at >= 0 and len(shares) - 1 - at >= patience
    assert (explain_finish(rows(*shares), Stop(rows=width, patience_rows=patience)) is not None) == expected


def test_the_best_model_is_the_one_that_the_best_rows_were_trained_from() -> None:
    told = rows(0.1, 0.5, 0.9, 0.7, 0.6)
    best = find_best(told, 1)
    assert best is not None
    # The third row's members measured the model after two rows.
    assert (best.rows, best.accuracy) == (2, pytest.approx(0.9))
    smoothed = find_best(told, 3)
    assert smoothed is not None
    # The window of the last three rows; its middle row measured the model after three.
    assert (smoothed.rows, smoothed.accuracy) == (3, pytest.approx(2.2 / 3))


@pytest.mark.parametrize("weights", [61, 62, 64])
def test_extra_coordinates_that_need_a_block_of_their_own_are_checked_and_opened(weights: int) -> None:
    federation = make_federation(weights, metrics=True, weighting="examples")
    assert federation.parameters.blocks(federation.dimension) == (1 if weights == 61 else 2)
    update = torch.zeros(weights)
    upload = masking.protect(
        compose(update, 1000, Measured(30, 40), federation), CONTEXT, client_identity(0), federation
    )
    masking.check_manifest(upload.manifest, federation)
    masking.verify_public(upload.manifest, upload.payload, federation)
    assert len(upload.payload) == federation.parameters.upload_bytes(weights)
    secret = masking.find_secret(loads([upload]), share_sums(federation, [upload]), federation)
    opened = masking.open_sum([upload.payload], secret, federation)
    assert opened.shape == (weights + 3,)
    told = row_statistics(1, sum_row([(opened, 1)], federation), federation)
    assert abs(told.count - 40) < 7 * told.noise
