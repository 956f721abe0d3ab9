"""Colluders in a cell: the hypergeometric tail, exactly, and against the project's own shuffle."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.assignment import compute_shuffled_positions
from asyncfl.digest import digest
from asyncfl.errors import ParameterError
from asyncfl.privacy.allowance import (
    Cells,
    colluders,
    isolation_probability,
    malicious_allowance,
    more_than,
)


def exact_tail(clients: int, bad: int, draws: int, members: int) -> Fraction:
    ways = sum(comb(bad, k) * comb(clients - bad, draws - k) for k in range(members + 1, min(bad, draws) + 1))
    return Fraction(ways, comb(clients, draws))


@settings(deadline=None)
@given(st.integers(2, 200), st.data())
def test_the_tail_is_the_exact_hypergeometric_one(clients: int, data: st.DataObject) -> None:
    cells = Cells(clients, data.draw(st.integers(1, clients)), 4)
    fraction = data.draw(st.floats(0, 0.9))
    members = data.draw(st.integers(0, cells.largest))
    exact = exact_tail(clients, colluders(clients, fraction), cells.largest, members)
    assert more_than(cells, fraction, members) == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.2])
def test_the_allowance_is_the_smallest_number_exceeded_with_at_most_the_stated_probability(
    fraction: float,
) -> None:
    cells = Cells(1000, 48, 4)
    assert (cells.count, cells.largest, cells.of_one_coordinator) == (20, 50, 5)
    limit = Fraction(1, 10**6) / (9 * 5 + 1)
    allowance = malicious_allowance(cells, fraction, 48)
    bad = colluders(1000, fraction)
    assert exact_tail(1000, bad, 50, allowance) <= limit < exact_tail(1000, bad, 50, allowance - 1)


def test_nobody_colluding_allows_for_nobody() -> None:
    assert malicious_allowance(Cells(1000, 48, 4), 0.0, 1) == 0
    assert isolation_probability(Cells(1000, 48, 4), 0.0, 32, 10**6) == 0.0


def test_no_honest_member_left_is_refused_with_what_would_do() -> None:
    with pytest.raises(ParameterError, match="no honest member") as refused:
        malicious_allowance(Cells(100, 10, 4), 0.3, 8)
    needed = int(str(refused.value).split("at least ")[1].split(",")[0])
    assert malicious_allowance(Cells(100, 10, 4), 0.3, needed) == needed - 1


@settings(deadline=None)
@given(st.floats(0, 0.5), st.floats(0, 0.4))
def test_more_colluders_are_allowed_for_and_isolate_more_often(fraction: float, more: float) -> None:
    cells = Cells(400, 40, 4)
    low, high = (malicious_allowance(cells, each, 41) for each in (fraction, fraction + more))
    assert low <= high
    chances = [isolation_probability(cells, each, 20, 50) for each in (fraction, fraction + more)]
    assert chances[0] <= chances[1] <= 1


def test_isolation_in_a_small_deployment_is_bounded_above_what_shuffles_do() -> None:
    clients, bad, size, group, epochs, runs = 24, 9, 6, 4, 10, 2000
    cells = Cells(clients, size, 4)
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(clients), (runs * epochs, 1)), axis=1)
    # The one cell of each epoch that the colluding coordinator has; clients 0 to bad-1 collude.
    count = (shuffled[:, :size] < bad).sum(axis=1).reshape(runs, epochs)
    isolated = ((count >= group - 1).any(axis=1)).mean()
    bound = isolation_probability(cells, bad / clients, group, epochs)
    single = isolation_probability(cells, bad / clients, group, 1)
    assert isolated <= bound
    assert isolated == pytest.approx(1 - (1 - single) ** epochs, abs=0.05)


def test_the_projects_shuffle_fills_a_cell_as_often_as_chance_does() -> None:
    clients, bad, size, draws = 24, 9, 6, 400
    counts = [
        int(
            np.sum(
                compute_shuffled_positions(clients, digest("test", number.to_bytes(2, "big")))[:bad] < size
            )
        )
        for number in range(draws)
    ]
    expected = more_than(Cells(clients, size, 4), bad / clients, 2)
    assert np.mean(np.array(counts) > 2) == pytest.approx(expected, abs=4 * (0.25 / draws) ** 0.5)


def test_more_coordinators_meet_more_cells_but_not_more_than_all() -> None:
    cells = Cells(1000, 48, 4)
    one, two, all_ = (isolation_probability(cells, 0.3, 32, 10, each) for each in (1, 2, 40))
    assert two == pytest.approx(2 * one)
    assert all_ == pytest.approx(4 * one)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ParameterError, match="malicious_fraction"):
        malicious_allowance(Cells(100, 10, 4), fraction, 8)


def test_cells_that_cannot_be_are_refused() -> None:
    with pytest.raises(ParameterError, match="cell_size"):
        Cells(10, 11, 4)
    with pytest.raises(ParameterError, match="replicas"):
        Cells(10, 5, 0)


def test_the_limit_counts_nine_epochs_of_cells_and_the_cell_of_the_upload_itself() -> None:
    cells = Cells(42, 11, 4)
    assert cells.of_one_coordinator == 1
    # Between a millionth over 10 and a millionth over 9: more than 11 colluders are still too likely.
    assert 1e-6 / 10 < more_than(cells, 13 / 42, 11) < 1e-6 / 9
    assert malicious_allowance(cells, 13 / 42, 14) == 12
