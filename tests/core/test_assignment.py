"""The shuffle is Ethereum's, bit for bit, and cells are what the protocol says."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.assignment import (
    Assignment,
    compute_cells,
    compute_coordinator,
    compute_shuffled_index,
    compute_shuffled_positions,
)
from asyncfl.errors import InvalidItem
from asyncfl.federation import Roster
from tests.core.builders import make_federation

VECTORS = Path(__file__).parent.parent / "vectors" / "swap_or_not_sha256_90.csv"


def vectors() -> list[tuple[bytes, int, list[int], list[int]]]:
    rows = []
    with VECTORS.open() as file:
        for seed, size, before, after in csv.reader(file):
            rows.append(
                (
                    bytes.fromhex(seed), int(size),
                    [int(x) for x in before.split(":") if x], [int(x) for x in after.split(":") if x],
                )
            )  # fmt: skip
    return rows


def test_the_public_vectors_hold() -> None:
    rows = vectors()
    assert len(rows) > 100
    for seed, size, before, after in rows:
        positions = [compute_shuffled_index(i, size, seed) for i in range(size)]
        inverse = [0] * size
        for index, position in enumerate(positions):
            inverse[position] = index
        assert [before[x] for x in inverse] == after


@given(st.integers(1, 600), st.binary(min_size=32, max_size=32))
def test_all_at_once_is_one_by_one(count: int, seed: bytes) -> None:
    positions = compute_shuffled_positions(count, seed)
    assert sorted(positions) == list(range(count))
    for index in {0, count // 2, count - 1}:
        assert positions[index] == compute_shuffled_index(index, count, seed)


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="not in"):
        compute_shuffled_index(index, 5, bytes(32))


@given(st.integers(1, 200), st.integers(1, 40), st.binary(min_size=32, max_size=32))
def test_cells_cover_the_roster_evenly(count: int, size: int, seed: bytes) -> None:
    size = min(size, count)
    roster = Roster(0, 1, tuple(i.to_bytes(32, "big") for i in range(count)))
    cells = compute_cells(roster, size, seed)
    assert len(cells) == max(1, count // size)
    sizes = [len(cell) for cell in cells]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(client for cell in cells for client in cell) == list(roster.members)


def test_cells_change_with_the_epoch_and_the_deployment() -> None:
    federation, another = make_federation(clients=16), make_federation(clients=16, seed=1)
    one, other, roster = Assignment(federation), Assignment(another), federation.rosters[0]
    assert one.cells(roster, 1) != one.cells(roster, 2)
    assert {c for cell in one.cells(roster, 1) for c in cell} == set(roster.members)
    assert [len(cell) for cell in one.cells(roster, 3)] == [4, 4, 4, 4]
    assert one.cells(roster, 1) != other.cells(roster, 1)


def test_cells_change_with_the_roster() -> None:
    federation = make_federation(clients=16)
    assignment, roster = Assignment(federation), federation.rosters[0]
    again = Roster(1, 9, roster.members)
    assert assignment.cells(roster, 9) != assignment.cells(again, 9)
    fewer = Roster(1, 9, roster.members[1:])
    assert {c for cell in assignment.cells(fewer, 9) for c in cell} == set(roster.members[1:])


def test_a_stranger_has_no_cell() -> None:
    federation = make_federation(clients=4)
    with pytest.raises(InvalidItem, match="not in roster 0"):
        Assignment(federation).cell_of(bytes(32), federation.rosters[0], 1)


def test_the_line_goes_once_round_all_replicas() -> None:
    assert Assignment(make_federation(clients=16)).line(2) == (2, 3, 0, 1)


@pytest.mark.parametrize("cell", [0, 1, 6])
@pytest.mark.parametrize("replicas", [1, 4, 7, 16])
def test_a_cell_goes_round_all_replicas(replicas: int, cell: int) -> None:
    """A cell that stayed with one replica would be a malicious one's for ever."""
    owners = [compute_coordinator(epoch, cell, replicas) for epoch in range(5, 5 + 2 * replicas)]
    assert sorted(owners[:replicas]) == list(range(replicas))
    assert owners[replicas:] == owners[:replicas]


@pytest.mark.parametrize("replicas", [1, 4, 7, 16])
def test_the_cells_of_an_epoch_are_spread_over_the_replicas(replicas: int) -> None:
    owners = [compute_coordinator(9, cell, replicas) for cell in range(2 * replicas + 1)]
    counts = [owners.count(replica) for replica in range(replicas)]
    assert max(counts) - min(counts) <= 1
