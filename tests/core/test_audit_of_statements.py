"""An audit of what vouches for entries, and of the operator's rosters: every row, of every state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asyncfl.audit import Audit, find_differences, find_unlocked
from asyncfl.effects import Table
from asyncfl.federation import Federation, Roster
from asyncfl.messages import Entry, LockContent, RosterStatement
from asyncfl.replica.item_record import ItemRecord, Signatures
from asyncfl.rosters import put_roster, roster_key
from asyncfl.simulation.deployment import sign_roster
from tests.core.test_audit import Tables, audit, first_item, run, state

CERTIFIERS = 2


def change(tables: Tables, name: bytes, record: ItemRecord) -> None:
    tables[Table.ITEMS][name] = record.encode()


def without_locks(replica: int, *, attesters: set[int]) -> tuple[bytes, Audit]:
    """A state whose first entry has no locks, and the attestations of these replicas."""
    tables, blobs = state(replica)
    name, record = first_item(tables)
    votes = {**first_item(state(0)[0])[1].votes, **first_item(state(1)[0])[1].votes, **record.votes}
    record.votes, record.locks = Signatures(), Signatures()
    for attester in attesters:
        record.votes[attester] = votes[attester]
    change(tables, name, record)
    return name, audit(tables, blobs, replica)


def attested() -> tuple[int, int, int]:
    """Two replicas whose attestations of the first entry are known, and one of those that have none of it there."""
    votes = {**first_item(state(0)[0])[1].votes, **first_item(state(1)[0])[1].votes}
    first, second = sorted(votes)[:2]
    return first, second, next(j for j in range(4) if j not in (first, second))


def test_what_was_taken_as_certified_may_have_no_locks_and_that_is_told() -> None:
    """Somebody kept them back from a replica that was away. Others have them."""
    first, second, other = attested()
    name, found = without_locks(other, attesters={first, second})
    assert found.problems == []
    assert found.remarks == [
        f"1 of {len(found.items)} entries without locks: they rest on attestations alone"
    ]
    assert name not in found.locked
    assert len(found.locked) == len(found.items) - 1
    assert [each.lost for each in find_unlocked({"a": found}, CERTIFIERS)] == [False]
    assert find_unlocked({"a": found, "b": audit(replica=first)}, CERTIFIERS) == []


def test_whoever_attested_an_entry_has_its_locks() -> None:
    """It opened the group itself, and that takes the locks."""
    first, second, _ = attested()
    name, found = without_locks(first, attesters={first, second})
    assert found.problems == [f"entry {name.hex()[:12]}: this replica attested it, and has no locks for it"]


def test_that_attesters_have_lost_the_locks_shows_when_each_denies_its_own_attestation() -> None:
    first, second, other = attested()
    states = {
        str(replica): without_locks(replica, attesters=attesters)[1]
        for replica, attesters in (
            (other, {first, second}),
            (first, {second}),
            (second, {first}),
        )
    }
    (unlocked,) = find_unlocked(states, CERTIFIERS)
    assert unlocked.lost
    assert all(each.remarks for each in states.values())


@pytest.mark.parametrize("uncertified", [False, True])
def test_an_entry_with_neither_locks_nor_enough_attestations_is_a_problem(uncertified: bool) -> None:
    """Whether or not the record says that it still waits for attestations."""
    first, _, other = attested()
    tables, blobs = state(other)
    name, record = first_item(tables)
    votes = first_item(state(first)[0])[1].votes
    record.votes, record.locks = Signatures(), Signatures()
    record.votes[first] = votes[first]
    if uncertified:
        content = LockContent(id=record.item.id, members=record.item.members)
        degree = run().federation.parameters.ring.degree
        record.entry = Entry(content=content, votes=(), secret=bytes(4 * degree))
    change(tables, name, record)
    what = f"entry {name.hex()[:12]}: attestations of 1 replicas hold, 2 are needed"
    assert audit(tables, blobs, other).problems == [what]


def test_a_state_without_any_certified_version_says_so() -> None:
    tables, blobs = state()
    tables[Table.CERTIFICATES].clear()
    found = audit(tables, blobs)
    assert found.problems == []
    assert found.remarks == [f"{len(found.items)} entries, and no version of them is certified here"]
    assert audit().remarks == []


# rosters


def roster(number: int, start: int, leave: int = 0) -> RosterStatement:
    """The operator's roster of all clients but `leave`."""
    simulation = run()
    members = simulation.federation.rosters[0].members[leave:]
    return sign_roster(simulation.operator_id, simulation.federation.digest, number, start, members).statement


def audit_rosters(*rows: tuple[bytes, bytes], file: tuple[Roster, ...] = ()) -> Audit:
    tables, blobs = state()
    tables[Table.ROSTERS] = dict(rows)
    found = audit(tables, blobs, federation=with_rosters(file))
    assert len(found.items) >= 6, "the rest is still checked"
    return found


def with_rosters(later: tuple[Roster, ...]) -> Federation:
    federation = run().federation
    return replace(federation, rosters=(*federation.rosters, *later))


def row(statement: RosterStatement) -> tuple[bytes, bytes]:
    put = put_roster(statement)
    return put.key, put.value


def test_every_roster_of_a_state_is_checked() -> None:
    before = audit().signatures
    good = audit_rosters(row(roster(1, 9)), row(roster(2, 19, leave=1)))
    assert good.problems == []
    assert good.signatures == before + 2
    assert [each.number for each in good.rosters.held] == [0, 1, 2]


def test_a_roster_that_the_operator_did_not_sign_is_found() -> None:
    unsigned = roster(1, 9).model_copy(update={"signature": bytes(64)})
    found = audit_rosters(row(unsigned))
    assert found.problems == ["roster 1: the operator did not sign roster 1"]
    assert [each.number for each in found.rosters.held] == [0]
    later = audit_rosters(row(roster(1, 9)), row(roster(2, 19).model_copy(update={"signature": bytes(64)})))
    assert later.problems == ["roster 2: the operator did not sign roster 2"]


def test_a_roster_that_cannot_be_read_is_named_and_those_after_it_are_checked() -> None:
    """By the deployment file where that has it, and else as far as signatures go."""
    garbage = (roster_key(1), b"\x93garbage")
    first = roster(1, 9)
    in_file = (Roster(1, 9, first.members, first.signature),)
    (problem,) = audit_rosters(garbage, row(roster(2, 19)), file=in_file).problems
    assert problem.startswith("roster 1: cannot be read: ")
    unsigned = roster(2, 19).model_copy(update={"signature": bytes(64)})
    assert audit_rosters(garbage, row(unsigned)).problems[1:] == [
        "roster 2: the operator did not sign roster 2"
    ]
    wrong_place = audit_rosters((roster_key(1), roster(2, 19).encode()))
    assert wrong_place.problems == ["roster 1: has the content of roster 2"]


def test_two_rosters_of_one_number_are_found_in_the_file_and_in_another_state() -> None:
    one, other = roster(1, 9), roster(1, 11)
    in_file = (Roster(1, 11, other.members, other.signature),)
    (problem,) = audit_rosters(row(one), file=in_file).problems
    assert problem.startswith("roster 1 of the deployment file: the operator signed two rosters 1")
    states = {"a": audit_rosters(row(one)), "b": audit_rosters(row(other)), "c": audit_rosters(row(one))}
    assert all(each.problems == [] for each in states.values())
    (difference,) = find_differences(states)
    assert difference == "roster 1: the operator signed two; a and b hold one each"
