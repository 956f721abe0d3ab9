"""The dead hold the front; once the operator has retired them they hold it no more, even before their last epoch."""

from __future__ import annotations

from asyncfl.federation import Roster
from asyncfl.inclusion import Inclusion

CLIENTS = tuple(bytes([i]) * 32 for i in range(8))
LIVE = CLIENTS[:3]


def heard(inclusion: Inclusion, epoch: int, now: float) -> int:
    """The front after the live clients have said that they are at `epoch`."""
    for client in LIVE:
        inclusion.heard(client, epoch, now)
    inclusion.update(now)
    return inclusion.front


def test_with_most_clients_dead_the_front_stays_until_the_operator_retires_them() -> None:
    rosters = [Roster(0, 1, CLIENTS)]
    inclusion = Inclusion(
        lambda epoch: next(roster for roster in reversed(rosters) if roster.start_epoch <= epoch)
    )
    assert heard(inclusion, 4, 0.0) == 1
    rosters.append(Roster(1, 12, (*LIVE, CLIENTS[7])))
    assert heard(inclusion, 5, 1.0) == 5
    assert heard(inclusion, 12, 2.0) == 12
    rosters.append(Roster(2, 30, (*LIVE, *CLIENTS[4:])))
    assert heard(inclusion, 13, 3.0) == 13, "who joins later is not missed before"


def test_clients_that_are_to_retire_still_hold_the_front_while_they_live() -> None:
    rosters = [Roster(0, 1, CLIENTS), Roster(1, 12, LIVE)]
    inclusion = Inclusion(
        lambda epoch: next(roster for roster in reversed(rosters) if roster.start_epoch <= epoch)
    )
    inclusion.heard(CLIENTS[5], 3, 0.0)
    assert heard(inclusion, 6, 0.0) == 3


def test_one_who_stays_cannot_push_the_front_beyond_the_start_of_the_next_roster() -> None:
    left = (CLIENTS[0], *CLIENTS[5:])
    rosters = [Roster(0, 1, CLIENTS[:5]), Roster(1, 12, left), Roster(2, 20, left)]
    inclusion = make(rosters)
    inclusion.heard(CLIENTS[0], 2**31 - 1, 0.0)
    inclusion.update(0.0)
    assert inclusion.front == 12


def test_the_front_passes_to_the_next_roster_without_the_few_who_stay() -> None:
    """They may be dead, or say for ever that they are there: half of the next roster waits, that is enough."""
    rosters = [Roster(0, 1, CLIENTS[:5]), Roster(1, 12, CLIENTS[4:])]
    for lies, seconds in ((False, 11), (True, 61)):
        inclusion = make(rosters)
        inclusion.resume(9, 0.0)
        for now in range(seconds + 1):
            assert inclusion.front == 9, "the old roster has its time"
            for client in CLIENTS[5:]:
                inclusion.heard(client, 12, float(now))
            if lies:
                inclusion.heard(CLIENTS[4], 9, float(now))
            inclusion.update(float(now))
        assert inclusion.front == 12


def test_fewer_than_half_of_the_next_roster_cannot_pull_the_front_to_its_start() -> None:
    inclusion = make([Roster(0, 1, CLIENTS[:2]), Roster(1, 12, CLIENTS[2:])])
    for now in range(100):
        for client in CLIENTS[2:4]:
            inclusion.heard(client, 12, float(now))
        inclusion.update(float(now))
    assert inclusion.front == 1


def make(rosters: list[Roster]) -> Inclusion:
    return Inclusion(
        lambda epoch: next(roster for roster in reversed(rosters) if roster.start_epoch <= epoch)
    )
