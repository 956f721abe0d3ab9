"""The operator's rosters at one replica."""

from __future__ import annotations

from collections.abc import Callable

from asyncfl.effects import Put
from asyncfl.errors import InvalidItem
from asyncfl.messages import Front, RosterRequest, RosterStatement
from asyncfl.replica.context import Context
from asyncfl.replica.statements import StatementExchange
from asyncfl.rosters import put_roster, roster_key


class RosterExchange(StatementExchange[RosterStatement]):
    """Who takes part from which epoch on."""

    NAME = "roster"

    def __init__(self, context: Context, front: Callable[[], Front], changed: Callable[[], None]) -> None:
        super().__init__(context, front)
        self._changed = changed
        """Called after a roster was added: what waited for it may go on."""
        self._stored: set[bytes] = set()
        self._refused: list[InvalidItem] = []

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Restore what was on disk; where the deployment file contradicts it, the disk counts."""
        self._stored = set(rows)
        self._refused = self.context.rosters.load(rows)

    def start(self) -> None:
        """What the deployment file brought goes to disk; what contradicts the disk is reported."""
        for error in self._refused:
            self.context.notify("roster_refused", "error", reason=str(error))
        new = [put_roster(s) for s in self.statements(0) if roster_key(s.number) not in self._stored]
        self.context.persist(*new)

    @property
    def highest(self) -> int:
        return self.context.rosters.highest

    def statements(self, after: int) -> tuple[RosterStatement, ...]:
        return self.context.rosters.statements(after)

    def add(self, statement: RosterStatement) -> bool:
        return self.context.rosters.add(statement)

    def put(self, statement: RosterStatement) -> Put:
        return put_roster(statement)

    def request(self) -> RosterRequest:
        return RosterRequest(after=self.highest)

    def added(self, statement: RosterStatement) -> None:
        members = len(statement.members)
        self.context.notify(
            "roster", number=statement.number, start_epoch=statement.start_epoch, members=members
        )
        self._changed()
