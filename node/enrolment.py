"""The operator's next roster: who joins, who leaves, from which epoch on; and the files that this changes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfl.deployment import Deployment
from asyncfl.deployment_fields import is_name
from asyncfl.deployment_rosters import check_room
from asyncfl.errors import ConfigurationError, ParameterError, StorageError
from asyncfl.identity import Identity
from asyncfl.messages import RosterStatement
from node.deployment_files import (
    DEPLOYMENT_FILE,
    OPERATOR_KEY_FILE,
    DeploymentDirectory,
    key_file,
    read_key,
    read_public_key,
    write_key,
)
from node.file_lock import locked
from node.supervisor.watch import read_status
from node.whole_files import write_whole

MARGIN_EPOCHS: Final = 5
"""Beyond front + window: what the front moves on while a roster travels."""
OUTLYING_EPOCHS: Final = 32
"""A front so far above the (t+1)-th largest is no honest replica's: it does not put a roster off."""


@dataclass(frozen=True, slots=True)
class Change:
    """Members of the next roster, and who of them is new. `generated`: names whose keys are to be made here."""

    members: tuple[str, ...]
    joining: tuple[str, ...] = ()
    retiring: tuple[str, ...] = ()
    keys: Mapping[str, bytes] | None = None
    """Public keys, by name, of those among `joining` that were never enrolled and have made their own."""
    generated: tuple[str, ...] = ()


def open_as_operator(root: Path) -> tuple[DeploymentDirectory, Identity]:
    """The deployment and its operator's key. Raises `ConfigurationError` where that is not kept."""
    files = DeploymentDirectory.load(root)
    path = root / OPERATOR_KEY_FILE
    if not path.exists():
        raise ConfigurationError(
            f"{path}: no such key file; only the operator, who made the deployment, changes who takes part: run "
            f"this where `asyncfl init` was run, or bring {OPERATOR_KEY_FILE} and the newest {DEPLOYMENT_FILE} "
            "together"
        )
    operator = read_key(path)
    if operator.public != files.deployment.operator:
        raise ConfigurationError(
            f"{path}: this key is not the operator's of {root / DEPLOYMENT_FILE}; restore the right key file"
        )
    return files, operator


@contextmanager
def operator_at_work(root: Path) -> Iterator[None]:
    """One statement of the operator's at a time. Raises `ConfigurationError` while there is another."""
    busy = (
        f"another `asyncfl enroll`, `asyncfl retire` or `asyncfl rollback` is at work in {root}; wait for it"
    )
    with locked(root / OPERATOR_KEY_FILE, os.O_RDONLY, busy=lambda _: busy):
        yield


def joining(files: DeploymentDirectory, names: Sequence[str], public_keys: Sequence[Path]) -> Change:
    """The change that enrols `names`, those in the files `public_keys` with the keys there.

    A client that has retired returns with the key that it had. Raises `ConfigurationError` for a name that is
    given twice, is no name, takes part already or is a replica's, for a key that does not fit, and where more
    colluders than are allowed for would have to be expected among so many.
    """
    deployment = files.deployment
    given: dict[str, bytes] = {}
    for path in public_keys:
        name, key = read_public_key(path)
        if name in given:
            raise ConfigurationError(f"{path}: another file has the key of {name} too; give one of them")
        given[name] = key
    wanted = list(names) or list(given)
    if not wanted:
        raise ConfigurationError(
            "nobody is named: give the names of the clients to enrol, or their .pub files"
        )
    _refuse_repeated(wanted)
    strange = [name for name in given if name not in wanted]
    if strange:
        raise ConfigurationError(
            f"--public-key has the key of {strange[0]}, who is not named; name {strange[0]} too"
        )
    enrolled = {client.name: client.key for client in deployment.clients}
    taken = {name.casefold(): name for name in deployment.names.values()}
    for name in wanted:
        if not is_name(name):
            raise ConfigurationError(
                f"{name!r} is no name for a client: 1 to 64 letters, digits, '.', '_' or '-' are needed, the first "
                "a letter or digit"
            )
        if name in deployment.members:
            raise ConfigurationError(
                f"{name} takes part already; if replicas have not heard of it: asyncfl enroll {files.quoted} --resend"
            )
        if name not in enrolled and name.casefold() in taken:
            raise ConfigurationError(
                f"{name}: {taken[name.casefold()]} is in this deployment; choose another name"
            )
        if name in enrolled and given.get(name, enrolled[name]) != enrolled[name]:
            raise ConfigurationError(
                f"{name} has retired, and returns with the key that it had; the .pub file has another: let a "
                "client with a new key have a new name"
            )
    fresh = [name for name in wanted if name not in enrolled]
    lacking = [name for name in fresh if name not in given]
    if given and lacking:
        raise ConfigurationError(
            f"no --public-key for {lacking[0]}; give its .pub file too, or enrol it in a command of its own, which "
            "makes its key here"
        )
    members = len(deployment.members) + len(wanted)
    check_room(
        str(files.root / DEPLOYMENT_FILE),
        len(deployment.clients) + len(fresh),
        members,
        deployment.parameters,
    )
    _check_colluders(deployment, members)
    return Change(
        members=(*deployment.members, *wanted),
        joining=tuple(wanted),
        keys={name: given[name] for name in fresh if name in given},
        generated=tuple(lacking),
    )


