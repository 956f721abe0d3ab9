"""Rule 4 of an upload's life: which sets of uploads may be opened together. Pure; every signer applies it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from asyncfl.assignment import Assignment, compute_coordinator
from asyncfl.errors import InvalidItem
from asyncfl.federation import Federation, Roster
from asyncfl.messages import LockContent, Manifest, Member
from asyncfl.parameters import MAX_LATE_EPOCHS, Parameters
from asyncfl.rosters import Rosters


def check_assignment(
    manifest: Manifest, federation: Federation, rosters: Rosters, assignment: Assignment
) -> Roster:
    """The roster that the upload names. Raises `InvalidItem` unless it is in the cell that the shuffle gives.

    Depends on nothing but the manifest and the roster's statement, which the caller holds. Whether that roster
    is still to be vouched for is another question (`Rosters.is_current`).
    """
    core = manifest.core
    roster = rosters.get(core.roster)
    if roster is None:
        raise InvalidItem(f"the upload names roster {core.roster}, which is not held here")
    if core.roster_digest != roster.digest:
        raise InvalidItem(f"the upload names another roster {core.roster} than the one held here")
    if roster.start_epoch > core.epoch:
        raise InvalidItem(
            f"the upload names roster {core.roster}, which starts at epoch {roster.start_epoch}, after {core.epoch}"
        )
    cell = assignment.cell_of(core.client, roster, core.epoch)
    if core.cell != cell:
        raise InvalidItem(f"the upload claims cell {core.cell}; the shuffle puts its client in cell {cell}")
    if core.coordinator >= federation.parameters.replicas:
        raise InvalidItem(f"coordinator {core.coordinator} is not one of the replicas")
    return roster


def is_own(member: Member, content: LockContent, manifest: Manifest) -> bool:
    """Whether a member belongs to the group's own (epoch, cell), rather than riding on top."""
    return member.epoch == content.id.epoch and manifest.core.cell == content.id.cell


def check_members(content: LockContent, parameters: Parameters) -> None:
    """What rule 4 asks of the id and the members' names alone. Raises `InvalidItem`."""
    if content.id.coordinator >= parameters.replicas:
        raise InvalidItem(f"coordinator {content.id.coordinator} is not one of the replicas")
    order = [(member.client, member.epoch) for member in content.members]
    if order != sorted(order):
        raise InvalidItem("members are not in canonical order")
    if len({client for client, _ in order}) != len(order):
        raise InvalidItem("a client appears twice in the group")
    if len(order) > parameters.max_group:
        raise InvalidItem(f"{len(order)} members exceed max_group {parameters.max_group}")


def check_ages(content: LockContent) -> None:
    """Raise `InvalidItem` if a member is of an epoch that neither is the group's own nor may ride on it."""
    for member in content.members:
        if not content.id.epoch - MAX_LATE_EPOCHS <= member.epoch <= content.id.epoch:
            raise InvalidItem(f"an upload of epoch {member.epoch} cannot ride on epoch {content.id.epoch}")


def check_group(
    content: LockContent,
    manifests: Sequence[Manifest],
    federation: Federation,
    rosters: Rosters,
    assignment: Assignment,
) -> None:
    """Raise `InvalidItem` unless the group keeps rule 4 as far as the request itself shows.

    `manifests[i]` is member i's, already known to match its digest; `rosters` holds all that they name. Depends
    on nothing else: no clock, no ledger, no opinion of the signer. The group's own members are of one cell, so
    of one roster; those that ride along may be of others, each in its own cell there.
    """
    parameters, group = federation.parameters, content.id
    check_members(content, parameters)
    check_ages(content)
    own = 0
    named: set[int] = set()
    for member, manifest in zip(content.members, manifests, strict=True):
        core = manifest.core
        if (core.client, core.epoch, manifest.digest()) != (member.client, member.epoch, member.manifest):
            raise InvalidItem("a member does not match its manifest")
        roster = check_assignment(manifest, federation, rosters, assignment)
        if is_own(member, content, manifest):
            own += 1
            named.add(roster.number)
        elif compute_coordinator(group.epoch, group.cell, parameters.replicas) != group.coordinator:
            raise InvalidItem("late uploads ride only on the coordinator's own cells")
    if len(named) > 1:
        raise InvalidItem(f"the group's own members name rosters {sorted(named)}: cells are of one roster")
    if own < parameters.min_group:
        raise InvalidItem(f"{own} members of one cell are fewer than min_group {parameters.min_group}")


def taken_over(content: LockContent, manifests: Sequence[Manifest]) -> set[int]:
    """Coordinators that members name and that are not the group's own."""
    return {manifest.core.coordinator for manifest in manifests} - {content.id.coordinator}


def choose_supporters(
    oks: Mapping[bytes, Mapping[int, bytes]],
    replicas: int,
    quorum: int,
    also: Iterable[Mapping[int, bytes]] = (),
) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    """The set of `quorum` replicas that admits most uploads, and those uploads.

    `oks[upload][replica]` is a SHARE_OK. Among sets that admit equally many, the one that admits most of `also`
    (uploads that may ride along) is taken: otherwise one replica that withholds its SHARE_OKs could keep them out
    for ever. At most C(16, 11) sets are tried, on the distinct sets of replicas alone.
    """
    wanted = Counter(frozenset(given) for given in oks.values())
    extra = Counter(frozenset(given) for given in also)
    everybody = [replica for replica in range(replicas) if any(replica in given for given in wanted)]
    best: tuple[tuple[int, int], tuple[int, ...]] = ((0, 0), ())
    most = (wanted.total(), extra.total())
    for candidate in combinations(everybody, quorum):
        chosen = frozenset(candidate)
        score = (
            sum(count for given, count in wanted.items() if chosen <= given),
            sum(count for given, count in extra.items() if chosen <= given),
        )
        if score > best[0]:
            best = (score, candidate)
            if score == most:
                break
    supporters = best[1]
    if not best[0][0]:
        return (), ()
    return supporters, tuple(name for name, given in oks.items() if all(j in given for j in supporters))
