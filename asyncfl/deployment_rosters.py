"""Who takes part from when on: the clients, the first roster, and those that followed it, in a deployment file.

The first roster holds the clients whose `start_epoch` is not after its own; each later one names its members. All
are checked here, together with the operator's signature on each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from pydantic import Field, Strict

from asyncfl.deployment_fields import Epoch, Key, Name, Section, SignatureBytes
from asyncfl.errors import ConfigurationError
from asyncfl.federation import Roster
from asyncfl.messages.operator import MAX_MEMBERS
from asyncfl.messages.replicas import MAX_ROW_ITEMS
from asyncfl.parameters import Parameters
from asyncfl.wire import pack

ENROLMENT: Final = "enrolment"
ROSTER: Final = "roster"

Signed = Callable[[str, bytes, bytes], bool]
"""Whether a signature (the last argument) is the operator's on a statement of a kind, with a body."""


class ClientEntry(Section):
    """A client that was ever enrolled by the operator; `start_epoch` is that of its first roster, or before."""

    name: Name
    key: Key
    start_epoch: Epoch = 1
    signature: SignatureBytes


class RosterEntry(Section):
    """The first roster: every client that starts no later, in the order of their keys."""

    number: Annotated[int, Field(ge=0, le=0)] = 0
    start_epoch: Epoch = 1
    signature: SignatureBytes


class LaterRosterEntry(Section):
    """A roster that takes the place of the one before it from `start_epoch` on; `members` are clients' names."""

    number: Annotated[int, Field(ge=1, le=2**31 - 1)]
    start_epoch: Epoch
    # TOML arrays arrive as lists, so this is not taken strictly.
    members: Annotated[tuple[Name, ...], Strict(False), Field(min_length=1)]
    signature: SignatureBytes


def enrolment_body(key: bytes, start_epoch: int) -> bytes:
    """What the operator signs to enrol a client."""
    return pack((key, start_epoch))


def first_clients(first: RosterEntry, clients: Sequence[ClientEntry]) -> tuple[ClientEntry, ...]:
    """The members of the first roster, in the order of the file."""
    return tuple(client for client in clients if client.start_epoch <= first.start_epoch)


def compute_rosters(
    first: RosterEntry, later: Sequence[LaterRosterEntry], clients: Sequence[ClientEntry]
) -> tuple[Roster, ...]:
    """All rosters of a checked file, in order."""
    keys = {client.name: client.key for client in clients}
    members = tuple(sorted(client.key for client in first_clients(first, clients)))
    rosters = [Roster(first.number, first.start_epoch, members, signature=first.signature)]
    for entry in later:
        members = tuple(sorted(keys[name] for name in entry.members))
        rosters.append(Roster(entry.number, entry.start_epoch, members, signature=entry.signature))
    return tuple(rosters)


def check_clients(
    source: str,
    first: RosterEntry,
    later: Sequence[LaterRosterEntry],
    clients: Sequence[ClientEntry],
    signed: Signed,
) -> None:
    """Every client is enrolled, and starts with the first roster that lists it. Raises `ConfigurationError`."""
    begins: dict[str, int] = {}
    for entry in later:
        for name in entry.members:
            begins.setdefault(name, entry.start_epoch)
    for index, client in enumerate(clients):
        where = f"{source}: clients[{index}]"
        if client.start_epoch > first.start_epoch and begins.get(client.name) != client.start_epoch:
            known = begins.get(client.name)
            listed = (
                "no roster lists it" if known is None else f"the first roster that lists it starts at {known}"
            )
            raise ConfigurationError(
                f"{where}.start_epoch: {client.name} starts at epoch {client.start_epoch}, but {listed}; restore "
                "the file from the operator, whose `asyncfl enroll` adds clients"
            )
        body = enrolment_body(client.key, client.start_epoch)
        if not signed(ENROLMENT, body, client.signature):
            raise ConfigurationError(
                f"{where}.signature: the operator did not enrol {client.name} with "
                "this key, start epoch and deployment; restore the file from the operator, who signs "
                "every change"
            )


def check_later(
    source: str,
    first: RosterEntry,
    later: Sequence[LaterRosterEntry],
    clients: Sequence[ClientEntry],
    cell_size: int,
) -> None:
    """Numbers, start epochs and members of `[[rosters]]`, before they are computed. Raises `ConfigurationError`."""
    known = {client.name for client in clients}
    previous = first.start_epoch
    for index, entry in enumerate(later):
        where = f"{source}: rosters[{index}]"
        if entry.number != index + 1:
            raise ConfigurationError(
                f"{where}.number: rosters are numbered 1, 2, 3 and so on, in order: this one is "
                f"{index + 1}, not {entry.number}; restore the file from the operator"
            )
        if entry.start_epoch <= previous:
            raise ConfigurationError(
                f"{where}.start_epoch: roster {entry.number} starts at epoch {entry.start_epoch}, which is not "
                f"after the one before it (epoch {previous}); restore the file from the operator"
            )
        previous = entry.start_epoch
        for name in entry.members:
            if name not in known:
                raise ConfigurationError(
                    f"{where}.members: {name} is none of the [[clients]]; restore the file from the operator"
                )
        if len(set(entry.members)) < len(entry.members):
            repeated = Counter(entry.members).most_common(1)[0][0]
            raise ConfigurationError(
                f"{where}.members: {repeated} is listed twice; restore the file from the operator"
            )
        if len(entry.members) < cell_size:
            raise ConfigurationError(
                f"{where}.members: parameters.cell_size is {cell_size}, but only {len(entry.members)} clients are "
                "members: no cell could be filled; keep or enrol more clients"
            )


def check_room(source: str, enrolled: int, members: int, parameters: Parameters) -> None:
    """What travels must fit: a roster of so many members, and the entries of an epoch.

    A client is in one group of an epoch at most, under whichever roster; so all that were ever `enrolled` make no more
    groups than fill a row. Raises `ConfigurationError`.
    """
    if members > MAX_MEMBERS:
        raise ConfigurationError(
            f"{source}: a roster of {members} clients: at most {MAX_MEMBERS} can take part at a time; enrol fewer"
        )
    groups = enrolled // parameters.min_group
    if groups > MAX_ROW_ITEMS:
        needed = enrolled // (MAX_ROW_ITEMS + 1) + 1
        raise ConfigurationError(
            f"{source}: {enrolled} clients, those who have retired among them, make up to {groups} groups of "
            f"min_group {parameters.min_group} in an epoch, and the ledger holds {MAX_ROW_ITEMS}; make a deployment "
            f"with a larger cell_size: {3 * needed // 2}, with min_group {needed}, would do"
        )


def check_signatures(source: str, rosters: Sequence[Roster], signed: Signed) -> None:
    """The operator signed every roster. Raises `ConfigurationError`."""
    for roster in rosters:
        if not signed(ROSTER, roster.digest, roster.signature):
            where = f"rosters[{roster.number - 1}].signature" if roster.number else "roster.signature"
            raise ConfigurationError(
                f"{source}: {where}: the operator did not sign this list of clients for this "
                "deployment; restore the file from the operator, who signs every change"
            )
