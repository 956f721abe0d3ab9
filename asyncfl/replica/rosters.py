"""The operator's rosters at one replica: taken from whoever brings them, on disk first, shown to whoever asks.

Every replica asks the others for what it lacks, so that a statement that reached one honest replica reaches all.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncfl.errors import InvalidItem, RosterConflict
from asyncfl.messages import Front, RosterRequest, RosterStatement
from asyncfl.replica.context import Context
from asyncfl.rosters import STATEMENTS_AT_ONCE, Answers, put_roster, roster_key

POLL_SECONDS = 5.0
"""How often replicas ask each other for rosters they lack."""


class RosterExchange:
    """Statements that come in, and requests for them. `front` makes this replica's signed FRONT."""

    def __init__(self, context: Context, front: Callable[[], Front], added: Callable[[], None]) -> None:
        self.context = context
        self.front = front
        self.added = added
        """Called after a roster was added: what waited for it may go on."""
        self._answers = Answers(context.rosters)
        self._stored: set[bytes] = set()
        self._refused: list[InvalidItem] = []
        self._poll_at = 0.0

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Restore what was on disk; where the deployment file contradicts it, the disk counts."""
        self._stored = set(rows)
        self._refused = self.context.rosters.load(rows)

    def start(self) -> None:
        """What the deployment file brought goes to disk; what contradicts the disk is reported."""
        for error in self._refused:
            self.context.notify("roster_refused", "error", reason=str(error))
        statements = self.context.rosters.statements(0)
        new = [put_roster(s) for s in statements if roster_key(s.number) not in self._stored]
        self.context.persist(*new)

    def receive_request(self, peer: bytes, message: RosterRequest) -> None:
        """From replicas, clients and the operator: FRONT, and the statements above a number, a few at a time.

        All of them at most once a second to the same peer, but to the operator always.
        """
        context = self.context
        context.send(peer, self.front())
        if peer == context.federation.operator:
            # Its commands must see every roster, or one number would be signed twice.
            statements = context.rosters.statements(message.after)[:STATEMENTS_AT_ONCE]
        else:
            statements = self._answers.give(peer, message.after, context.now)
        for statement in statements:
            context.send(peer, statement)

    def receive_statement(self, peer: bytes, message: RosterStatement) -> None:
        """From anybody known: the operator's signature is what counts. On disk before anything is said under it."""
        context = self.context
        number, before = message.number, context.rosters.highest
        try:
            is_new = context.rosters.add(message)
        except InvalidItem as error:
            level = "error" if isinstance(error, RosterConflict) else "warning"
            context.notify("roster_refused", level, number=number, peer=peer.hex()[:12], reason=str(error))
            is_new = False
        if is_new:
            context.persist(put_roster(message))
            context.notify(
                "roster", number=number, start_epoch=message.start_epoch, members=len(message.members)
            )
            context.broadcast(message)
            self.added()
        elif number > before + 1:
            context.request_rosters(peer)
        if peer == context.federation.operator:
            context.send(peer, self.front())

    def replica_connected(self, replica: int) -> None:
        self.context.request_rosters(self.context.federation.replica_keys[replica])

    def tick(self) -> None:
        if self.context.now >= self._poll_at:
            self._poll_at = self.context.now + POLL_SECONDS
            for replica in self.context.others:
                self.context.request_rosters(self.context.federation.replica_keys[replica])
