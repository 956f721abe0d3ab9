"""The operator's exclusions at one replica: which of them it holds, and that others come to hold the same.

A VIEW says under which statement its sender computes. Whoever holds a later one shows it, whoever holds an earlier one
asks; a model is signed only where both hold the same.
"""

from __future__ import annotations

from asyncfl.effects import Put
from asyncfl.exclusions import put_exclusion
from asyncfl.messages import ExclusionRequest, ExclusionStatement, View
from asyncfl.replica.statements import StatementExchange


class ExclusionExchange(StatementExchange[ExclusionStatement]):
    """What the model leaves out."""

    NAME = "exclusion"

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Restore what was on disk."""
        self.context.exclusions.load(rows)
        self._apply()

    @property
    def highest(self) -> int:
        return self.context.exclusions.highest

    def statements(self, after: int) -> tuple[ExclusionStatement, ...]:
        return self.context.exclusions.statements(after)

    def add(self, statement: ExclusionStatement) -> bool:
        return self.context.exclusions.add(statement)

    def put(self, statement: ExclusionStatement) -> Put:
        return put_exclusion(statement)

    def request(self) -> ExclusionRequest:
        return ExclusionRequest(after=self.highest)

    def added(self, statement: ExclusionStatement) -> None:
        context, number = self.context, statement.number
        context.notify(
            "exclusion", number=number, entries=len(statement.entries), clients=len(statement.clients),
            spans=len(statement.spans), reason=statement.reason,
        )  # fmt: skip
        if number in context.exclusions.doubles:
            context.notify("two_exclusions", "error", number=number, counts=self._counting(number))
        self._apply()

    def _counting(self, number: int) -> str:
        return self.context.exclusions.held[number - 1].body().hex()[:12]

    def _apply(self) -> None:
        context = self.context
        exclusion = context.exclusions.in_force
        if exclusion != context.ledger.exclusion:
            context.ledger.exclude(exclusion)
            context.inclusion.excluded = exclusion.clients

    def agrees(self, replica: int, view: View) -> bool:
        """Whether a VIEW's sender computes under the same statement; else one of the two is told."""
        own = self.context.exclusions.in_force
        if (view.statement, view.exclusion) == (own.number, own.name):
            return True
        if (-view.statement, view.exclusion) < (-own.number, own.name):
            # The sender's counts: with a higher number, or of two with one number with the smaller digest.
            after = min(own.number, view.statement - 1)
            self.context.send_replica(replica, ExclusionRequest(after=after))
        else:
            peer = self.context.federation.replica_keys[replica]
            for statement in self._answers.give(peer, min(view.statement, own.number - 1), self.context.now):
                self.context.send(peer, statement)
        return False
