"""The rosters one machine holds: those of its deployment file, and later ones that the operator signed since.

Rosters are held without gaps, from number 0 on: each starts later than the one before it. Who holds which is
local state; what a roster says is not, so whatever names a roster names its number and its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Final, Generic, TypeVar

from asyncfl.effects import Put, Table
from asyncfl.errors import InvalidItem, MalformedMessage, RosterConflict
from asyncfl.federation import Federation, Roster
from asyncfl.identity import verify
from asyncfl.ledger import Ledger
from asyncfl.messages import RosterStatement

ROSTER_GRACE_EPOCHS: Final = 16
"""Epochs after a roster's start in which uploads under the one before it are still vouched for."""

STATEMENTS_AT_ONCE: Final = 8
"""Statements in one answer: each may have half a megabyte; who lacks more asks again."""

ANSWER_SECONDS: Final = 1.0
"""How long the same statements are not sent to the same peer again."""


class Rosters:
    """Numbered rosters of one deployment. Mutable: it grows by `add`."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.held = list(federation.rosters)
        """By number; grows by `add` alone."""
        self._clients = _members(self.held)

    def load(self, rows: Mapping[bytes, bytes]) -> list[InvalidItem]:
        """Restore statements from `Table.ROSTERS`; returns what does not fit, for the log.

        What is on disk was held first: where the deployment file has another roster of that number, it stays.
        """
        refused: list[InvalidItem] = []
        later = self.held[1:]
        self.held = self.held[:1]
        stored = [RosterStatement.decode(rows[key]) for key in sorted(rows)]
        for statement in (*stored, *(roster.statement for roster in later)):
            try:
                self.add(statement)
            except InvalidItem as error:
                refused.append(error)
        self._clients = _members(self.held)
        return refused

    def add(self, statement: RosterStatement) -> bool:
        """Hold the operator's next roster; False if it is held already.

        Raises `InvalidItem` for one that the operator did not sign, with members that do not ascend or fill no
        cell, that starts no later than the one before it, or whose predecessor is not held; `RosterConflict`
        for another roster under a number that is held.
        """
        federation, number = self._federation, statement.number
        body = statement.body()
        if not verify(
            federation.operator, RosterStatement.KIND, federation.digest, body, statement.signature
        ):
            raise InvalidItem(f"the operator did not sign roster {number}")
        if number <= self.highest:
            if self.held[number].digest == body:
                return False
            raise RosterConflict(f"the operator signed two rosters {number}; the first one held here stays")
        if number > self.highest + 1:
            raise InvalidItem(f"roster {number} cannot be checked before roster {self.highest + 1} is held")
        members = statement.members
        if any(earlier >= later for earlier, later in pairwise(members)):
            raise InvalidItem(f"the members of roster {number} do not ascend, or one is there twice")
        if len(members) < federation.parameters.cell_size:
            raise InvalidItem(
                f"the {len(members)} members of roster {number} fill no cell of {federation.parameters.cell_size}"
            )
        if statement.start_epoch <= self.held[-1].start_epoch:
            raise InvalidItem(
                f"roster {number} starts at epoch {statement.start_epoch}, not after roster {number - 1} "
                f"(epoch {self.held[-1].start_epoch})"
            )
        self.held.append(Roster(number, statement.start_epoch, members, statement.signature))
        self._clients |= frozenset(members)
        return True

    @property
    def first(self) -> Roster:
        return self.held[0]

    @property
    def highest(self) -> int:
        """Number of the last roster held."""
        return len(self.held) - 1

    def get(self, number: int) -> Roster | None:
        return self.held[number] if 0 <= number < len(self.held) else None

    def at(self, epoch: int, known: int | None = None) -> Roster:
        """The roster with the highest number, up to `known`, whose start epoch has come (else the first)."""
        for roster in reversed(self.held if known is None else self.held[: known + 1]):
            if roster.start_epoch <= epoch:
                return roster
        return self.held[0]

    @property
    def clients(self) -> frozenset[bytes]:
        """Everybody who is a member of any roster held."""
        return self._clients

    def is_current(self, number: int, epoch: int) -> bool:
        """Whether an upload of `epoch` may name this roster as far as what is held here shows.

        It is the highest that applies to the epoch, or, for a while, the one before it: an honest client may not
        have heard. Whoever could choose among rosters could choose its cell.
        """
        return any(roster.number == number for roster in self._current(epoch))

    def may_take_part(self, client: bytes, epoch: int) -> bool:
        """Whether a roster that an upload of `epoch` may name lists the client."""
        return any(client in roster.position for roster in self._current(epoch))

    def _current(self, epoch: int) -> list[Roster]:
        newest = self.at(epoch)
        is_young = newest.number > 0 and epoch < newest.start_epoch + ROSTER_GRACE_EPOCHS
        return [newest, self.held[newest.number - 1]] if is_young else [newest]

    def statements(self, after: int) -> tuple[RosterStatement, ...]:
        """The operator's statements of all rosters held with numbers above `after`, ascending."""
        return tuple(roster.statement for roster in self.held[after + 1 :])


