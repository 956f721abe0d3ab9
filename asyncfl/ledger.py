"""The grow-only set of opened groups, and the versions that name its subsets.

Row e holds the entries of epoch e. The *chain value* after a row is the digest of everything up to it, so
that a chain value names a set of items, and an unchanged past keeps its name when a late entry arrives:

    chain_0 = H("ledger", deployment),   chain_e = H(chain_before, e, sorted item digests of row e)

The chain value after the last row names the set (protocol section 6). Beside the chain of all entries runs that of
those which *count*: it leaves out what the operator excluded, as if it had never been there, and is what the fold is
given. Without exclusions both are the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter

from asyncfl.digest import digest
from asyncfl.errors import LocalProtocolError
from asyncfl.exclusions import Exclusion
from asyncfl.kept import Kept
from asyncfl.messages import GroupId, Item, Row

Rows = tuple[Row, ...]


def compute_chain(start: bytes, rows: Iterable[Row]) -> bytes:
    """The chain value after `rows`, which must ascend in epoch."""
    chain = start
    for row in rows:
        chain = digest("asyncfl/1/row", chain, row.epoch.to_bytes(8, "little"), *row.items)
    return chain


def is_ordered(row: Row) -> bool:
    """Whether a row names its items in order, each once."""
    return all(first < second for first, second in pairwise(row.items))


def compute_origin(deployment: bytes) -> bytes:
    """The version of the empty ledger."""
    return digest("asyncfl/1/ledger", deployment)


class Items(Kept[bytes, Item]):
    """Items by digest, and what the chain asks of thousands of them without decoding any."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        super().__init__(bytes, Item)
        self.members: dict[bytes, int] = {}
        """How many members each has."""

    def __setitem__(self, name: bytes, item: Item) -> None:
        super().__setitem__(name, item)
        self.members[name] = len(item.members)


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """The chain after one row: with all links before it, a version and all that the fold needs of it.

    Versions share the links of their common past, so that a new one costs no more than its changed rows.
    """

    epoch: int
    chain: bytes
    entries: int = 0
    """Entries of this and all earlier rows."""
    memberships: int = 0
    """Members of all these entries."""
    row: Row | None = None
    encoded: tuple[bytes, ...] = ()
    """The entries of the row, in its order: the ledger's own bytes."""
    before: Link | None = field(default=None, repr=False)

    @property
    def items(self) -> tuple[Item, ...]:
        """The entries of the row, in its order."""
        return tuple(map(Item.decode, self.encoded))

    @property
    def members(self) -> int:
        """Members of the entries of the row."""
        return self.memberships - (0 if self.before is None else self.before.memberships)

    def after(self, row: Row, items: Items) -> Link:
        """The link after one more row, whose items must be in `items`."""
        return Link(
            row.epoch,
            compute_chain(self.chain, (row,)),
            self.entries + len(row.items),
            self.memberships + sum(items.members[name] for name in row.items),
            row,
            tuple(map(items.encoded, row.items)),
            self,
        )

    def back(self) -> Iterator[Link]:
        """This link and those before it, the newest first; the origin, which has no row, is left out."""
        link: Link | None = self
        while link is not None and link.row is not None:
            yield link
            link = link.before

    def recent(self, count: int, entries: int) -> tuple[Link, Rows]:
        """The last `count` rows, fewer where these have more than so many entries; and the link before them."""
        rows: list[Row] = []
        link = self
        while link.before is not None and link.row is not None and len(rows) < count:
            if self.entries - link.before.entries > entries:
                break
            rows.append(link.row)
            link = link.before
        return link, tuple(reversed(rows))

    def rows(self, first: int) -> Rows:
        """Rows of this version from epoch `first` on, ascending."""
        found = [link.row for link in self.back() if link.row is not None and link.epoch >= first]
        return tuple(reversed(found))

    def contains(self, name: bytes, epoch: int) -> bool:
        """Whether the item `name`, of row `epoch`, is in this version."""
        for link in self.back():
            if link.epoch <= epoch:
                return link.epoch == epoch and link.row is not None and name in link.row.items
        return False

    def includes(self, other: Link) -> bool:
        """Whether every entry of the version `other` is in this one. Costs the rows that differ."""
        link = self
        for theirs in other.back():
            while link.before is not None and link.epoch > theirs.epoch:
                link = link.before
            if link.chain == theirs.chain:
                return True
            if link.epoch != theirs.epoch or link.row is None or theirs.row is None:
                return False
            if not set(link.row.items).issuperset(theirs.row.items):
                return False
        return True


