"""The operator's numbered statements at one replica: taken from anybody, on disk first, shown to whoever asks.

Every replica asks the others for what it lacks, so that a statement that reached one honest replica reaches all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from asyncfl.effects import Put
from asyncfl.errors import InvalidItem, RosterConflict
from asyncfl.messages import ExclusionStatement, Front, Message, RosterStatement
from asyncfl.replica.context import Context
from asyncfl.rosters import STATEMENTS_AT_ONCE, Answers

POLL_SECONDS = 5.0
"""How often replicas ask each other for statements they lack."""

Statement = TypeVar("Statement", RosterStatement, ExclusionStatement)


class StatementExchange(ABC, Generic[Statement]):
    """Statements that come in, and requests for them. `front` makes this replica's signed FRONT."""

    NAME: ClassVar[str]
    """Of the statements, as the log has it."""

    def __init__(self, context: Context, front: Callable[[], Front]) -> None:
        self.context = context
        self.front = front
        self._answers: Answers[Statement] = Answers(self.statements)
        self._poll_at = 0.0

    @property
    @abstractmethod
    def highest(self) -> int:
        """Number of the last statement held."""

    @abstractmethod
    def statements(self, after: int) -> tuple[Statement, ...]:
        """Those held above a number, ascending."""

    @abstractmethod
    def add(self, statement: Statement) -> bool:
        """Hold a statement; False if it is held already. Raises `InvalidItem`."""

    @abstractmethod
    def put(self, statement: Statement) -> Put:
        """Its row."""

    @abstractmethod
    def request(self) -> Message:
        """For what is lacking here."""

    @abstractmethod
    def added(self, statement: Statement) -> None:
        """It is held from now on: say so, and let what waited for it go on."""

    def receive_request(self, peer: bytes, after: int) -> None:
        """From replicas, clients and the operator: FRONT, and the statements above a number, a few at a time.

        All of them at most once a second to the same peer, but to the operator always.
        """
        context = self.context
        context.send(peer, self.front())
        if peer == context.federation.operator:
            # Its commands must see every statement, or one number would be signed twice.
            statements = self.statements(after)[:STATEMENTS_AT_ONCE]
        else:
            statements = self._answers.give(peer, after, context.now)
        for statement in statements:
            context.send(peer, statement)

    def receive_statement(self, peer: bytes, message: Statement) -> None:
        """From anybody known: the operator's signature is what counts. On disk before anything is said under it."""
        context = self.context
        number, before = message.number, self.highest
        try:
            is_new = self.add(message)
        except InvalidItem as error:
            level = "error" if isinstance(error, RosterConflict) else "warning"
            context.notify(
                f"{self.NAME}_refused", level, number=number, peer=peer.hex()[:12], reason=str(error)
            )
            is_new = False
        if is_new:
            context.persist(self.put(message))
            context.broadcast(message)
            self.added(message)
        elif number > before + 1:
            context.send(peer, self.request())
        if peer == context.federation.operator:
            context.send(peer, self.front())

    def replica_connected(self, replica: int) -> None:
        self.context.send_replica(replica, self.request())

    def tick(self) -> None:
        if self.context.now >= self._poll_at:
            self._poll_at = self.context.now + POLL_SECONDS
            self.context.broadcast(self.request())
