"""Weighted sampling without replacement: its probabilities, that nobody foresees it, and the places it fills."""

from collections import Counter
from itertools import permutations
from math import exp

import pytest

from asyncfl.digest import digest
from asyncfl.replica.scheduler import (
    Candidate,
    Scheduler,
    compute_deficit,
    compute_order,
    compute_uniform,
)
from tests.core.builders import make_parameters

SECRET = b"s" * 64
DRAWS = 20_000


def name(number: int) -> bytes:
    return digest("asyncfl/1/test", bytes([number]))


def make_scheduler(concurrency: int, secret: bytes = SECRET, beta: float = 1.0) -> Scheduler:
    return Scheduler(make_parameters(concurrency=concurrency, beta=beta), secret)


def exact_probability(order: tuple[int, ...], weights: list[float]) -> float:
    """Sequential sampling without replacement, by its definition."""
    left, probability = sum(weights), 1.0
    for number in order:
        probability *= weights[number] / left
        left -= weights[number]
    return probability


def test_orders_have_the_probabilities_of_sampling_without_replacement() -> None:
    deficits = [-1.5, 0.0, 0.5, 2.0]
    beta = 0.8
    clients = [name(number) for number in range(4)]
    seen: Counter[tuple[bytes, ...]] = Counter()
    for draw in range(DRAWS):
        uniforms = {client: compute_uniform(SECRET, client, 1, draw) for client in clients}
        seen[
            tuple(
                compute_order(
                    dict(zip(clients, deficits, strict=True)), uniforms, beta, dict.fromkeys(clients, 1.0)
                )
            )
        ] += 1
    weights = [exp(beta * deficit) for deficit in deficits]
    chi_square = 0.0
    for order in permutations(range(4)):
        expected = DRAWS * exact_probability(order, weights)
        chi_square += (seen[tuple(clients[number] for number in order)] - expected) ** 2 / expected
    assert chi_square < 49.7  # 23 degrees of freedom, 1 in 1000; the draws are fixed


def test_the_first_is_drawn_in_proportion_to_its_weight_at_the_scheduler_too() -> None:
    scheduler = make_scheduler(1, beta=1.0)
    drawn = ((-1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.1))
    candidates = [Candidate(name(i), 3, deficit, True, weight) for i, (deficit, weight) in enumerate(drawn)]
    first = Counter(scheduler.choose(candidates, lambda client: True)[0].client for _ in range(DRAWS))
    total = sum(c.weight * exp(c.deficit) for c in candidates)
    for candidate in candidates:
        share = candidate.weight * exp(candidate.deficit) / total
        sigma = (share * (1 - share) / DRAWS) ** 0.5
        assert abs(first[candidate.client] / DRAWS - share) < 4 * sigma


def test_huge_deficits_do_not_overflow() -> None:
    deficits = {name(0): 1e6, name(1): -1e6, name(2): 0.0}
    uniforms = {client: compute_uniform(SECRET, client, 1, 1) for client in deficits}
    assert compute_order(deficits, uniforms, 100.0, dict.fromkeys(deficits, 1.0)) == [
        name(0),
        name(2),
        name(1),
    ]


def test_deficits_are_clipped_to_the_window() -> None:
    assert compute_deficit(10, 3.5, 2) == -2
    assert compute_deficit(0, 3.5, 2) == 2
    assert compute_deficit(3, 3.5, 2) == 0.5


def test_draws_are_uniform_and_depend_on_everything() -> None:
    values = [compute_uniform(SECRET, name(0), 1, draw) for draw in range(4000)]
    assert all(0 < value < 1 for value in values)
    for tenth in range(10):
        share = sum(tenth <= 10 * value < tenth + 1 for value in values) / len(values)
        assert abs(share - 0.1) < 0.025
    base = compute_uniform(SECRET, name(0), 1, 0)
    others = (
        compute_uniform(b"t" * 64, name(0), 1, 0),
        compute_uniform(SECRET, name(1), 1, 0),
        compute_uniform(SECRET, name(0), 2, 0),
        compute_uniform(SECRET, name(0), 1, 1),
    )
    assert len({base, *others}) == 5


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_no_more_places_than_the_limit(concurrency: int) -> None:
    scheduler = make_scheduler(concurrency)
    candidates = [Candidate(name(i), 1, 0.0, True) for i in range(12)]
    served = set()
    for _ in range(12):
        chosen = scheduler.choose([c for c in candidates if c.client not in served], lambda client: True)
        assert len(chosen) == min(concurrency, len(candidates) - len(served))
        for candidate in chosen:
            scheduler.give(candidate.client, candidate.epoch, expires=10.0)
        served |= {candidate.client for candidate in chosen}
        left = [c for c in candidates if c.client not in served]
        assert not left or scheduler.choose(left, lambda client: True) == []
        scheduler.expire(1.0, lambda client, epoch: True)
        if len(served) == len(candidates):
            break
    assert len(served) == 12


def test_a_task_expires_and_a_repetition_does_not_prolong_it() -> None:
    scheduler = make_scheduler(1)
    scheduler.give(name(0), 4, expires=10.0)
    scheduler.give(name(0), 4, expires=20.0)
    scheduler.expire(9.0, lambda client, epoch: False)
    assert scheduler.has_task(name(0), 4)
    scheduler.expire(10.5, lambda client, epoch: False)
    assert not scheduler.has_task(name(0), 4)


def test_who_is_left_out_comes_last_and_takes_no_place_from_the_others() -> None:
    scheduler = make_scheduler(1)
    good, hog = Candidate(name(0), 1, -2.0, True), Candidate(name(1), 1, 2.0, False)
    assert scheduler.choose([good, hog], lambda client: True) == [good]
    assert scheduler.choose([hog], lambda client: True) == [hog]
    scheduler.give(hog.client, 1, expires=100.0)
    assert scheduler.choose([good], lambda client: client != hog.client) == [good]
    assert scheduler.choose([Candidate(name(2), 1, 0.0, False)], lambda client: False) == []
