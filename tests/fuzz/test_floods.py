"""However much one liar says, what a replica keeps of it stays within bounds, and it answers as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asyncfl.messages import (
    Attest,
    CertifiedItem,
    Entry,
    GroupId,
    Item,
    Lock,
    LockContent,
    Member,
    Message,
    ModelVote,
    Pull,
    Ready,
    Reveal,
    Row,
    Rows,
    ShareBad,
    ShareOk,
    ShareSum,
    TakenOver,
    View,
    Vote,
)
from asyncfl.replica import items, locks, models, opening, uploads
from tests.fuzz.replica_world import FEDERATION, HONEST, IDENTITIES, LIAR, REPLICAS, World
from tests.fuzz.shapes import signed

SAID = 160
BOUND = 16
"""What the bounds are lowered to, so that few messages reach them."""


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def group(number: int) -> LockContent:
    members = tuple(Member(client=IDENTITIES[0].public, epoch=1, manifest=name(i)) for i in range(3))
    return LockContent(id=GroupId(epoch=1 + number, cell=0, coordinator=LIAR, part=0), members=members)


def item(number: int) -> Item:
    return Item(id=group(number).id, members=group(number).members, opened=name(number))


VOTE = Vote(replica=LIAR, signature=bytes(64))
CLIENT = IDENTITIES[0].public
FLOODS: dict[str, Callable[[int], Any]] = {
    "SHARE_OK": lambda i: ShareOk(client=CLIENT, epoch=1, manifest=name(i), signature=bytes(64)),
    "SHARE_BAD": lambda i: ShareBad(client=CLIENT, epoch=1, manifest=name(i), signature=bytes(64)),
    "LOCK": lambda i: Lock(
        content=group(i), supporters=(1, 2, 3), oks=((bytes(64),) * 3,) * 3, signature=bytes(64)
    ),
    "TAKEN_OVER": lambda i: TakenOver(content=group(i)),
    "REVEAL": lambda i: Reveal(content=group(i), votes=(VOTE,)),
    "ENTRY": lambda i: Entry(content=group(i), votes=(VOTE,), secret=b"x"),
    "SHARE_SUM": lambda i: ShareSum(id=group(i).id, group=name(i), total=bytes(184), signature=bytes(64)),
    "ATTEST": lambda i: Attest(id=group(i).id, item=name(i), signature=bytes(64)),
    "CERTIFIED_ITEM": lambda i: CertifiedItem(item=item(i), votes=(VOTE,), opened_bytes=400),
    "MODEL_VOTE": lambda i: ModelVote(version=name(i), entries=i, model=name(i), signature=bytes(64)),
    "VIEW": lambda i: View(
        base=name(i), base_epoch=i + 20, entries=i, rows=(Row(epoch=i + 30, items=(name(i),)),), pinned=True
    ),
    "ROWS": lambda i: Rows(base=bytes(32), first=1, rows=(Row(epoch=i + 1, items=(name(i),)),), more=True),
    "PULL": lambda i: Pull(blob=name(i), offset=0),
    "READY": lambda i: Ready(epoch=1 + i, coordinator=0, roster=0, uploaded=0, wants_task=True),
}


def held(value: Any, seen: set[int] | None = None) -> int:
    """How many elements all containers hold together that are reached from `value`."""
    seen = set() if seen is None else seen
    if (
        id(value) in seen
        or isinstance(value, str | bytes | int | float | type(None) | type)
        or callable(value)
    ):
        return 0
    seen.add(id(value))
    if isinstance(value, dict):
        return len(value) + sum(held(part, seen) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset) or type(value).__name__ == "deque":
        return len(value) + sum(held(part, seen) for part in value)
    fields = [*getattr(value, "__dict__", {}).values()]
    fields += [getattr(value, slot) for slot in getattr(value, "__slots__", ()) if hasattr(value, slot)]
    return sum(held(part, seen) for part in fields)


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_one_kind_leaves_no_more_than_its_bound(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, constant in (
        (uploads, "MAX_EARLY_OKS"), (items, "MAX_EARLY_ATTESTS"), (items, "MAX_REQUESTED"), (opening, "MAX_EARLY_SUMS"),
        (locks, "MAX_PENDING_PER_REPLICA"), (models, "KEEP_VOTES"),
    ):  # fmt: skip
        monkeypatch.setattr(module, constant, BOUND)
    monkeypatch.setattr("asyncfl.evidence.watch.keep_statements", lambda clients: BOUND)
    monkeypatch.setattr("asyncfl.evidence.watch.KEEP_RESULTS", BOUND)
    world = World()
    for replica in (*HONEST, LIAR):
        world.connect(REPLICAS[replica].public)
    world.settle()
    sender = IDENTITIES[0] if kind == "READY" else REPLICAS[LIAR]

    def say(first: int) -> int:
        for number in range(first, first + SAID):
            message: Message = signed(FLOODS[kind](number), sender, FEDERATION.digest)
            world.hear(sender.public, message)
            if number % 16 == 0:
                world.tick(0.3)
        return held(world.machine)

    once = say(0)
    assert say(SAID) <= once + 8 * BOUND, "it grows with every message"
