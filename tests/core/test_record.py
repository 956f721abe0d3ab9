"""Every certified version can be taken from the book again, whatever came late and however often the node restarted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.errors import MalformedMessage
from asyncfl.ledger import Ledger, Link
from asyncfl.messages import Certificate, Item, Row, Vote
from asyncfl.record import RecordBook, VersionRecord, read_versions
from tests.core.test_ledger import DEPLOYMENT, ITEMS, fill


def certificate(head: Link) -> Certificate:
    vote = Vote(replica=0, signature=bytes(64))
    return Certificate(version=head.chain, entries=head.entries, model=bytes(32), votes=(vote,))


@given(st.permutations(ITEMS), st.lists(st.integers(0, len(ITEMS)), max_size=6), st.data())
def test_versions_are_found_again(items: list[Item], restarts: list[int], data: st.DataObject) -> None:
    ledger, rows, heads = Ledger(DEPLOYMENT), dict[bytes, bytes](), list[Link]()
    book = RecordBook(ledger)
    for count, item in enumerate(items):
        if count in restarts:
            ledger = fill(items[:count])
            book = RecordBook(ledger)
            book.load(rows)
        ledger.add(item)
        if data.draw(st.booleans()):
            head = ledger.head
            put = book.put(head, certificate(head), bytes(32), 1.5 * count)
            rows[put.key] = put.value
            heads.append(head)
    found = list(read_versions(rows, fill(items)))
    links = [version.link for version in found if version.link is not None]
    assert [link.chain for link in links] == [head.chain for head in heads]
    assert [link.entries for link in links] == [head.entries for head in heads]
    assert [version.record.certificate.version for version in found] == [head.chain for head in heads]


def test_a_version_costs_the_rows_that_changed() -> None:
    ledger = Ledger(DEPLOYMENT)
    book = RecordBook(ledger)
    sizes = []
    for item in ITEMS:
        ledger.add(item)
        record = VersionRecord.decode(book.put(ledger.head, certificate(ledger.head), bytes(32), 0.0).value)
        sizes.append(len(record.rows))
    assert set(sizes) == {1}


def test_what_is_no_record_is_refused() -> None:
    ledger = fill(ITEMS)
    value = RecordBook(ledger).put(ledger.head, certificate(ledger.head), bytes(32), 0.0).value
    for wrong in (b"", value[:-1], value + b"x", b"\x95\x01\x02\x03\x04\x05"):
        with pytest.raises(MalformedMessage):
            VersionRecord.decode(wrong)


def test_a_version_of_more_rows_than_a_message_may_have_elements_is_read_back() -> None:
    """A version is written down whole where the one before is not found, after a late entry and a restart."""
    rows = tuple(Row(epoch=epoch, items=(bytes(32),)) for epoch in range(1, 12_001))
    written = VersionRecord(certificate(fill(ITEMS).head), bytes(32), 0.0, bytes(32), rows)
    assert VersionRecord.decode(written.encode()) == written
