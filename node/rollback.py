"""The operator's next exclusion: what it says, and how much honest work it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from asyncfl.deployment import Deployment
from asyncfl.errors import ConfigurationError
from asyncfl.exclusions import Exclusion, Exclusions
from asyncfl.identity import Identity
from asyncfl.ledger import Ledger
from asyncfl.messages import Epochs, ExclusionStatement
from asyncfl.record import Version

SHORTEST: Final = 8
"""Hex digits by which an entry or a version may be named."""
DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be left out beside what is left out already; `to` is a version, in hex."""

    entries: Sequence[str] = ()
    clients: Sequence[str] = ()
    to: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What a replica's state on this machine says. Nothing where none is kept here."""

    ledger: Ledger
    versions: Sequence[Version] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a statement changes: entries newly left out or put back, and whose uploads these are."""

    entries: int
    """In the ledger as it is known here."""
    counted: int
    """Of which count before."""
    leaves_out: int
    puts_back: int
    blamed: int
    """Uploads of the clients that the statement names, in the entries newly left out."""
    others: int
    """Uploads of all others in these."""
    others_names: tuple[bytes, ...]
    uploads: int
    """All that count before."""

    @property
    def share(self) -> float:
        """Of all uploads that count, those of others that are lost."""
        return self.others / max(1, self.uploads)


def plan(deployment: Deployment, held: Exclusions, known: Known, wish: Wish) -> ExclusionStatement:
    """The next statement, unsigned: all that is excluded now, and what is wished.

    Raises `ConfigurationError` for what is not known, or changes nothing.
    """
    before = held.held[-1] if held.held else None
    entries = {_find_entry(prefix, known.ledger) for prefix in wish.entries}
    clients = {deployment.client(name).key for name in wish.clients}
    spans: list[tuple[int, int]] = []
    if wish.to is not None:
        since, spans = _after_version(_find_version(wish.to, known), known.ledger)
        entries |= since
    if before is not None:
        entries |= set(before.entries)
        clients |= set(before.clients)
        spans += [(span.first, span.last) for span in before.spans]
    made = _make(held.highest + 1, entries, clients, _merged(spans), wish.reason)
    if before is not None and _content(before) == _content(made):
        raise ConfigurationError(f"exclusion {before.number} leaves that out already; nothing was changed")
    if not (entries or clients or spans):
        raise ConfigurationError("nothing comes after that version; nothing was changed")
    return made


def undo(held: Exclusions, reason: str) -> ExclusionStatement:
    """The next statement, unsigned: what the one before the newest says. Raises `ConfigurationError`."""
    if not held.held:
        raise ConfigurationError("nothing is excluded, so there is nothing to take back")
    before = held.held[-2] if len(held.held) > 1 else None
    if before is None:
        return _make(held.highest + 1, (), (), (), reason)
    spans = [(span.first, span.last) for span in before.spans]
    return _make(held.highest + 1, before.entries, before.clients, spans, reason)


def sign(operator: Identity, deployment: bytes, statement: ExclusionStatement) -> ExclusionStatement:
    """With the operator's signature."""
    signature = operator.sign(ExclusionStatement.KIND, deployment, statement.body())
    return statement.model_copy(update={"signature": signature})


def compute_cost(ledger: Ledger, before: Exclusion, after: Exclusion) -> Cost:
    """What changes in a ledger between two exclusions."""
    counted = leaves_out = puts_back = blamed = others = uploads = 0
    names: set[bytes] = set()
    for name, item in ledger.items.items():
        was_out, is_out = before.excludes(name, item), after.excludes(name, item)
        if not was_out:
            counted += 1
            uploads += len(item.members)
        if is_out and not was_out:
            leaves_out += 1
            honest = [member.client for member in item.members if member.client not in after.clients]
            blamed += len(item.members) - len(honest)
            others += len(honest)
            names.update(honest)
        puts_back += was_out and not is_out
    return Cost(
        len(ledger.items), counted, leaves_out, puts_back, blamed, others, tuple(sorted(names)), uploads
    )


def _make(
    number: int,
    entries: Iterable[bytes],
    clients: Iterable[bytes],
    spans: Iterable[tuple[int, int]],
    reason: str,
) -> ExclusionStatement:
    try:
        return ExclusionStatement(
            number=number,
            entries=tuple(sorted(entries)),
            clients=tuple(sorted(clients)),
            spans=tuple(Epochs(first=first, last=last) for first, last in spans),
            reason=reason,
            signature=bytes(64),
        )
    except ValueError as error:
        raise ConfigurationError(
            "this is more than a statement can say (8192 entries, 4096 clients, 256 spans, a reason of 400 printable "
            f"characters): {error}"
        ) from None


def _content(statement: ExclusionStatement) -> tuple[object, ...]:
    return statement.entries, statement.clients, statement.spans


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same epochs in spans that ascend and do not touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _find_entry(prefix: str, ledger: Ledger) -> bytes:
    """An entry by the first digits of its digest; a whole digest may be of one that is not here yet."""
    digits = _digits(prefix, "an entry")
    found = [name for name in ledger.items if name.hex().startswith(digits)]
    if len(digits) == DIGITS:
        return bytes.fromhex(digits)
    if len(found) != 1:
        how = "no entry" if not found else f"{len(found)} entries"
        raise ConfigurationError(
            f"--exclude-entry {prefix}: {how} of the ledger here begins so; asyncfl audit --json lists them, and a "
            f"whole digest ({DIGITS} digits) may be of an entry that is still to come"
        )
    return found[0]


def _find_version(prefix: str, known: Known) -> Version:
    digits = _digits(prefix, "a version")
    found = {
        version.record.certificate.version: version
        for version in known.versions
        if version.record.certificate.version.hex().startswith(digits)
    }
    if len(found) != 1:
        how = "no certified version" if not found else f"{len(found)} certified versions"
        raise ConfigurationError(
            f"--to {prefix}: {how} of the replicas here begins so; asyncfl model list shows them"
        )
    (version,) = found.values()
    return version


def _digits(text: str, what: str) -> str:
    digits = text.lower()
    if not SHORTEST <= len(digits) <= DIGITS or set(digits) - set("0123456789abcdef"):
        raise ConfigurationError(
            f"{text!r} names {what} by {SHORTEST} to {DIGITS} hex digits of its digest; asyncfl model list and asyncfl "
            "audit --json show them"
        )
    return digits


def _after_version(version: Version, ledger: Ledger) -> tuple[set[bytes], list[tuple[int, int]]]:
    """What the ledger holds beyond a version: late entries of its rows one by one, later rows as a span of epochs."""
    if version.link is None:
        raise ConfigurationError(
            "the entries of that version are not all here; run this where another replica is"
        )
    last = version.link.epoch
    kept = {name for link in version.link.back() if link.row is not None for name in link.row.items}
    late = {name for name, item in ledger.items.items() if item.id.epoch <= last and name not in kept}
    return late, [(last + 1, ledger.last_epoch)] if ledger.last_epoch > last else []
