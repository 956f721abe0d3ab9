"""What attackers can compute from shares: the algebra against cases that are known, and against counting dimensions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.simulation.knowledge import components, computable_sums, eliminate, span_contains

Q = 8380417
A, B, C = b"a", b"b", b"c"


def sums(
    uploads: list[bytes],
    answers: list[tuple[list[bytes], int]],
    points: list[int],
    *,
    known: list[bytes] | None = None,
    coefficients: int = 2,
) -> np.ndarray:
    return computable_sums(
        uploads,
        answers=answers,
        known_points=points,
        known_uploads=known or [],
        coefficients=coefficients,
        modulus=Q,
    )


def test_one_groups_answers_open_its_sum_and_nothing_smaller() -> None:
    found = sums([A, B], [([A, B], 2), ([A, B], 3)], [1])
    assert found.tolist() == [[1, 1]]


def test_too_few_answers_open_nothing() -> None:
    assert len(sums([A, B], [([A, B], 2)], [], coefficients=2)) == 0


def test_answers_for_different_groups_at_different_replicas_open_a_single_client() -> None:
    """Why the lock round exists: one answer for {A, B}, another for {B}, and a share of each at the attacker."""
    found = sums([A, B], [([A, B], 2), ([B], 3)], [1])
    assert span_contains(found, np.array([[1, 0]]), Q)


def test_a_colluding_member_opens_only_its_own_part() -> None:
    found = sums([A, B, C], [([A, B, C], 2), ([A, B, C], 3)], [1], known=[C])
    assert span_contains(np.array([[1, 1, 0], [0, 0, 1]]), found, Q)
    assert len(found) == 2


def test_threshold_many_colluders_open_everything() -> None:
    assert len(sums([A, B], [], [1, 2])) == 2


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_elimination_keeps_the_span(count: int, width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, Q, (count, width))
    reduced = eliminate(rows.copy(), Q)
    assert span_contains(reduced, rows, Q)
    assert span_contains(rows, reduced, Q)


def test_groups_that_share_an_upload_are_looked_at_together() -> None:
    groups = {b"1": [A, B], b"2": [B], b"3": [C]}
    assert sorted(map(sorted, components(groups))) == [[b"1", b"2"], [b"3"]]
