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
