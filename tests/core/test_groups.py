"""Rule 4, rule by rule: which groups any signer refuses, from the request alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.errors import InvalidItem
from asyncfl.federation import Roster
from asyncfl.groups import check_group, choose_supporters, taken_over
from asyncfl.messages import GroupId, LockContent, Manifest, Member
from asyncfl.rosters import Rosters
from asyncfl.simulation.deployment import sign_roster
from tests.core.builders import make_simulation

SIMULATION = make_simulation(16)
FEDERATION = SIMULATION.federation
ROSTER = FEDERATION.rosters[0]
LATER = sign_roster(SIMULATION.operator_id, FEDERATION.digest, 1, 9, ROSTER.members[:-1])
FUTURE = sign_roster(SIMULATION.operator_id, FEDERATION.digest, 2, 30, ROSTER.members)
ROSTERS = Rosters(replace(FEDERATION, rosters=(ROSTER, LATER, FUTURE)))
ASSIGNMENT = Assignment(FEDERATION)
IDENTITIES = {identity.public: identity for identity in SIMULATION.client_ids}


def make_manifest(client: bytes, epoch: int, *, under: Roster = ROSTER, **override: int) -> Manifest:
    cell = override["cell"] if "cell" in override else ASSIGNMENT.cell_of(client, under, epoch)
    context = masking.UploadContext(
        epoch=epoch,
        cell=cell,
        coordinator=override.get("coordinator", ASSIGNMENT.coordinator(epoch, cell)),
        roster=override.get("roster", under.number),
        roster_digest=under.digest,
        base_version=bytes(32),
    )
    update = torch.zeros(FEDERATION.dimension)
    return masking.protect(update, context, IDENTITIES[client], FEDERATION).manifest


def make_group(
    manifests: list[Manifest], *, epoch: int = 9, cell: int = 1, coordinator: int | None = None
) -> tuple[LockContent, list[Manifest]]:
    ordered = sorted(manifests, key=lambda m: (m.core.client, m.core.epoch))
    owner = ASSIGNMENT.coordinator(epoch, cell) if coordinator is None else coordinator
    content = LockContent(
        id=GroupId(epoch=epoch, cell=cell, coordinator=owner, part=0),
        members=tuple(Member(client=m.core.client, epoch=m.core.epoch, manifest=m.digest()) for m in ordered),
    )
    return content, ordered


def own(epoch: int = 9, cell: int = 1, count: int = 4, under: Roster = ROSTER) -> list[Manifest]:
    clients = ASSIGNMENT.cells(under, epoch)[cell][:count]
    return [make_manifest(client, epoch, under=under) for client in clients]


def mixed() -> list[Manifest]:
    """Three members of cell 1 under one roster, and one of cell 1 under another."""
    members = own(count=3)
    taken = {manifest.core.client for manifest in members}
    other = next(c for c in ASSIGNMENT.cells(LATER, 9)[1] if c not in taken)
    return [*members, make_manifest(other, 9, under=LATER)]


def rider(epoch: int, *, besides: list[Manifest]) -> Manifest:
    """An upload of another epoch by a client that is not in the group."""
    taken = {manifest.core.client for manifest in besides}
    client = next(c for c in FEDERATION.rosters[0].members if c not in taken)
    return make_manifest(client, epoch)


def check(group: tuple[LockContent, list[Manifest]]) -> None:
    check_group(*group, FEDERATION, ROSTERS, ASSIGNMENT)


@pytest.mark.parametrize("count", [3, 4])
def test_enough_of_one_cell_make_a_group(count: int) -> None:
    check(make_group(own(count=count)))


@pytest.mark.parametrize("late", [1, 8])
def test_late_uploads_ride_on_top(late: int) -> None:
    members = own()
    check(make_group([*members, rider(9 - late, besides=members)]))


def test_a_group_is_of_any_roster_that_applies_and_riders_of_their_own() -> None:
    check(make_group(own(under=LATER, count=3)))
    members = own(under=LATER, count=3)
    check(make_group([*members, rider(8, besides=members)]))
    members = own(epoch=10, cell=1, count=3)
    taken = {manifest.core.client for manifest in members}
    client = next(c for c in LATER.members if c not in taken)
    check(make_group([*members, make_manifest(client, 9, under=LATER)], epoch=10))


def swapped(content: LockContent, manifests: list[Manifest]) -> tuple[LockContent, list[Manifest]]:
    return content.model_copy(update={"members": content.members[::-1]}), manifests[::-1]


BROKEN: dict[str, tuple[Callable[[], tuple[LockContent, list[Manifest]]], str]] = {
    "below the minimum": (lambda: make_group(own(count=2)), "fewer than min_group"),
    "a minority of the cell with riders": (
        lambda: make_group([*own(count=2), *own(epoch=8, cell=1)[:2]]),
        "fewer than min_group|appears twice",
    ),
    "two cells": (
        lambda: make_group([*own(count=2), *own(cell=2, count=2)]),
        "fewer than min_group|rides? only|ride",
    ),
    "a client twice": (
        lambda: make_group([*own(), make_manifest(ASSIGNMENT.cells(ROSTER, 9)[1][0], 8)]),
        "twice",
    ),
    "out of order": (lambda: swapped(*make_group(own())), "canonical order"),
    "too late a rider": (
        lambda: make_group([*own(epoch=12), rider(3, besides=own(epoch=12))], epoch=12),
        "cannot ride",
    ),
    "a rider from the future": (lambda: make_group([*own(), rider(10, besides=own())]), "cannot ride"),
    "riders on another's cell": (
        lambda: make_group([*own(), rider(8, besides=own())], coordinator=2),
        "only on the coordinator's own cells",
    ),
    "the wrong cell": (
        lambda: make_group([make_manifest(c, 9, cell=2) for c in ASSIGNMENT.cells(ROSTER, 9)[1]], cell=2),
        "the shuffle puts its client",
    ),
    "another roster": (
        lambda: make_group([make_manifest(c, 9, roster=7) for c in ASSIGNMENT.cells(ROSTER, 9)[1]]),
        "names roster 7",
    ),
    "another digest for a roster": (
        lambda: make_group(
            [make_manifest(c, 9, under=replace(ROSTER, start_epoch=2)) for c in ROSTER.members[:4]]
        ),
        "names another roster 0",
    ),
    "a roster that has not begun": (lambda: make_group(own(under=FUTURE)), "starts at epoch 30, after 9"),
    "a roster that does not list its client": (
        lambda: make_group([*own(count=3), make_manifest(ROSTER.members[-1], 9, under=LATER, cell=1)]),
        "is not in roster 1",
    ),
    "own members of two rosters": (lambda: make_group(mixed()), "name rosters .0, 1."),
    "a cell that does not exist": (lambda: make_group(own(), cell=77), "fewer than min_group"),
    "a coordinator that does not exist": (
        lambda: make_group(own(), coordinator=9),
        "not one of the replicas",
    ),
    "manifests of others": (
        lambda: (make_group(own())[0], make_group(own(cell=2))[1]),
        "does not match its manifest",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_group_that_breaks_the_rule_is_refused(name: str) -> None:
    group, reason = BROKEN[name]
    with pytest.raises(InvalidItem, match=reason):
        check(group())


def test_more_than_max_group_is_refused() -> None:
    members = own()
    while len(members) < FEDERATION.parameters.max_group:
        members.append(rider(8, besides=members))
    check(make_group(members))
    with pytest.raises(InvalidItem, match="exceed max_group"):
        check(make_group([*members, rider(8, besides=members)]))


def test_takeovers_are_told_from_the_manifests() -> None:
    members = own()
    assert taken_over(*make_group(members)) == set()
    assert taken_over(*make_group(members, coordinator=2)) == {1}


def test_supporters_are_the_common_set_that_admits_most() -> None:
    ok = bytes(64)
    oks = {
        b"a": {0: ok, 1: ok, 2: ok},
        b"b": {0: ok, 1: ok, 2: ok, 3: ok},
        b"c": {1: ok, 2: ok, 3: ok},
        b"d": {0: ok, 1: ok, 2: ok},
    }
    supporters, admitted = choose_supporters(oks, 4, 3)
    assert supporters == (0, 1, 2)
    assert set(admitted) == {b"a", b"b", b"d"}


def test_without_a_quorum_nobody_supports() -> None:
    assert choose_supporters({b"a": {0: bytes(64)}}, 4, 3) == ((), ())
