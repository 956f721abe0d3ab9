"""What the operator has taken out of the model: numbered statements, the last of which counts.

Entries stay in the ledger for ever; a statement says which of them the fold leaves out. It names entries, clients
(every group that one is a member of: a sum cannot be divided) and spans of epochs; what it names may arrive after it. A
later statement replaces the former, so that an exclusion can be taken back, and all of them are kept.

Statements are held without gaps, from number 1 on. Two of one number are the operator's error, or a stolen key: of
these the one with the smaller digest counts, at every replica, so that all compute the same model; the other is kept
and reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from asyncfl.digest import digest
from asyncfl.effects import Put, Table
from asyncfl.errors import InvalidItem
from asyncfl.federation import Federation
from asyncfl.identity import verify
from asyncfl.messages import ExclusionStatement, Item


@dataclass(frozen=True, slots=True)
class Exclusion:
    """What is left out of the model. Number 0 and a name of zeros: nothing was ever excluded."""

    number: int = 0
    name: bytes = bytes(32)
    """The statement's digest."""
    entries: frozenset[bytes] = frozenset()
    clients: frozenset[bytes] = frozenset()
    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, statement: ExclusionStatement) -> Exclusion:
        return cls(
            statement.number,
            statement.body(),
            frozenset(statement.entries),
            frozenset(statement.clients),
            tuple((span.first, span.last) for span in statement.spans),
        )

    @property
    def is_empty(self) -> bool:
        """Whether every entry counts."""
        return not (self.entries or self.clients or self.spans)

    def covers(self, epoch: int) -> bool:
        """Whether all entries of `epoch` are left out."""
        return any(first <= epoch <= last for first, last in self.spans)

    def excludes(self, name: bytes, item: Item) -> bool:
        """Whether the model leaves out the entry `item`, whose digest is `name`."""
        if name in self.entries or self.covers(item.id.epoch):
            return True
        return any(member.client in self.clients for member in item.members)

    def version(self, chain: bytes) -> bytes:
        """The name of the version that has all entries up to `chain`, under this statement."""
        return digest("asyncfl/1/version", chain, self.name) if self.number else chain


class Exclusions:
    """The operator's statements that one replica holds. Mutable: it grows by `add`."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.held: list[ExclusionStatement] = []
        """The statement that counts under each number, from 1 on."""
        self.doubles: dict[int, ExclusionStatement] = {}
        """By number, another statement that the operator signed under it."""
        self.in_force = Exclusion()

    def load(self, rows: Mapping[bytes, bytes]) -> None:
        """Restore statements from `Table.EXCLUSIONS`. Raises `InvalidItem` for what does not fit."""
        for key in sorted(rows):
            self.add(ExclusionStatement.decode(rows[key]))

    def add(self, statement: ExclusionStatement) -> bool:
        """Hold a statement of the operator's; False if it changes nothing here.

        Raises `InvalidItem` for one that the operator did not sign for this deployment, whose lists are out of order,
        or whose predecessor is not held.
        """
        number = statement.number
        known = self.held[number - 1] if number <= self.highest else None
        if statement in (known, self.doubles.get(number)):
            return False
        federation, body = self._federation, statement.body()
        kind = ExclusionStatement.KIND
        if not verify(federation.operator, kind, federation.digest, body, statement.signature):
            raise InvalidItem(f"the operator did not sign exclusion {number}")
        if not _is_ordered(statement):
            raise InvalidItem(
                f"the entries, clients or epochs of exclusion {number} do not ascend, or one is there twice"
            )
        if known is None:
            if number > self.highest + 1:
                raise InvalidItem(
                    f"exclusion {number} cannot be judged before exclusion {self.highest + 1} is held"
                )
            self.held.append(statement)
        elif body < known.body():
            self.doubles.setdefault(number, known)
            self.held[number - 1] = statement
        elif body == known.body() or number in self.doubles:
            return False
        else:
            self.doubles[number] = statement
            return True
        self.in_force = Exclusion.of(self.held[-1])
        return True

    @property
    def highest(self) -> int:
        """Number of the last statement held, 0 if there is none."""
        return len(self.held)

    def statements(self, after: int) -> tuple[ExclusionStatement, ...]:
        """What is held above number `after`, ascending; of two with one number the one that counts."""
        return tuple(self.held[after:])


def put_exclusion(statement: ExclusionStatement) -> Put:
    """The row of `Table.EXCLUSIONS`: by number and digest, so that two of one number are both kept."""
    key = statement.number.to_bytes(4, "big") + statement.body()
    return Put(Table.EXCLUSIONS, key, statement.encode())


def _is_ordered(statement: ExclusionStatement) -> bool:
    spans = statement.spans
    return (
        _ascend(statement.entries)
        and _ascend(statement.clients)
        and all(span.first <= span.last for span in spans)
        and all(earlier.last + 1 < later.first for earlier, later in pairwise(spans))
    )


def _ascend(names: Iterable[bytes]) -> bool:
    return all(earlier < later for earlier, later in pairwise(names))
