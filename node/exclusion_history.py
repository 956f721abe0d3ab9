"""The operator's exclusions as a history: what each of them changed, and what has become of that.

A statement says everything that is left out, and replaces those before it (`asyncfl.exclusions`). What it *changed* is
the difference from the one before. One that says again what was said before some others takes these back; taking back
goes on from there, as undoing does in an editor: never to and fro between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from asyncfl.exclusions import Exclusions
from asyncfl.messages import ExclusionStatement

Span = tuple[int, int]
"""First and last epoch."""
State = Literal["in force", "partly in force", "taken back", "takes back", "does not count"]


@dataclass(frozen=True, slots=True)
class Content:
    """What is left out: entries by digest, clients by key, spans of epochs that ascend and do not touch."""

    entries: frozenset[bytes] = frozenset()
    clients: frozenset[bytes] = frozenset()
    spans: tuple[Span, ...] = ()

    @classmethod
    def of(cls, statement: ExclusionStatement) -> Content:
        spans = tuple((span.first, span.last) for span in statement.spans)
        return cls(frozenset(statement.entries), frozenset(statement.clients), spans)

    @property
    def is_empty(self) -> bool:
        return not (self.entries or self.clients or self.spans)

    def plus(self, other: Content) -> Content:
        """Of either."""
        return Content(
            self.entries | other.entries, self.clients | other.clients, _joined((*self.spans, *other.spans))
        )

    def minus(self, other: Content) -> Content:
        """Without what is in `other`."""
        return Content(
            self.entries - other.entries, self.clients - other.clients, _cut(self.spans, other.spans)
        )


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _cut(spans: Iterable[Span], away: Iterable[Span]) -> tuple[Span, ...]:
    left = list(spans)
    for start, end in away:
        pieces = [((first, min(last, start - 1)), (max(first, end + 1), last)) for first, last in left]
        left = [span for pair in pieces for span in pair if span[0] <= span[1]]
    return tuple(left)


@dataclass(frozen=True, slots=True)
class Change:
    """One statement, beside the one that counted before it."""

    statement: ExclusionStatement
    leaves_out: Content = Content()
    """And did not before."""
    puts_back: Content = Content()
    takes_back: tuple[int, ...] = ()
    """Numbers of the statements that it takes back."""
    state: State = "does not count"
    taken_back_by: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A statement that is not taken back, and what was left out from it on. Number 0: before the first."""

    number: int
    content: Content


def steps(held: Exclusions) -> list[Step]:
    """What taking back goes through, the last first."""
    return _walk(held.held)[0]


def read_history(held: Exclusions) -> list[Change]:
    """All statements, by number; of two with one number the one that counts first."""
    return _read(held.held, held.doubles)


def read_next(held: Exclusions, statement: ExclusionStatement) -> Change:
    """What one statement more would change."""
    return _read([*held.held, statement], {})[-1]


def _read(held: Sequence[ExclusionStatement], doubles: Mapping[int, ExclusionStatement]) -> list[Change]:
    _, undoes = _walk(held)
    undone = {number: by for by, numbers in undoes.items() for number in numbers}
    contents = [Content(), *map(Content.of, held)]
    changes: list[Change] = []
    for statement, before, content in zip(held, contents, contents[1:], strict=False):
        number = statement.number
        leaves_out, puts_back = content.minus(before), before.minus(content)
        state, by = _judge(leaves_out, puts_back, contents[number:], number)
        if number in undoes:
            state, by = "takes back", None
        elif number in undone:
            state, by = "taken back", undone[number]
        changes.append(Change(statement, leaves_out, puts_back, undoes.get(number, ()), state, by))
        if number in doubles:
            double = Content.of(doubles[number])
            changes.append(Change(doubles[number], double.minus(before), before.minus(double)))
    return changes


def _walk(held: Sequence[ExclusionStatement]) -> tuple[list[Step], dict[int, tuple[int, ...]]]:
    """The steps, and by number of each statement that takes others back the numbers of these."""
    path, undoes = [Step(0, Content())], dict[int, tuple[int, ...]]()
    for statement in held:
        content = Content.of(statement)
        known = next((index for index, step in enumerate(path) if step.content == content), None)
        if known is None:
            path.append(Step(statement.number, content))
        else:
            undoes[statement.number] = tuple(step.number for step in path[known + 1 :])
            del path[known + 1 :]
    return path, undoes


def _judge(
    leaves_out: Content, puts_back: Content, contents: list[Content], number: int
) -> tuple[State, int | None]:
    """What has become of a change by way of others that are no undoing; `contents` are those from `number` on."""
    changed = leaves_out.plus(puts_back)

    def lost(now: Content) -> Content:
        return leaves_out.minus(now).plus(puts_back.minus(puts_back.minus(now)))

    gone = lost(contents[-1])
    if gone.is_empty:
        return "in force", None
    if gone != changed:
        return "partly in force", None
    return "taken back", next(at for at, now in enumerate(contents, number) if lost(now) == changed)


def describe_history(
    held: Exclusions,
    names: Mapping[bytes, str],
    *,
    signed: Mapping[bytes, float],
    certified: Mapping[bytes, float],
) -> list[dict[str, Any]]:
    """The history in plain values. `signed`, `certified`: when, by digest, as far as that is known here."""
    return [
        {
            **describe(change, names),
            "signed_at": signed.get(change.statement.body()),
            "certified_at": certified.get(change.statement.body()),
        }
        for change in read_history(held)
    ]


def describe(change: Change, names: Mapping[bytes, str]) -> dict[str, Any]:
    """What a statement says: all that is left out from it on, and what it changed."""
    statement = change.statement
    return {
        "number": statement.number,
        "digest": statement.body().hex(),
        **describe_content(Content.of(statement), names),
        "reason": statement.reason,
        "leaves_out": describe_content(change.leaves_out, names),
        "puts_back": describe_content(change.puts_back, names),
        "takes_back": list(change.takes_back),
        "state": change.state,
        "taken_back_by": change.taken_back_by,
    }


def describe_content(content: Content, names: Mapping[bytes, str]) -> dict[str, Any]:
    """Entries by digest, clients by name, first and last epochs."""
    return {
        "entries": sorted(name.hex() for name in content.entries),
        "clients": sorted(names.get(key, key.hex()) for key in content.clients),
        "spans": [[first, last] for first, last in content.spans],
    }