def retiring(files: DeploymentDirectory, names: Sequence[str]) -> Change:
    """The change that retires `names`.

    Raises `ConfigurationError` for a name given twice or that takes no part, when those left could not fill a
    cell, and where more colluders than are allowed for would have to be expected among them.
    """
    deployment = files.deployment
    _refuse_repeated(names)
    for name in names:
        deployment.client(name)
        if name not in deployment.members:
            raise ConfigurationError(
                f"{name} has retired already, with roster {_left_with(deployment, name)}"
            )
    left = tuple(name for name in deployment.members if name not in names)
    size = deployment.parameters.cell_size
    if len(left) < size:
        raise ConfigurationError(
            f"{len(left)} clients would be left of {len(deployment.members)}, and a cell has {size} "
            f"(parameters.cell_size): nothing could be trained; retire at most {len(deployment.members) - size}, "
            "or enrol others first"
        )
    _check_colluders(deployment, len(left))
    return Change(members=left, retiring=tuple(names))


def compute_start_epoch(
    fronts: Mapping[str, int], deployment: Deployment, margin: int
) -> tuple[int, tuple[str, ...]]:
    """The first epoch that no honest replica can have given a task for while the roster travels.

    `fronts` of at least one replica by name. Returns the epoch, and whose fronts were left out because they lie
    too far above the (t+1)-th largest, which at least one honest replica has reached.
    """
    ranked = sorted(fronts.values(), reverse=True)
    believed = ranked[min(deployment.parameters.byzantine, len(ranked) - 1)]
    outlying = tuple(name for name, front in fronts.items() if front > believed + OUTLYING_EPOCHS)
    front = max(front for name, front in fronts.items() if name not in outlying)
    epoch = front + deployment.parameters.window + margin
    return max(epoch, deployment.all_rosters[-1].start_epoch + 1), outlying


def fronts_on_disk(files: DeploymentDirectory) -> dict[str, int] | None:
    """The fronts that replicas kept on this machine had when they stopped: 1 if they never ran.

    None unless at least n-t are kept here: what the others saw is not known then.
    """
    fronts: dict[str, int] = {}
    for entry in files.deployment.replicas:
        said = read_status(files, entry.name)
        if said or files.key_file(entry.name).exists():
            fronts[entry.name] = max(1, int(said.get("front", 1)), int(said.get("epoch", 1)))
    return fronts if len(fronts) >= files.deployment.parameters.quorum else None


def make_next(
    files: DeploymentDirectory, operator: Identity, change: Change, start_epoch: int
) -> DeploymentDirectory:
    """Write the keys that are to be made here, then the deployment file with the next roster, whole or not at all.

    Only when this has returned may the roster's statement leave this machine: so no number is ever signed twice
    for different members. Raises `ConfigurationError`, `StorageError`.
    """
    root = files.root
    # A key file from a command that was interrupted is used; nobody has enrolled that key yet.
    identities = {
        name: read_key(key_file(root, name)) if key_file(root, name).exists() else Identity.generate()
        for name in change.generated
    }
    enrolled = {**(change.keys or {}), **{name: identity.public for name, identity in identities.items()}}
    deployment = files.deployment.next_roster(
        operator,
        start_epoch=start_epoch,
        members=change.members,
        enrolled=enrolled,
        source=str(root / DEPLOYMENT_FILE),
    )
    for name, identity in identities.items():
        if not key_file(root, name).exists():
            write_key(key_file(root, name), identity)
    _replace(root / DEPLOYMENT_FILE, deployment.render())
    return DeploymentDirectory.load(root)


def statements(deployment: Deployment) -> tuple[RosterStatement, ...]:
    """What the operator says to replicas: all rosters after the first."""
    return tuple(
        RosterStatement(
            number=roster.number,
            start_epoch=roster.start_epoch,
            members=roster.members,
            signature=roster.signature,
        )
        for roster in deployment.all_rosters[1:]
    )


def _refuse_repeated(names: Sequence[str]) -> None:
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise ConfigurationError(f"{repeated[0]} is named twice")


def _check_colluders(deployment: Deployment, clients: int) -> None:
    """Raises `ConfigurationError` where colluders in a cell are more than `malicious_allowance`, or spoil the rule.

    Noise and masks were made for that number, the rule for its share of bad groups: the deployment's digest has both.
    """
    used = deployment.parameters
    if used.rule != "mean":
        from asyncfl.group_rules import check_rule

        check_rule(used, clients)
    if not used.malicious_fraction:
        return
    from asyncfl.privacy.allowance import Cells, malicious_allowance

    cells = Cells(clients, used.cell_size, used.replicas)
    try:
        needed = malicious_allowance(cells, used.malicious_fraction, used.min_group)
        why = f"{needed} colluders in a cell must be expected then"
    except ParameterError as error:
        needed, why = used.min_group, str(error)
    if needed > used.malicious_allowance:
        raise ConfigurationError(
            f"a roster of {clients} clients: this deployment allows for {used.malicious_allowance} colluders "
            f"in a group of {used.min_group}, where a fraction of {used.malicious_fraction:g} may collude; "
            f"{why}; enrol or retire fewer, or make a new deployment with a larger malicious_allowance"
        )


def _left_with(deployment: Deployment, name: str) -> str:
    last = max((entry.number for entry in deployment.rosters if name in entry.members), default=0)
    entry = deployment.rosters[last]
    return f"{entry.number} (epoch {entry.start_epoch})"


def _replace(path: Path, text: str) -> None:
    try:
        write_whole(path, text.encode(), mode=path.stat().st_mode & 0o777)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}; nothing was changed: free space on that disk and run "
            "the command again"
        ) from None
