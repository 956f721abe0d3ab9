"""The operator's next exclusion: what it says, and how much honest work it costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from asyncfl.deployment import Deployment
from asyncfl.errors import ConfigurationError
from asyncfl.exclusions import Exclusion, Exclusions
from asyncfl.identity import Identity
from asyncfl.ledger import Ledger
from asyncfl.messages import Epochs, ExclusionStatement
from asyncfl.record import Version
from node.exclusion_history import Content, Span, steps

SHORTEST: Final = 8
"""Hex digits by which an entry or a version may be named."""
DIGITS: Final = 64
INITIAL: Final = "initial"
"""The model before any entry, as a version to go back to."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to change in what is left out; `to` is a version, in hex, or `initial`."""

    entries: Sequence[str] = ()
    clients: Sequence[str] = ()
    to: str | None = None
    back_entries: Sequence[str] = ()
    back_clients: Sequence[str] = ()
    """Left out so far, and to count again."""
    undo: bool = False
    """Take back the newest statement that is not taken back, and nothing else."""
    reason: str = ""

    @property
    def changes(self) -> bool:
        """Whether anything is asked for, other than to undo."""
        return bool(self.entries or self.clients or self.to or self.back_entries or self.back_clients)


@dataclass(frozen=True, slots=True)
class Known:
    """What replicas' states on this machine say, and what the replicas themselves say."""

    ledger: Ledger
    """Empty where no state is kept here."""
    versions: Sequence[Version] = ()
    under_way: int | None = None
    """The highest epoch that may have entries, or uploads on their way; None where too few replicas answered."""


def compute_under_way(fronts: Collection[int], deployment: Deployment) -> int | None:
    """The highest epoch that an honest replica may have given a TASK for; None below t + 1 fronts.

    At least one honest replica has reached the (t+1)-th largest front; no t liars can move it beyond that.
    """
    parameters = deployment.parameters
    if len(fronts) < parameters.certifiers:
        return None
    return sorted(fronts, reverse=True)[parameters.byzantine] + parameters.window


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


def check_names(deployment: Deployment, wish: Wish) -> None:
    """Raises `ConfigurationError` for what no replica need be asked about: a slip of the pen."""
    for client in (*wish.clients, *wish.back_clients):
        deployment.client(client)
    for entry in (*wish.entries, *wish.back_entries):
        _digits(entry, "an entry")
    if wish.to is not None and wish.to != INITIAL:
        _digits(wish.to, "a version")


def plan(deployment: Deployment, held: Exclusions, known: Known, wish: Wish) -> ExclusionStatement:
    """The next statement, unsigned: all that is left out now, changed as wished.

    With `to` a version, it begins from what that one left out and what came after it, whatever is left out now: so its
    model comes out again. Raises `ConfigurationError` for what is not known, or changes nothing.
    """
    path, number = steps(held), held.highest + 1
    now = base = path[-1].content
    if wish.undo:
        if len(path) == 1:
            raise ConfigurationError("nothing is left out, so there is nothing to take back")
        return _make(number, path[-2].content, wish.reason)
    wanted = Content(
        frozenset(_find_entry(prefix, known.ledger) for prefix in wish.entries),
        frozenset(deployment.client(name).key for name in wish.clients),
    )
    if wish.to is not None:
        before, since = (
            (now, _after(None, known)) if wish.to == INITIAL else _find_target(wish.to, held, known)
        )
        base = before.plus(since)
        if base == now and since.is_empty:
            raise ConfigurationError("nothing comes after that version; nothing was changed")
    unwanted = Content(
        frozenset(_find_excluded(prefix, base, known.ledger, held) for prefix in wish.back_entries),
        frozenset(_find_client(name, base, deployment) for name in wish.back_clients),
    )
    if not (wanted.entries.isdisjoint(unwanted.entries) and wanted.clients.isdisjoint(unwanted.clients)):
        raise ConfigurationError(
            "the same entry or client is to be left out and put back; nothing was changed"
        )
    then = base.plus(wanted).minus(unwanted)
    if then == now:
        raise ConfigurationError(f"exclusion {held.highest} leaves that out already; nothing was changed")
    return _make(number, then, wish.reason)


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


