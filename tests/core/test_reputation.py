"""Client reputation: a group test that finds who spoils groups, brands nobody for its data, and forgets."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from asyncfl.fold import FoldState
from asyncfl.ledger import Ledger
from asyncfl.replay import replay
from asyncfl.reputation import (
    DRIFT,
    FLOOR,
    MOST_SCORE,
    NOISE,
    PRIOR,
    Reputation,
    score_groups,
    shrink_suspects,
)
from asyncfl.simulation.network import MemoryBlobs
from tests.core.test_rules_in_fold import DIMENSION, make_federation, make_item

CLIENTS = 60


def updates(generator: np.random.Generator, dimension: int = 50) -> NDArray[np.float64]:
    """Of `CLIENTS`, a common direction with length 1 and noise of the same length."""
    return generator.normal(size=(CLIENTS, dimension)) / dimension**0.5 + np.eye(dimension)[0]


def regroup(
    generator: np.random.Generator, size: int, sent: NDArray[np.float64]
) -> tuple[list[list[int]], Tensor]:
    order = generator.permutation(CLIENTS).tolist()
    groups = [order[place : place + size] for place in range(0, CLIENTS, size)]
    return groups, torch.tensor(np.stack([sent[group].mean(axis=0) for group in groups]))


def train(
    epochs: int, size: int, bad: set[int], rare: set[int] = frozenset(), seed: int = 1
) -> Reputation[int]:
    """The reputation after so many shuffles; `bad` clients send the opposite, `rare` ones pull another way."""
    generator, reputation = np.random.default_rng(seed), Reputation[int]()
    for _ in range(epochs):
        sent = updates(generator)
        sent[sorted(bad)] *= -1.0
        sent[sorted(rare)] += 0.5 * np.eye(sent.shape[1])[1]
        groups, means = regroup(generator, size, sent)
        scores = score_groups(means, [len(group) for group in groups])
        reputation = reputation.after(zip(groups, scores, strict=True))
    return reputation


@pytest.mark.parametrize(("size", "epochs"), [(1, 10), (2, 20), (4, 40)])
def test_clients_that_spoil_groups_are_told_from_their_neighbours(size: int, epochs: int) -> None:
    bad = set(range(0, CLIENTS, 10))
    found = train(epochs, size, bad)
    suspicions = {client: found.suspicion(client)[0] for client in range(CLIENTS)}
    honest = set(range(CLIENTS)) - bad
    assert min(suspicions[client] for client in bad) > max(suspicions[client] for client in honest)
    assert fmean(found.weight(client) for client in bad) < 0.7
    assert fmean(found.weight(client) for client in honest) > 0.98


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_honest_minority_is_not_branded(size: int) -> None:
    rare = {3, 17, 41}
    found = train(40, size, set(), rare)
    assert min(found.weight(client) for client in rare) > 0.7
    assert min(found.weight(client) for client in range(CLIENTS)) > 0.7


@pytest.mark.parametrize("size", [2, 3, 8, 16])
def test_one_bad_group_makes_none_of_several_members_suspect(size: int) -> None:
    groups = [(range(place, place + size), 0.0) for place in range(0, 8 * size, size)]
    for before in (Reputation[int](), Reputation[int]().after(groups)):
        found = before.after([(range(size), 1e9), *groups[1:]])
        assert {found.weight(member) for member in range(size)} == {1.0}


def test_without_attackers_everybody_counts() -> None:
    found = train(40, 4, set())
    assert min(found.weight(client) for client in range(CLIENTS)) > 0.9


def test_nobody_is_excluded_for_good_and_whoever_mends_its_ways_is_believed_again() -> None:
    reputation = Reputation[str]()
    for _ in range(30):
        reputation = reputation.after([(["bad"], MOST_SCORE), (["a"], 0.0), (["b"], 0.0)])
    assert reputation.weight("bad") == FLOOR
    for _ in range(60):
        reputation = reputation.after([(["bad"], 0.0), (["a"], 0.0), (["b"], 0.0)])
    assert reputation.weight("bad") > 0.9


def test_who_is_unknown_or_long_unseen_has_the_prior() -> None:
    reputation = Reputation[str]().after([(["seen"], 1.0), (["other"], 0.0)])
    assert reputation.suspicion("new") == (0.0, PRIOR**0.5)
    assert reputation.weight("new") == 1.0
    for _ in range(round(PRIOR / DRIFT)):
        reputation = reputation.after([])
    assert reputation.estimate("seen").variance == PRIOR


@given(st.lists(st.tuples(st.sets(st.integers(0, 5), min_size=1), st.floats(-1, 1)), max_size=12))
def test_one_row_of_separate_clients_is_exact_least_squares(row: list[tuple[set[int], float]]) -> None:
    """Groups of one row share no client: then the diagonal filter is the exact posterior mean."""
    taken: set[int] = set()
    groups: list[tuple[list[int], float]] = []
    for members, score in row:
        if not members & taken:
            taken |= members
            groups.append((sorted(members), score))
    found = Reputation[int]().after(groups)
    for members, score in groups:
        count = len(members)
        design = np.full((1, count), 1 / count)
        precision = np.eye(count) / PRIOR + design.T @ design / NOISE
        posterior = np.linalg.solve(precision, design[0] * score / NOISE)
        assert [found.suspicion(member)[0] for member in members] == pytest.approx(posterior.tolist())
        # A diagonal covariance forgets what members owe to each other: each variance is that of the exact one.
        exact = np.diag(np.linalg.inv(precision)).tolist()
        assert [found.estimate(member).variance for member in members] == pytest.approx(exact)


def test_scores_are_relative_and_bounded() -> None:
    means = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-100.0, 0.0], [0.0, 0.0]])
    scores = score_groups(means, [1] * 5)
    assert scores == (0.0, 0.0, 0.0, MOST_SCORE, -1.0)
    assert score_groups(means * 1000.0, [1] * 5) == scores
    assert score_groups(means[:2], [1, 1]) == (0.0, 0.0)
    assert score_groups(torch.zeros(4, 3), [1] * 4) == (0.0,) * 4
    same = torch.tensor([[2.0], [2.0], [2.0], [5.0]])
    assert score_groups(same, [1] * 4) == (0.0, 0.0, 0.0, MOST_SCORE)


def test_suspects_are_moved_to_the_centre_by_what_they_lack() -> None:
    means = torch.tensor([[0.0], [1.0], [2.0], [101.0]])
    shrunk = shrink_suspects(means, [1.0, 1.0, 1.0, 0.25])
    assert shrunk.flatten().tolist() == [0.0, 1.0, 2.0, 1.5 + 0.25 * 99.5]
    assert shrink_suspects(means, [1.0] * 4) is means


def last_state(items: list[tuple[int, int, int]], **options: object) -> FoldState:
    """After rows of six groups, of which those that `items` names (epoch, cell, value) open another value than 1000."""
    federation, blobs = make_federation("mean", reputation=True, **options), MemoryBlobs()
    ledger, odd = Ledger(federation.digest), {(epoch, cell): value for epoch, cell, value in items}
    for epoch in range(1, 9):
        for cell in range(6):
            value = odd.get((epoch, cell), 1000 + 10 * cell)
            ledger.add(make_item(blobs, epoch, cell, 3, [value] * DIMENSION))
    *_, (_, last) = replay(ledger.head, federation, blobs)
    return last


def test_groups_of_suspects_count_less_in_the_rows_that_follow() -> None:
    usual = last_state([])
    spoiled = [(epoch, 5, -9000) for epoch in range(1, 9)]
    suspected = last_state(spoiled)
    assert usual.judgement is not None
    assert suspected.judgement is not None
    assert min(usual.judgement.weights) > 0.8
    assert min(suspected.judgement.weights) < 0.25
    assert sorted(suspected.judgement.weights)[1] > 0.8
    assert max(suspected.judgement.scores) == MOST_SCORE
