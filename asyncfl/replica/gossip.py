"""Anti-entropy: replicas show each other which rows they hold, and pull what they lack.

A VIEW names a set of items exactly: a chain value over old rows, and the recent rows item by item. Where the
old parts differ, full rows are requested in pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncfl.ledger import Rows, compute_chain
from asyncfl.messages import Row, RowsRequest, View
from asyncfl.messages import Rows as RowsMessage
from asyncfl.replica.context import RESEND_SECONDS, Context
from asyncfl.replica.items import Items

RECENT_ROWS = 12
PAGE_ROWS = 128
PAGE_ITEMS = 8192


@dataclass(slots=True)
class PeerRows:
    """What is known of another replica's ledger."""

    version: bytes
    rows: Rows = ()
    """All its rows at `version`, once known."""
    known: bool = False
    pages: list[Row] = field(default_factory=list)
    asked_at: float = float("-inf")


class Gossip:
    """Views of the other replicas' ledgers."""

    def __init__(self, context: Context, items: Items) -> None:
        self.context = context
        self.items = items
        self.heard: set[int] = set()
        """Replicas whose view was seen since the start."""
        self.targets: dict[int, PeerRows] = {}
        self._show_at = 0.0
        self._shown = b""

    def view(self, *, pinned: bool, rows: Rows | None = None) -> View:
        """This ledger (or the version whose complete rows are given) as a VIEW."""
        ledger = self.context.ledger
        rows = ledger.rows() if rows is None else rows
        recent = rows[-RECENT_ROWS:]
        older = rows[: -len(recent)] if recent else ()
        return View(
            base=compute_chain(ledger.origin, older),
            base_epoch=older[-1].epoch if older else 0,
            entries=sum(len(row.items) for row in rows),
            rows=recent,
            pinned=pinned,
        )

    def receive_view(self, replica: int, message: View) -> PeerRows | None:
        """Note a view; returns what is known of its rows, or None for one that contradicts itself."""
        ledger, context = self.context.ledger, self.context
        self.heard.add(replica)
        epochs = [row.epoch for row in message.rows]
        if epochs != sorted(set(epochs)) or (epochs and epochs[0] <= message.base_epoch):
            context.notify("malformed_view", "warning", replica=replica)
            return None
        version = compute_chain(message.base, message.rows)
        older = ledger.rows(last=message.base_epoch) if message.base_epoch else ()
        target = self.targets.get(replica)
        if target is None or target.version != version:
            previous = target
            target = self.targets[replica] = PeerRows(version)
            if previous is not None:
                target.pages, target.asked_at = previous.pages, previous.asked_at
        if compute_chain(ledger.origin, older) == message.base:
            target.rows, target.known = older + message.rows, True
        elif not target.known:
            self._combine(target, message)
            if not target.known and context.now >= target.asked_at + RESEND_SECONDS:
                target.asked_at, target.pages = context.now, []
                context.send_replica(replica, RowsRequest(first=1))
        self.items.request(replica, ledger.missing(message.rows))
        return target

    def _combine(self, target: PeerRows, message: View) -> None:
        """Old rows from pages, recent ones from the view, if together they give the view's version."""
        older = tuple(row for row in target.pages if row.epoch <= message.base_epoch)
        if compute_chain(self.context.ledger.origin, older) == message.base:
            target.rows, target.known = older + message.rows, True

    def receive_rows_request(self, replica: int, message: RowsRequest) -> None:
        rows = self.context.ledger.rows(message.first)
        page: list[Row] = []
        items = 0
        for row in rows[:PAGE_ROWS]:
            items += len(row.items)
            if page and items > PAGE_ITEMS:
                break
            page.append(row)
        answer = RowsMessage(first=message.first, rows=tuple(page), more=len(page) < len(rows))
        self.context.send_replica(replica, answer)

    def receive_rows(self, replica: int, message: RowsMessage) -> None:
        target = self.targets.get(replica)
        if target is None:
            return
        first = target.pages[-1].epoch + 1 if target.pages else 1
        epochs = [row.epoch for row in message.rows]
        if message.first != first or epochs != sorted(set(epochs)) or (epochs and epochs[0] < first):
            return
        target.pages.extend(message.rows)
        self.items.request(replica, self.context.ledger.missing(message.rows))
        if message.more and message.rows:
            target.asked_at = self.context.now
            self.context.send_replica(replica, RowsRequest(first=message.rows[-1].epoch + 1))

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
        for replica, target in self.targets.items():
            if target.version != version:
                missing = self.context.ledger.missing(target.rows or tuple(target.pages))
                self.items.request(replica, missing)

    def _is_anybody_behind(self) -> bool:
        return len(self.targets) < len(self.context.others) or any(
            target.version != self.context.ledger.version for target in self.targets.values()
        )

    @property
    def is_caught_up(self) -> bool:
        """Whether n-t replicas (this one included) were heard and nothing they showed is missing here."""
        if len(self.heard) + 1 < self.context.parameters.quorum:
            return False
        ledger = self.context.ledger
        return all(
            target.version == ledger.version or not ledger.missing(target.rows or tuple(target.pages))
            for target in self.targets.values()
        )