def roster_key(number: int) -> bytes:
    """Key of a row of `Table.ROSTERS`."""
    return number.to_bytes(4, "big")


def put_roster(statement: RosterStatement) -> Put:
    return Put(Table.ROSTERS, roster_key(statement.number), statement.encode())


def read_rosters(federation: Federation, rows: Mapping[bytes, bytes]) -> tuple[Rosters, list[str]]:
    """What somebody else's `Table.ROSTERS` holds, beside the deployment file's, and what of it does not fit.

    As in `Rosters.load` what is on disk comes first; but what cannot be read there is told and passed by.
    """
    later = [roster.statement for roster in federation.rosters[1:]]
    rosters = Rosters(replace(federation, rosters=federation.rosters[:1]))
    refused: list[str] = []

    def hold(statement: RosterStatement, where: str) -> None:
        try:
            rosters.add(statement)
        except InvalidItem as error:
            if (told := f"roster {statement.number}{where}: {error}") not in refused:
                refused.append(told)

    for key in sorted(rows):
        number = int.from_bytes(key[:4], "big")
        for statement in later[rosters.highest : max(0, number - 1)]:
            hold(statement, " of the deployment file")
        try:
            statement = RosterStatement.decode(rows[key])
        except MalformedMessage as error:
            refused.append(f"roster {number}: cannot be read: {error}")
            continue
        if roster_key(statement.number) == key:
            hold(statement, "")
        else:
            refused.append(f"roster {number}: has the content of roster {statement.number}")
    for statement in later:
        hold(statement, " of the deployment file")
    return rosters, refused


Statement = TypeVar("Statement")


class Answers(Generic[Statement]):
    """Whom numbered statements were given, and when: a request has a few bytes, the answer may have four megabytes.

    `held` gives those above a number. Who goes on to the next ones has them at once, who asks for the same again a
    second later.
    """

    def __init__(self, held: Callable[[int], tuple[Statement, ...]]) -> None:
        self._held = held
        self._given: dict[bytes, tuple[int, float]] = {}

    def give(self, peer: bytes, after: int, now: float) -> tuple[Statement, ...]:
        """What a peer that holds the statements up to `after` is sent now."""
        due, at = self._given.get(peer, (0, float("-inf")))
        if now < at + ANSWER_SECONDS and after < due:
            return ()
        statements = self._held(after)[:STATEMENTS_AT_ONCE]
        if statements:
            self._given[peer] = (after + STATEMENTS_AT_ONCE, now)
        return statements


def _members(rosters: list[Roster]) -> frozenset[bytes]:
    return frozenset(member for roster in rosters for member in roster.members)


def compute_handicap(client: bytes, rosters: Rosters, ledger: Ledger) -> float:
    """What is added to a client's inclusion count, so that a joiner starts with the others' mean.

    The mean over roster r grows by (members present in its epochs) / (its size). A client that was in no roster
    before its own (or was away since) is counted from that one's start on, on top of the mean reached until then.
    """
    joined = next((r for r in range(rosters.highest, 0, -1) if _joins(client, rosters, r)), 0)
    mean, before = 0.0, 0
    for number in range(joined):
        roster, following = rosters.held[number], rosters.held[number + 1]
        mean += ledger.members_in(roster.start_epoch, following.start_epoch) / len(roster.members)
    if joined and any(client in roster.position for roster in rosters.held[:joined]):
        start = min(rosters.held[joined].start_epoch, ledger.last_epoch + 1)
        before = sum((client, epoch) in ledger.included for epoch in range(1, start))
    return mean - before


def _joins(client: bytes, rosters: Rosters, number: int) -> bool:
    held = rosters.held
    return client in held[number].position and client not in held[number - 1].position
