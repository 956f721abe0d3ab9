"""A grow-only set whose versions name subsets, whatever the order of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.errors import LocalProtocolError
from asyncfl.ledger import Ledger, compute_chain
from asyncfl.messages import GroupId, Item, Member

DEPLOYMENT = bytes(32)


def make_item(
    epoch: int, cell: int, *, clients: tuple[int, ...] = (), opened: int = 0, part: int = 0
) -> Item:
    members = clients or (cell,)
    return Item(
        id=GroupId(epoch=epoch, cell=cell, coordinator=cell % 4, part=part),
        members=tuple(
            Member(client=bytes([client]) * 32, epoch=epoch, manifest=bytes([client, epoch] * 16))
            for client in members
        ),
        opened=bytes([opened]) * 32,
    )


ITEMS = [make_item(epoch, cell) for epoch in (1, 2, 3, 5, 8) for cell in range(4)]


def fill(items: list[Item]) -> Ledger:
    ledger = Ledger(DEPLOYMENT)
    for item in items:
        assert ledger.add(item)
    return ledger


@given(st.permutations(ITEMS))
def test_the_version_does_not_depend_on_the_order_of_arrival(items: list[Item]) -> None:
    assert fill(items).version == fill(ITEMS).version


@given(st.sets(st.sampled_from(ITEMS)), st.sets(st.sampled_from(ITEMS)))
def test_versions_are_equal_just_for_equal_sets(one: set[Item], other: set[Item]) -> None:
    assert (fill(list(one)).version == fill(list(other)).version) == (one == other)


@given(st.permutations(ITEMS), st.integers(1, 9))
def test_the_chain_before_a_row_is_the_chain_of_the_rows_before(items: list[Item], epoch: int) -> None:
    ledger = fill(items)
    link = ledger.link_before(epoch)
    rows = ledger.rows(last=epoch - 1)
    assert link.chain == compute_chain(ledger.origin, rows)
    assert link.entries == sum(len(row.items) for row in rows)
    assert compute_chain(link.chain, ledger.rows(epoch)) == ledger.version


def test_an_item_is_added_once() -> None:
    ledger = fill(ITEMS)
    assert not ledger.add(ITEMS[0])
    assert ledger.entries == len(ITEMS)


def test_another_content_under_the_same_id_is_an_error() -> None:
    ledger = fill([make_item(1, 0)])
    with pytest.raises(LocalProtocolError, match="two different entries"):
        ledger.add(make_item(1, 0, opened=9))


def test_an_upload_opened_twice_is_an_error() -> None:
    ledger = fill([make_item(1, 0, clients=(1, 2, 3))])
    with pytest.raises(LocalProtocolError, match="opened twice"):
        ledger.add(make_item(1, 1, clients=(3, 4)))


def test_recent_rows_and_what_comes_before_them_make_the_whole() -> None:
    ledger = fill(ITEMS)
    link, rows = ledger.recent(2)
    assert [row.epoch for row in rows] == [5, 8]
    assert compute_chain(link.chain, rows) == ledger.version
    link, rows = ledger.recent(99)
    assert (link.chain, len(rows)) == (ledger.origin, 5)


def test_missing_names_just_what_is_not_held() -> None:
    ledger, more = fill(ITEMS[:7]), fill(ITEMS)
    assert set(ledger.missing(more.rows())) == {item.digest() for item in ITEMS[7:]}


def test_inclusion_counts_memberships() -> None:
    ledger = fill([make_item(1, 0, clients=(1, 2)), make_item(2, 1, clients=(2, 3))])
    assert ledger.counts == {bytes([1]) * 32: 1, bytes([2]) * 32: 2, bytes([3]) * 32: 1}
