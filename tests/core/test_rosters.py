"""What the operator signs counts, in order, once; everything else is refused."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from asyncfl.errors import InvalidItem, RosterConflict
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.ledger import Ledger
from asyncfl.messages import GroupId, Item, Member, RosterStatement
from asyncfl.rosters import ROSTER_GRACE_EPOCHS, Answers, Rosters, compute_handicap
from asyncfl.simulation.deployment import make_identity, sign_roster
from tests.core.builders import make_simulation

SIMULATION = make_simulation(8, cell_size=4, min_group=3)
FEDERATION = SIMULATION.federation
OPERATOR = SIMULATION.operator_id
OLD = FEDERATION.rosters[0].members
JOINER = make_identity(0, "joiner").public


def statement(
    number: int, start: int, members: tuple[bytes, ...], *, by: Identity = OPERATOR, sort: bool = True
) -> RosterStatement:
    members = tuple(sorted(members)) if sort else members
    roster = sign_roster(by, FEDERATION.digest, number, start, members)
    return RosterStatement(number=number, start_epoch=start, members=members, signature=roster.signature)


def test_rosters_apply_from_their_start_epoch_on_up_to_the_number_known() -> None:
    rosters = Rosters(FEDERATION)
    assert rosters.add(statement(1, 10, (*OLD, JOINER)))
    assert rosters.add(statement(2, 20, OLD[1:]))
    assert not rosters.add(statement(1, 10, (*OLD, JOINER)))
    assert [rosters.at(epoch).number for epoch in (1, 9, 10, 19, 20, 99)] == [0, 0, 1, 1, 2, 2]
    assert [rosters.at(99, known).number for known in (0, 1, 2, 2**31 - 1)] == [0, 1, 2, 2]
    assert rosters.clients == {*OLD, JOINER}
    assert rosters.highest == 2
    assert rosters.get(3) is None


REFUSED: dict[str, tuple[Callable[[], RosterStatement], str]] = {
    "a stranger's signature": (lambda: statement(1, 9, OLD, by=make_identity(0, "stranger")), "did not sign"),
    "a replica's signature": (lambda: statement(1, 9, OLD, by=SIMULATION.replica_ids[0]), "did not sign"),
    "another start than was signed": (
        lambda: statement(1, 9, OLD).model_copy(update={"start_epoch": 10}), "did not sign"
    ),
    "another member than was signed": (
        lambda: statement(1, 9, OLD).model_copy(update={"members": (*OLD[:-1], b"\xff" * 32)}), "did not sign"
    ),
    "unsorted members": (lambda: statement(1, 9, OLD[::-1], sort=False), "do not ascend"),
    "a member twice": (lambda: statement(1, 9, (OLD[0], *OLD), sort=False), "do not ascend"),
    "fewer than a cell": (lambda: statement(1, 9, OLD[:3]), "fill no cell of 4"),
    "no later start": (lambda: statement(1, 1, OLD), "not after roster 0"),
    "a gap": (lambda: statement(2, 9, OLD), "cannot be checked before roster 1"),
    "another first roster": (lambda: statement(0, 1, OLD[1:]), "two rosters 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_statement_that_does_not_fit_is_refused(name: str) -> None:
    make, reason = REFUSED[name]
    rosters = Rosters(FEDERATION)
    with pytest.raises(InvalidItem, match=reason):
        rosters.add(make())
    assert rosters.highest == 0
    assert rosters.clients == set(OLD)


def test_of_two_rosters_with_one_number_the_first_stays() -> None:
    rosters = Rosters(FEDERATION)
    rosters.add(statement(1, 10, OLD))
    with pytest.raises(RosterConflict):
        rosters.add(statement(1, 11, OLD))
    assert rosters.at(10).number == 1


def with_rosters(*statements: RosterStatement) -> Federation:
    rosters = Rosters(FEDERATION)
    for one in statements:
        rosters.add(one)
    return replace(FEDERATION, rosters=tuple(rosters.held))


def row(one: RosterStatement) -> tuple[bytes, bytes]:
    return one.number.to_bytes(4, "big"), one.encode()


def test_what_is_on_disk_adds_to_what_the_file_says() -> None:
    first, second = statement(1, 10, OLD), statement(2, 20, OLD[1:])
    rosters = Rosters(with_rosters(first))
    assert rosters.load(dict([row(first), row(second)])) == []
    assert rosters.highest == 2
    rosters = Rosters(with_rosters(first, second))
    assert rosters.load(dict([row(first)])) == []
    assert rosters.highest == 2


def test_what_was_held_first_stays_when_the_file_changes() -> None:
    rosters = Rosters(with_rosters(statement(1, 10, OLD)))
    held = statement(1, 11, (*OLD, JOINER))
    refused = rosters.load(dict([row(held)]))
    assert [type(error) for error in refused] == [RosterConflict]
    assert rosters.at(11).members == held.members
    assert JOINER in rosters.clients


def test_only_the_newest_roster_and_for_a_while_the_one_before_are_vouched_for() -> None:
    rosters = Rosters(FEDERATION)
    rosters.add(statement(1, 10, OLD))
    rosters.add(statement(2, 12, OLD[1:]))
    current = [
        [number for number in range(4) if rosters.is_current(number, epoch)]
        for epoch in (9, 10, 11, 12, 12 + ROSTER_GRACE_EPOCHS - 1, 12 + ROSTER_GRACE_EPOCHS)
    ]
    assert current == [[0], [0, 1], [0, 1], [1, 2], [1, 2], [2]]


def enter(ledger: Ledger, epoch: int, clients: tuple[bytes, ...]) -> None:
    members = tuple(Member(client=c, epoch=epoch, manifest=bytes(32)) for c in sorted(clients))
    group = GroupId(epoch=epoch, cell=0, coordinator=0, part=0)
    ledger.add(Item(id=group, members=members, opened=bytes(32)))


def test_joiners_start_with_the_mean_count_of_those_present() -> None:
    rosters, ledger = Rosters(FEDERATION), Ledger(FEDERATION.digest)
    for epoch in range(1, 10):
        enter(ledger, epoch, OLD[:4] if epoch % 2 else OLD)
    rosters.add(statement(1, 10, (*OLD, JOINER)))
    mean = (5 * 4 + 4 * 8) / 8
    assert compute_handicap(JOINER, rosters, ledger) == mean
    assert all(compute_handicap(client, rosters, ledger) == 0 for client in OLD)
    for epoch in range(10, 20):
        enter(ledger, epoch, (*OLD, JOINER))
    assert compute_handicap(JOINER, rosters, ledger) == mean
    late = make_identity(0, "late").public
    rosters.add(statement(2, 20, (*OLD, JOINER, late)))
    assert compute_handicap(late, rosters, ledger) == mean + 10


def test_who_was_away_comes_back_with_the_mean() -> None:
    rosters, ledger = Rosters(FEDERATION), Ledger(FEDERATION.digest)
    for epoch in range(1, 5):
        enter(ledger, epoch, OLD)
    rosters.add(statement(1, 5, OLD[1:]))
    for epoch in range(5, 9):
        enter(ledger, epoch, OLD[1:])
    rosters.add(statement(2, 9, OLD))
    assert ledger.counts[OLD[0]] + compute_handicap(OLD[0], rosters, ledger) == 8.0
    assert ledger.counts[OLD[1]] + compute_handicap(OLD[1], rosters, ledger) == 8.0


def test_a_roster_that_starts_at_the_end_of_time_costs_no_time_to_count() -> None:
    rosters, ledger = Rosters(FEDERATION), Ledger(FEDERATION.digest)
    for epoch in range(1, 5):
        enter(ledger, epoch, OLD)
    rosters.add(statement(1, 5, OLD[1:]))
    rosters.add(statement(2, 2**31 - 1, OLD))
    started = time.monotonic()
    assert compute_handicap(OLD[0], rosters, ledger) == 0.0
    assert time.monotonic() - started < 1


def test_a_flood_of_requests_is_answered_once_a_second_and_who_goes_on_at_once() -> None:
    rosters = Rosters(FEDERATION)
    for number in range(1, 21):
        rosters.add(statement(number, 10 * number, OLD))
    answers = Answers(rosters.statements)
    numbers = [[s.number for s in answers.give(b"a", after, 5.0)] for after in (0, 0, 8, 16, 0, 8, 20)]
    assert numbers == [[*range(1, 9)], [], [*range(9, 17)], [*range(17, 21)], [], [], []]
    assert len(answers.give(b"b", 0, 5.0)) == 8
    assert len(answers.give(b"a", 0, 6.0)) == 8
