"""Anti-entropy: replicas show each other which rows they hold, and pull what they lack.

A VIEW names a set of items exactly: a chain value over old rows, and the recent rows item by item. Where the
old parts differ, full rows are requested in pages.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from asyncfl.ledger import Link, Rows, compute_chain, is_ordered
from asyncfl.messages import Row, RowsRequest, View
from asyncfl.messages import Rows as RowsMessage
from asyncfl.messages.replicas import MAX_ROW_ITEMS
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.items import Items

RECENT_ROWS = 12
RECENT_ITEMS = 6 * MAX_ROW_ITEMS
"""Of these rows together: a VIEW must fit into a message."""
PAGE_ROWS = 128
PAGE_ITEMS = 8192
KEEP_BASES = 64
ASK_AHEAD = 1024
"""Of the items that a replica shows and that are not held, so many are looked at to ask for."""
ANSWER_SECONDS = 3 * RESEND_SECONDS
"""A page that has not come by then is not waited for: its version may be forgotten."""


@dataclass(slots=True)
class PeerRows:
    """What is known of another replica's ledger at one version."""

    version: bytes
    base: bytes
    base_epoch: int
    recent: Rows
    entries: int
    lacking: deque[bytes]
    """Its items that were not held when they were shown, less those at the front that came since."""
    older: Rows | None = None
    """The rows inside `base`, where this ledger's own differ and pages have given them."""
    pages: list[Row] = field(default_factory=list)
    awaited: int = 0
    """First epoch of the page that was asked for, 0 if none is."""
    asked_at: float = float("-inf")
    following: int = 0
    """First epoch of the next page, to be asked for once all items of these are held; 0 if there is none."""
    malformed: bool = False
    """Its rows, or those inside `base`, are no version."""

    def lacks(self, held: Mapping[bytes, object]) -> bool:
        """Whether an item that was shown is not held. Asked at every event, about names that may not exist."""
        while self.lacking and self.lacking[0] in held:
            self.lacking.popleft()
        return bool(self.lacking)

    def next_lacking(self, held: Mapping[bytes, object]) -> list[bytes]:
        """Items to ask for: the first that were shown and are not held."""
        self.lacks(held)
        return [name for name in islice(self.lacking, ASK_AHEAD) if name not in held]


