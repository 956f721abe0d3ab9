"""Patience, signs of life and the front."""

import pytest

from asyncfl.federation import Roster
from asyncfl.inclusion import OVERDUE_FACTOR, PATIENCE_AT_FIRST, Inclusion, Patience

A, B, C, D, E = (bytes([i]) * 32 for i in range(5))


def four_at(epochs: dict[bytes, int], now: float = 0.0) -> Inclusion:
    roster = Roster(0, 1, (A, B, C, D))
    inclusion = Inclusion(lambda epoch: roster)
    for client, epoch in epochs.items():
        inclusion.heard(client, epoch, now)
    inclusion.update(now)
    return inclusion


def test_patience_is_twice_the_median_with_a_floor() -> None:
    patience = Patience()
    assert patience.seconds == PATIENCE_AT_FIRST
    patience.measured(0.1)
    assert patience.seconds == 1.0
    for seconds in (3.0, 4.0, 5.0, 100.0):
        patience.measured(seconds)
    assert patience.seconds == 8.0


def test_the_front_is_the_smallest_epoch_of_live_clients() -> None:
    assert four_at({A: 5, B: 3, C: 7, D: 4}).front == 3


def test_a_dead_client_holds_nobody_back() -> None:
    inclusion = four_at({A: 1, B: 3, C: 3, D: 3})
    assert inclusion.front == 1
    for client in (B, C, D):
        inclusion.heard(client, 4, 11.0)
    inclusion.update(11.0)
    assert not inclusion.is_live(A, 11.0)
    assert inclusion.front == 4


def test_a_replica_that_hears_less_than_half_keeps_its_front() -> None:
    inclusion = four_at({A: 2, B: 2, C: 2, D: 2})
    inclusion.heard(A, 9, 20.0)
    inclusion.update(20.0)
    assert inclusion.front == 2


def test_the_front_never_falls_for_a_laggard() -> None:
    inclusion = four_at({A: 6, B: 6, C: 6})
    inclusion.heard(D, 1, 0.5)
    inclusion.update(0.5)
    assert inclusion.front == 6


def test_a_client_overdue_is_left_out_for_a_time_that_doubles() -> None:
    inclusion = four_at({A: 1, B: 1, C: 1, D: 1})
    limit = OVERDUE_FACTOR * PATIENCE_AT_FIRST
    inclusion.tasked(A, 1, 0.0)

    def everybody_else_moves(epoch: int, now: float) -> None:
        for client in (B, C, D):
            inclusion.heard(client, epoch, now)
        inclusion.heard(A, inclusion.clients[A].at, now)
        inclusion.update(now)

    everybody_else_moves(2, limit - 1)
    assert inclusion.front == 1
    everybody_else_moves(3, limit + 1)
    assert inclusion.front == 3
    assert inclusion.clients[A].left_out_until == limit + 1 + 2 * limit
    again = 3 * limit + 2
    inclusion.heard(A, 4, again)
    inclusion.tasked(A, 4, again)
    everybody_else_moves(5, again + limit + 1)
    assert inclusion.clients[A].left_out_until == again + limit + 1 + 4 * limit


def test_a_client_on_time_is_forgiven_by_halves() -> None:
    inclusion = four_at({A: 1})
    inclusion.clients[A].misses = 4
    inclusion.tasked(A, 1, 0.0)
    inclusion.stored(A, 1, 1.0)
    assert inclusion.clients[A].misses == 2


def test_a_sign_of_life_for_an_older_epoch_moves_nobody_back() -> None:
    inclusion = four_at({A: 5})
    inclusion.heard(A, 2, 1.0)
    assert inclusion.clients[A].at == 5


def changing() -> Inclusion:
    """A, B, C, D up to epoch 4; from epoch 5 on B, C, D and E."""
    old, new = Roster(0, 1, (A, B, C, D)), Roster(1, 5, (B, C, D, E))
    return Inclusion(lambda epoch: new if epoch >= 5 else old)


def test_a_retired_client_holds_up_nobody_and_counts_for_nothing_from_its_rosters_end_on() -> None:
    inclusion = changing()
    for client in (A, B, C, D):
        inclusion.heard(client, 5, 0.0)
    inclusion.update(0.0)
    assert inclusion.front == 5
    for client in (B, C, D):
        inclusion.heard(client, 7, 0.1)
    inclusion.heard(A, 5, 0.1)
    inclusion.update(0.1)
    assert inclusion.front == 7
    inclusion = changing()
    inclusion.front = 5
    inclusion.heard(A, 9, 0.0)
    inclusion.heard(B, 9, 0.0)
    inclusion.update(0.0)
    assert inclusion.front == 5, "one live member of four moved the front, with a retired one's help"


def test_a_joiner_holds_the_front_at_its_start_epoch_and_not_before() -> None:
    inclusion = changing()
    inclusion.heard(E, 5, 0.0)
    for client in (A, B, C, D):
        inclusion.heard(client, 3, 0.0)
    inclusion.update(0.0)
    assert inclusion.front == 3
    for client in (B, C, D):
        inclusion.heard(client, 6, 0.1)
    inclusion.heard(A, 6, 0.1)
    inclusion.update(0.1)
    assert inclusion.front == 5


def test_who_is_not_yet_a_member_does_not_hold_up_the_front_from_behind() -> None:
    inclusion = changing()
    inclusion.heard(E, 1, 0.0)
    for client in (A, B, C, D):
        inclusion.heard(client, 4, 0.0)
    inclusion.update(0.0)
    assert inclusion.front == 4


def test_accomplices_that_upload_one_by_one_cannot_hold_the_front_while_clients_queue() -> None:
    """One that never uploads is at the front; every ten seconds an accomplice brings an upload of an epoch before."""
    roster = Roster(0, 1, (A, B, C, D))
    inclusion = Inclusion(lambda epoch: roster, places=1)
    inclusion.heard(A, 1, 0.0)
    now, longest = 0.0, (2 * OVERDUE_FACTOR + 4) * PATIENCE_AT_FIRST
    while inclusion.front == 1 and now < 2 * longest:
        now += 5
        for client in (A, B, C, D):
            inclusion.heard(client, 1 if client == A else 2, now)
        inclusion.worked_on(1, now)
        inclusion.update(now)
    assert inclusion.front == 2
    assert longest - 5 <= now <= longest + 5


@pytest.mark.parametrize("seconds", [0.01, 1000.0])
def test_a_client_that_sends_an_upload_again_and_again_does_not_set_the_patience(seconds: float) -> None:
    inclusion = four_at({A: 1, B: 1, C: 1, D: 1})
    for client in (B, C, D):
        inclusion.tasked(client, 1, 0.0)
        inclusion.stored(client, 1, 20.0)
    inclusion.heard(A, 9, 20.0)
    inclusion.tasked(A, 1, 20.0)
    for _ in range(64):
        inclusion.stored(A, 1, 20.0 + seconds)
        inclusion.tasked(A, 1, 20.0)
    assert inclusion.patience.seconds == 40.0
