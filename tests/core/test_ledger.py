"""A grow-only set whose versions name subsets, whatever the order of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncfl.ledger
from asyncfl.digest import digest
from asyncfl.errors import LocalProtocolError
from asyncfl.exclusions import Exclusion
from asyncfl.ledger import Items, Ledger, Link, compute_chain
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
    link, rows = ledger.head.recent(2, 99)
    assert [row.epoch for row in rows] == [5, 8]
    assert compute_chain(link.chain, rows) == ledger.version
    link, rows = ledger.head.recent(99, 99)
    assert (link.chain, len(rows)) == (ledger.origin, 5)


def test_recent_rows_are_fewer_where_they_have_many_entries() -> None:
    ledger = fill(ITEMS)
    sizes = [len(row.items) for row in ledger.rows()]
    for entries in range(sum(sizes) + 1):
        link, rows = ledger.head.recent(99, entries)
        assert link.entries + sum(len(row.items) for row in rows) == len(ITEMS)
        assert len(rows) == max(n for n in range(len(sizes) + 1) if sum(sizes[len(sizes) - n :]) <= entries)


@given(st.sets(st.sampled_from(ITEMS), min_size=1), st.integers(0, 4))
def test_a_version_of_another_replica_is_what_its_own_ledger_would_be(items: set[Item], kept: int) -> None:
    """Whatever is not in it here: equal links of the same entries, members, sums and rows."""
    ledger, other = fill(ITEMS), fill(list(items))
    base, rows = other.head.recent(kept, 99)
    older = ledger.extended(ledger.start, other.rows(last=base.epoch))
    assert older is not None
    head = ledger.extended(older, rows)
    assert head is not None
    assert (head.chain, head.entries) == (other.version, len(items))
    assert head.memberships == sum(len(item.members) for item in items)
    assert [(link.row, link.items) for link in head.back()] == [
        (link.row, link.items) for link in other.head.back()
    ]
    assert (head is ledger.head) == (len(items) == len(ITEMS))
    for item in ITEMS:
        assert head.contains(item.digest(), item.id.epoch) == (item in items)


@given(st.sets(st.sampled_from(ITEMS)), st.sets(st.sampled_from(ITEMS)))
def test_a_version_includes_those_of_fewer_of_its_entries(one: set[Item], other: set[Item]) -> None:
    assert fill(list(one)).head.includes(fill(list(other)).head) == (other <= one)


def test_rows_that_list_an_item_twice_out_of_order_or_elsewhere_are_no_version() -> None:
    ledger = fill(ITEMS)
    row = max(ledger.rows(), key=lambda row: len(row.items))
    assert len(row.items) > 1
    (good,) = [each for each in ledger.rows() if each == row]
    assert ledger.extended(ledger.start, [good]) is not None
    doubled = (row.items[0], *row.items)
    for wrong in (
        row.model_copy(update={"items": doubled}),
        row.model_copy(update={"items": row.items[::-1]}),
        row.model_copy(update={"epoch": row.epoch + 1}),
    ):
        assert ledger.extended(ledger.start, [wrong]) is None


class Counted(Items):
    """Counts the items that are decoded."""

    decoded = 0

    def __getitem__(self, name: bytes) -> Item:
        self.decoded += 1
        return super().__getitem__(name)


def test_a_ledger_that_is_read_back_computes_its_chain_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items come in the order of their digests: each would have all rows after its own computed anew."""
    rows, hashes = 250, 0
    items = [make_item(epoch, cell) for epoch in range(1, rows + 1) for cell in range(4)]
    version = fill(items).version

    def counting(*parts: bytes) -> bytes:
        nonlocal hashes
        hashes += 1
        return digest(*parts)

    shuffled = fill([])
    monkeypatch.setattr(asyncfl.ledger, "digest", counting)
    for item in sorted(items, key=Item.digest):
        shuffled.add(item)
    assert shuffled.version == version
    assert hashes == rows


def test_a_new_version_costs_its_changed_rows_and_not_the_whole_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hashes of rows, in a ledger of 250 rows of four entries; no item is decoded."""
    rows = 250
    items = [make_item(epoch, cell) for epoch in range(1, rows + 1) for cell in range(4)]
    ledger, other = fill(items), fill(items[:-1])
    counted = Counted()
    counted.update({item.digest(): item for item in items})
    ledger.items = counted
    assert ledger.version != other.version
    hashes = 0

    def counting(*parts: bytes) -> bytes:
        nonlocal hashes
        hashes += 1
        return digest(*parts)

    monkeypatch.setattr(asyncfl.ledger, "digest", counting)
    ledger.add(make_item(rows, 9))
    assert ledger.head.entries == len(items) + 1
    assert hashes == 1
    ledger.add(make_item(rows - 3, 9))
    assert ledger.head.entries == len(items) + 2
    assert hashes == 1 + 4
    hashes = 0
    base, recent = other.head.recent(12, 99)
    head = ledger.extended(ledger.link_before(base.epoch + 1), recent)
    assert head is not None
    assert head.chain == other.version
    assert hashes == 12
    ledger.exclude(Exclusion(1, bytes(32), frozenset(), frozenset({bytes([2]) * 32}), ((5, 9),)))
    assert ledger.counted_head.entries == 3 * (rows - 5) + 2
    assert counted.decoded == 0


def test_a_long_chain_is_let_go_without_recursion() -> None:
    link = Link(0, DEPLOYMENT)
    for epoch in range(1, 100_000):
        link = Link(epoch, DEPLOYMENT, before=link)
    del link


def test_missing_names_just_what_is_not_held() -> None:
    ledger, more = fill(ITEMS[:7]), fill(ITEMS)
    assert set(ledger.missing(more.rows())) == {item.digest() for item in ITEMS[7:]}


def test_inclusion_counts_memberships() -> None:
    ledger = fill([make_item(1, 0, clients=(1, 2)), make_item(2, 1, clients=(2, 3))])
    assert ledger.counts == {bytes([1]) * 32: 1, bytes([2]) * 32: 2, bytes([3]) * 32: 1}