def _make(number: int, content: Content, reason: str) -> ExclusionStatement:
    try:
        return ExclusionStatement(
            number=number,
            entries=tuple(sorted(content.entries)),
            clients=tuple(sorted(content.clients)),
            spans=tuple(Epochs(first=first, last=last) for first, last in content.spans),
            reason=reason,
            signature=bytes(64),
        )
    except ValueError as error:
        raise ConfigurationError(
            "this is more than a statement can say (8192 entries, 4096 clients, 256 spans, a reason of 400 printable "
            f"characters): {error}"
        ) from None


def _find_entry(prefix: str, ledger: Ledger) -> bytes:
    """An entry by the first digits of its digest; a whole digest may be of one that is not here yet."""
    digits = _digits(prefix, "an entry")
    found = [name for name in ledger.items if name.hex().startswith(digits)]
    if len(digits) == DIGITS:
        return bytes.fromhex(digits)
    if len(found) != 1:
        how = "no entry" if not found else f"{len(found)} entries"
        raise ConfigurationError(
            f"--exclude-entry: {prefix} begins {how} of the ledger here; asyncfl audit --json lists them, and a "
            f"whole digest ({DIGITS} digits) may be of an entry that is still to come"
        )
    return found[0]


def _find_excluded(prefix: str, now: Content, ledger: Ledger, held: Exclusions) -> bytes:
    """One of the entries that are left out by their own digest."""
    digits = _digits(prefix, "an entry")
    found = [name for name in now.entries if name.hex().startswith(digits)]
    if len(found) == 1:
        return found[0]
    why = f"{len(found)} entries that are left out begin so" if found else "no entry is left out by this name"
    if any(
        name.hex().startswith(digits) and held.in_force.excludes(name, item)
        for name, item in ledger.items.items()
    ):
        why = "it is left out with a client of its, or with its epoch, and not by its own name"
    raise ConfigurationError(f"--include-entry {prefix}: {why}; nothing was changed")


def _find_client(name: str, now: Content, deployment: Deployment) -> bytes:
    """One of the clients that are left out."""
    key = deployment.client(name).key
    if key not in now.clients:
        names = sorted(deployment.names.get(each, each.hex()) for each in now.clients)
        out = f"left out: {', '.join(names)}" if names else "no client is"
        raise ConfigurationError(f"--include-client {name}: this client is not left out ({out})")
    return key


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
            f"--to: {prefix} begins {how} of the replicas here; asyncfl model list shows them (or give initial)"
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


def _find_target(to: str, held: Exclusions, known: Known) -> tuple[Content, Content]:
    """What a version left out, and what came after it."""
    version = _find_version(to, known)
    name, number = version.record.exclusion, version.record.certificate.statement
    signed = (*held.held, *held.doubles.values())
    statement = next((each for each in signed if each.body() == name), None)
    if any(name) and statement is None:
        raise ConfigurationError(
            f"that version was computed under exclusion {number} ({name.hex()[:12]}), which is neither in "
            "exclusions.json nor at a replica that answered; start the replicas and run this again"
        )
    return Content() if statement is None else Content.of(statement), _after(version, known)


def _after(version: Version | None, known: Known) -> Content:
    """What came after a version, or after the initial model, up to the epochs that are under way.

    Of the version's own rows entry by entry, so that it comes out again as it was; later rows as one span of epochs, so
    that their late entries, which were trained from what is left out, stay out too.
    """
    ledger, last, kept = known.ledger, 0, set[bytes]()
    if version is not None:
        if version.link is None:
            raise ConfigurationError(
                "the entries of that version are not all here; run this where another replica is"
            )
        last = version.link.epoch
        kept = {name for link in version.link.back() if link.row is not None for name in link.row.items}
    late = {name for name, item in ledger.items.items() if item.id.epoch <= last and name not in kept}
    end = max(ledger.last_epoch, known.under_way or 0)
    spans: tuple[Span, ...] = ((last + 1, end),) if end > last else ()
    return Content(frozenset(late), spans=spans)