class Gossip:
    """Views of the other replicas' ledgers."""

    def __init__(self, context: Context, items: Items) -> None:
        self.context = context
        self.items = items
        self.targets: dict[int, PeerRows] = {}
        """The newest version each replica has shown, or the one whose old rows are being fetched."""
        self._pinned: dict[int, PeerRows] = {}
        """The version each replica has pinned last."""
        self._bases: OrderedDict[bytes, Link] = OrderedDict()
        """The bases of views shown last: one may be asked about after a late item has changed this ledger's past."""
        self._show_at = 0.0
        self._shown = b""

    def view(self, *, pinned: bool, head: Link | None = None) -> View:
        """This ledger, or the version `head`, as a VIEW."""
        head = self.context.ledger.head if head is None else head
        base, recent = head.recent(RECENT_ROWS, RECENT_ITEMS)
        self._bases[base.chain] = base
        self._bases.move_to_end(base.chain)
        if len(self._bases) > KEEP_BASES:
            self._bases.popitem(last=False)
        exclusion = self.context.exclusions.in_force
        return View(
            base=base.chain, base_epoch=base.epoch, entries=head.entries, rows=recent, pinned=pinned,
            statement=exclusion.number, exclusion=exclusion.name,
        )  # fmt: skip

    def receive_view(self, replica: int, message: View) -> PeerRows | None:
        """Note a view; returns what is known of its rows, or None for one that contradicts itself."""
        ledger, context = self.context.ledger, self.context
        epochs = [row.epoch for row in message.rows]
        if epochs != sorted(set(epochs)) or (epochs and epochs[0] <= message.base_epoch):
            context.notify("malformed_view", "warning", replica=replica)
            return None
        version = compute_chain(message.base, message.rows)
        known = self._pinned if message.pinned else self.targets
        target = known.get(replica)
        if target is None or (
            target.version != version and (message.pinned or not self._is_fetching(target))
        ):
            asked_at = target.asked_at if target is not None else float("-inf")
            target = PeerRows(
                version, message.base, message.base_epoch, message.rows, message.entries,
                deque(ledger.missing(message.rows)),
            )  # fmt: skip
            target.asked_at = asked_at
            known[replica] = target
        is_fetched = target.malformed or self._is_fetching(target)
        is_due = not is_fetched and context.now >= target.asked_at + RESEND_SECONDS
        if is_due and not self._is_base_known(target):
            target.pages = []
            self._ask(replica, target, 1)
        self.items.request(replica, ledger.missing(message.rows)[:ASK_AHEAD])
        return target

    def _ask(self, replica: int, target: PeerRows, first: int) -> None:
        target.asked_at, target.awaited = self.context.now, first
        self.context.send_replica(replica, RowsRequest(base=target.base, first=first))

    def _is_fetching(self, target: PeerRows) -> bool:
        """Whether pages are on their way: to begin anew with each new version would on a slow link never end."""
        is_awaited = target.awaited and self.context.now < target.asked_at + ANSWER_SECONDS
        return not target.malformed and bool(target.following or is_awaited)

    def _is_base_known(self, target: PeerRows) -> bool:
        own = self.context.ledger.link_before(target.base_epoch + 1).chain
        return own == target.base or target.older is not None

    def _base(self, target: PeerRows) -> Link | None:
        """A view's base: this ledger's own past if they agree, else from pages; None if it is not known yet."""
        ledger = self.context.ledger
        own = ledger.link_before(target.base_epoch + 1)
        if own.chain == target.base:
            return own
        if target.older is None:
            return None
        base = ledger.extended(ledger.start, target.older)
        if base is None:
            self._reject(target)
        return base

    def resolve(self, target: PeerRows) -> Link | None:
        """The version that another replica showed, once every item of it is held here."""
        if target.malformed or target.lacks(self.context.ledger.items):
            return None
        base = self._base(target)
        head = None if base is None else self.context.ledger.extended(base, target.recent)
        if base is not None and head is None:
            self._reject(target)
        return head

    def _reject(self, target: PeerRows) -> None:
        """Said once: nothing that comes later makes a version of it."""
        target.malformed, target.following, target.pages = True, 0, []
        self.context.notify("malformed_view", "warning", version=target.version.hex()[:12])

    def receive_rows_request(self, replica: int, message: RowsRequest) -> None:
        """Rows of the version that was shown: a pinned one never gets what came late for it."""
        base = self._bases.get(message.base)
        if base is None:
            return
        rows = base.rows(message.first)
        page: list[Row] = []
        items = 0
        for row in rows[:PAGE_ROWS]:
            items += len(row.items)
            if page and items > PAGE_ITEMS:
                break
            page.append(row)
        answer = RowsMessage(
            base=message.base, first=message.first, rows=tuple(page), more=len(page) < len(rows)
        )
        self.context.send_replica(replica, answer)

    def receive_rows(self, replica: int, message: RowsMessage) -> None:
        """A page of old rows: only one that was asked for, and no more than the view announced."""
        shown = (self.targets.get(replica), self._pinned.get(replica))
        asked = (message.base, message.first)
        target = next((each for each in shown if each and (each.base, each.awaited) == asked), None)
        if target is None:
            return
        epochs = [row.epoch for row in message.rows]
        inside = not epochs or (target.awaited <= epochs[0] and epochs[-1] <= target.base_epoch)
        ordered = all(is_ordered(row) for row in message.rows)
        if epochs != sorted(set(epochs)) or not inside or not ordered:
            return
        target.awaited = 0
        target.pages += message.rows
        if sum(len(row.items) for row in target.pages) > target.entries:
            self._reject(target)
            return
        # Of older rows, so asked for before those of the view.
        target.lacking.extendleft(reversed(self.context.ledger.missing(message.rows)))
        self.items.request(replica, target.next_lacking(self.context.ledger.items))
        if message.more and epochs and epochs[-1] < target.base_epoch:
            target.following = epochs[-1] + 1
            self._turn_page(replica, target)
        elif compute_chain(self.context.ledger.origin, target.pages) == target.base:
            target.older = tuple(target.pages)
        else:
            self._reject(target)

    def _turn_page(self, replica: int, target: PeerRows) -> None:
        """Ask for the next page once every item of those before is held, in its own row.

        A liar could else fill the memory with rows of items that nobody has.
        """
        ledger = self.context.ledger
        if not target.following or (target.lacks(ledger.items) and ledger.missing(target.pages)):
            return
        if not all(map(ledger.holds_in_row, target.pages)):
            self._reject(target)
            return
        first, target.following = target.following, 0
        self._ask(replica, target, first)

    def replica_connected(self, replica: int) -> None:
        self.context.send_replica(replica, self.view(pinned=False))

    def tick(self) -> None:
        """Show the ledger to everybody once a second, at once when it has grown."""
        version = self.context.ledger.version
        if self.context.now >= self._show_at or version != self._shown:
            if version != self._shown or self._is_anybody_behind():
                self.context.broadcast(self.view(pinned=False))
            self._shown = version
            self._show_at = self.context.now + RESEND_SECONDS
        for replica, target in (*self.targets.items(), *self._pinned.items()):
            if target.version != version:
                self.items.request(replica, target.next_lacking(self.context.ledger.items))
                self._turn_page(replica, target)

    def _is_anybody_behind(self) -> bool:
        return len(self.targets) < len(self.context.others) or any(
            target.version != self.context.ledger.version for target in self.targets.values()
        )

    @property
    def is_caught_up(self) -> bool:
        """Whether nothing is missing here of what n-t replicas (this one included) have shown.

        What the others show may not exist.
        """
        ledger = self.context.ledger
        agreeing = sum(
            target.version == ledger.version or not target.lacks(ledger.items)
            for target in self.targets.values()
        )
        return agreeing + 1 >= self.context.parameters.quorum
