"""What is kept of every certified version, so that its model can be computed and its certificate checked for ever.

A ledger forgets which entries an old version had: a late entry changes its rows. So each certified version is written
down with the rows in which it differs from one written before, by the chain value up to which they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from asyncfl.effects import Put, Table
from asyncfl.errors import MalformedMessage
from asyncfl.ledger import Ledger, Link, Rows
from asyncfl.messages import Certificate, Row
from asyncfl.wire import MAX_MESSAGE_BYTES, pack, unpack

MAX_RECORD_BYTES = 64 * MAX_MESSAGE_BYTES
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One certified version: its rows are those up to the chain value `base`, and then `rows`."""

    certificate: Certificate
    exclusion: bytes
    """Digest of the operator's statement under which the model was computed; zeros where there was none."""
    at: float
    """When this replica had the certificate: seconds since 1970 by its own clock."""
    base: bytes
    rows: Rows

    def encode(self) -> bytes:
        rows = tuple((row.epoch, b"".join(row.items)) for row in self.rows)
        return pack((self.certificate.encode(), self.exclusion, self.at, self.base, rows))

    @classmethod
    def decode(cls, value: bytes) -> VersionRecord:
        """Raises `MalformedMessage`."""
        try:
            # Our own disk's: a version written down whole has as many rows as training had epochs.
            certificate, exclusion, at, base, rows = unpack(
                value, limit=MAX_RECORD_BYTES, elements=MAX_RECORD_BYTES
            )
            decoded = tuple(Row(epoch=epoch, items=_split(items)) for epoch, items in rows)
            return cls(Certificate.decode(certificate), bytes(exclusion), float(at), bytes(base), decoded)
        except (TypeError, ValueError) as error:
            raise MalformedMessage(f"not the record of a certified version: {error}") from None


def _split(items: bytes) -> tuple[bytes, ...]:
    return tuple(items[at : at + DIGEST_BYTES] for at in range(0, len(items), DIGEST_BYTES))


def record_key(number: int) -> bytes:
    """Key of a row of `Table.CERTIFICATES`: numbers ascend from 0, as versions were certified here."""
    return number.to_bytes(8, "big")


class RecordBook:
    """Writes down certified versions, each with what it does not share with the one before."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._written = ledger.start
        self._number = 0

    def load(self, rows: Mapping[bytes, bytes]) -> None:
        """Go on after what is on disk in `Table.CERTIFICATES`. The ledger must be loaded."""
        if not rows:
            return
        last = max(rows)
        self._number = int.from_bytes(last, "big") + 1
        record = VersionRecord.decode(rows[last])
        base = next((link for link in self._ledger.head.back() if link.chain == record.base), None)
        # A base that a late entry has renamed since is not looked for: the next version is written down whole.
        if base is not None:
            self._written = _extended(base, record.rows, self._ledger)

    def put(self, head: Link, certificate: Certificate, exclusion: bytes, at: float) -> Put:
        """The row for a version whose last link is `head`."""
        base, rows = compute_difference(head, self._written)
        record = VersionRecord(certificate, exclusion, at, base.chain, rows)
        put = Put(Table.CERTIFICATES, record_key(self._number), record.encode())
        self._written, self._number = head, self._number + 1
        return put


def compute_difference(head: Link, other: Link) -> tuple[Link, Rows]:
    """The last link that both versions share, and the rows of `head` after it."""
    rows: list[Row] = []
    while head.chain != other.chain:
        if head.epoch >= other.epoch:
            if head.row is None or head.before is None:
                break
            rows.append(head.row)
            head = head.before
        elif other.before is not None:
            other = other.before
    return head, tuple(reversed(rows))


def _extended(base: Link, rows: Iterable[Row], ledger: Ledger) -> Link:
    for row in rows:
        base = base.after(row, ledger.items)
    return base


@dataclass(frozen=True, slots=True)
class Version:
    """A certified version that was written down, and what it consists of."""

    record: VersionRecord
    link: Link | None
    """Its last row, with all before it; None where the ledger here lacks an entry of it, or its rows are no version."""


def read_versions(rows: Mapping[bytes, bytes], ledger: Ledger) -> Iterator[Version]:
    """What is on disk in `Table.CERTIFICATES`, in order. Raises `MalformedMessage`."""
    links = {ledger.start.chain: ledger.start}
    for key in sorted(rows):
        record = VersionRecord.decode(rows[key])
        base = links.get(record.base)
        head = None
        if base is not None and not ledger.missing(record.rows):
            head = ledger.extended(base, record.rows)
        for link in () if head is None else head.back():
            if link.chain in links:
                break
            links[link.chain] = link
        yield Version(record, head)
