"""The grow-only set of opened groups, and the versions that name its subsets.

Row e holds the entries of epoch e. The *chain value* after a row is the digest of everything up to it, so
that a chain value names a set of items, and an unchanged past keeps its name when a late entry arrives:

    chain_0 = H("ledger", deployment),   chain_e = H(chain_before, e, sorted item digests of row e)

The version of a set is the chain value after its last row (protocol section 6).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asyncfl.digest import digest
from asyncfl.errors import LocalProtocolError
from asyncfl.messages import GroupId, Item, Row

Rows = tuple[Row, ...]


def compute_chain(start: bytes, rows: Iterable[Row]) -> bytes:
    """The chain value after `rows`, which must ascend in epoch."""
    chain = start
    for row in rows:
        chain = digest("asyncfl/1/row", chain, row.epoch.to_bytes(8, "little"), *row.items)
    return chain


def compute_origin(deployment: bytes) -> bytes:
    """The version of the empty ledger."""
    return digest("asyncfl/1/ledger", deployment)


@dataclass(frozen=True, slots=True)
class Link:
    """The chain after one row."""

    epoch: int
    chain: bytes
    entries: int
    """Entries of this and all earlier rows."""


class Ledger:
    """The items one replica holds."""

    def __init__(self, deployment: bytes) -> None:
        self.origin = compute_origin(deployment)
        self.items: dict[bytes, Item] = {}
        self.by_id: dict[GroupId, bytes] = {}
        self.included: dict[tuple[bytes, int], bytes] = {}
        """(client, epoch) of every upload in an entry, and that entry's item digest."""
        self.counts: dict[bytes, int] = {}
        self.row_members: dict[int, int] = {}
        """Members present in each row, by epoch."""
        self._rows: dict[int, list[bytes]] = {}
        self._frozen: dict[int, Row] = {}
        self._epochs: list[int] = []
        self._links: list[Link] = []

    def add(self, item: Item) -> bool:
        """Add a verified item; False if it is there already.

        Raises `LocalProtocolError` when it contradicts an item held: the lock round makes that impossible
        while at most t replicas are Byzantine.
        """
        name = item.digest()
        if name in self.items:
            return False
        if item.id in self.by_id:
            raise LocalProtocolError(f"two different entries for {item.id}")
        clash = [m for m in item.members if (m.client, m.epoch) in self.included]
        if clash:
            raise LocalProtocolError(f"an upload of epoch {clash[0].epoch} would be opened twice")
        self.items[name] = item
        self.by_id[item.id] = name
        for member in item.members:
            self.included[member.client, member.epoch] = name
            self.counts[member.client] = self.counts.get(member.client, 0) + 1
        epoch = item.id.epoch
        if epoch not in self._rows:
            self._rows[epoch] = []
            insort(self._epochs, epoch)
        insort(self._rows[epoch], name)
        self.row_members[epoch] = self.row_members.get(epoch, 0) + len(item.members)
        self._frozen[epoch] = Row(epoch=epoch, items=tuple(self._rows[epoch]))
        self._relink(epoch)
        return True

    def _relink(self, first: int) -> None:
        """Recompute the chain from row `first` on."""
        while self._links and self._links[-1].epoch >= first:
            self._links.pop()
        chain, entries = (self._links[-1].chain, self._links[-1].entries) if self._links else (self.origin, 0)
        for epoch in self._epochs[len(self._links) :]:
            row = self._frozen[epoch]
            chain, entries = compute_chain(chain, (row,)), entries + len(row.items)
            self._links.append(Link(epoch, chain, entries))

    def members_in(self, first: int, end: int) -> int:
        """Memberships in rows with first <= epoch < end."""
        return sum(count for epoch, count in self.row_members.items() if first <= epoch < end)

    @property
    def version(self) -> bytes:
        return self._links[-1].chain if self._links else self.origin

    @property
    def entries(self) -> int:
        return len(self.items)

    @property
    def last_epoch(self) -> int:
        """Highest epoch with an entry, 0 if there is none."""
        return self._epochs[-1] if self._epochs else 0

    def rows(self, first: int = 1, last: int | None = None) -> Rows:
        """Non-empty rows with first <= epoch <= last, ascending."""
        return tuple(
            self._frozen[epoch]
            for epoch in self._epochs
            if epoch >= first and (last is None or epoch <= last)
        )

    def link_before(self, epoch: int) -> Link:
        """The chain over all rows before `epoch`."""
        for link in reversed(self._links):
            if link.epoch < epoch:
                return link
        return Link(0, self.origin, 0)

    def recent(self, count: int) -> tuple[Link, Rows]:
        """The last `count` rows, and the chain before them."""
        if len(self._epochs) <= count:
            return Link(0, self.origin, 0), self.rows()
        first = self._epochs[-count]
        return self.link_before(first), self.rows(first)

    def missing(self, rows: Sequence[Row]) -> list[bytes]:
        """Item digests of `rows` that this ledger lacks."""
        return [name for row in rows for name in row.items if name not in self.items]