class Ledger:
    """The items one replica holds."""

    def __init__(self, deployment: bytes) -> None:
        self.origin = compute_origin(deployment)
        self.items = Items()
        self.by_id = Kept[GroupId, bytes](GroupId, bytes)
        self.included: dict[tuple[bytes, int], bytes] = {}
        """(client, epoch) of every upload in an entry, and that entry's item digest."""
        self.counts: dict[bytes, int] = {}
        self.row_members: dict[int, int] = {}
        """Members present in each row, by epoch."""
        self._rows: dict[int, list[bytes]] = {}
        self._frozen: dict[int, Row] = {}
        self._epochs: list[int] = []
        self._links: list[Link] = []
        self._counted: list[Link] = []
        """Links of the entries that count: rows of which none does have none."""
        self._outdated: int | None = None
        """The row from which on both wait to be computed anew: when somebody looks, not for each item."""
        self.exclusion = Exclusion()
        self._of_excluded: set[bytes] = set()
        """Entries with a member who is excluded."""
        self.start = Link(0, self.origin)
        """Before the first row."""

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
            if member.client in self.exclusion.clients:
                self._of_excluded.add(name)
            self.included[member.client, member.epoch] = name
            self.counts[member.client] = self.counts.get(member.client, 0) + 1
        epoch = item.id.epoch
        if epoch not in self._rows:
            self._rows[epoch] = []
            insort(self._epochs, epoch)
        insort(self._rows[epoch], name)
        self.row_members[epoch] = self.row_members.get(epoch, 0) + len(item.members)
        self._frozen[epoch] = Row(epoch=epoch, items=tuple(self._rows[epoch]))
        self._outdated = epoch if self._outdated is None else min(epoch, self._outdated)
        return True

    def _relink(self) -> None:
        """Recompute the chain of all items and of what counts, from the first row on that has changed."""
        if self._outdated is None:
            return
        first, self._outdated = self._outdated, None
        while self._links and self._links[-1].epoch >= first:
            self._links.pop()
        link = self.head
        for epoch in self._epochs[len(self._links) :]:
            link = link.after(self._frozen[epoch], self.items)
            self._links.append(link)
        self._recount(first)

    def _recount(self, first: int) -> None:
        """Recompute the chain of what counts from row `first` on."""
        while self._counted and self._counted[-1].epoch >= first:
            self._counted.pop()
        counted = self.counted_head
        for link in self._links[_count_before(self._links, first) :]:
            row = None if link.row is None else self._counting(link.row)
            if row is not None:
                is_same = link.before is counted and row is link.row
                counted = link if is_same else counted.after(row, self.items)
                self._counted.append(counted)

    def exclude(self, exclusion: Exclusion) -> None:
        """From now on the model leaves out what `exclusion` says, and nothing else."""
        self._relink()
        self.exclusion = exclusion
        out = exclusion.clients
        self._of_excluded = (
            {name for (client, _), name in self.included.items() if client in out} if out else set()
        )
        self._recount(0)

    def _counting(self, row: Row) -> Row | None:
        """A row without the entries that are excluded; None if that leaves nothing."""
        exclusion = self.exclusion
        if exclusion.is_empty:
            return row
        if exclusion.covers(row.epoch):
            return None
        out, of = exclusion.entries, self._of_excluded
        names = tuple(name for name in row.items if name not in out and name not in of)
        if len(names) == len(row.items):
            return row
        return Row(epoch=row.epoch, items=names) if names else None

    def members_in(self, first: int, end: int) -> int:
        """Memberships in rows with first <= epoch < end."""
        return sum(count for epoch, count in self.row_members.items() if first <= epoch < end)

    @property
    def head(self) -> Link:
        """The version of all items held."""
        self._relink()
        return self._links[-1] if self._links else self.start

    @property
    def counted_head(self) -> Link:
        """All items held that count."""
        self._relink()
        return self._counted[-1] if self._counted else self.start

    def counted(self, head: Link) -> Link:
        """What counts of a version, all of whose items are held."""
        changed, base = list[Row](), self.start
        for link in head.back():
            if self.link_before(link.epoch + 1).chain == link.chain:
                base = _last(self._counted, link.epoch + 1, self.start)
                break
            if link.row is not None:
                changed.append(link.row)
        for row in map(self._counting, reversed(changed)):
            if row is not None:
                base = base.after(row, self.items)
        return base

    @property
    def version(self) -> bytes:
        """The chain value after the last row: names the set of all items held."""
        return self.head.chain

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
        self._relink()
        return _last(self._links, epoch, self.start)

    def extended(self, base: Link, rows: Iterable[Row]) -> Link | None:
        """The version of `base` and then `rows`, whose items must all be held: this ledger's own if it is that.

        None unless every row holds items of its own epoch, each once, in order: a version names a set, and an
        entry listed twice would count twice in the model.
        """
        for row in rows:
            if not is_ordered(row) or not self.holds_in_row(row):
                return None
            base = base.after(row, self.items)
        own = self.link_before(base.epoch + 1)
        return own if own.chain == base.chain else base

    def holds_in_row(self, row: Row) -> bool:
        """Whether all items of `row` are held here, as items of its epoch."""
        held = self._rows.get(row.epoch, [])
        at = [bisect_left(held, name) for name in row.items]
        return all(held[i : i + 1] == [name] for i, name in zip(at, row.items, strict=True))

    def missing(self, rows: Sequence[Row]) -> list[bytes]:
        """Item digests of `rows` that this ledger lacks."""
        return [name for row in rows for name in row.items if name not in self.items]


def _last(links: Sequence[Link], epoch: int, start: Link) -> Link:
    """The last of `links` before `epoch`, `start` without one."""
    count = _count_before(links, epoch)
    return links[count - 1] if count else start


def _count_before(links: Sequence[Link], epoch: int) -> int:
    """How many of `links`, which ascend, are of an earlier epoch."""
    return bisect_left(links, epoch, key=attrgetter("epoch"))
