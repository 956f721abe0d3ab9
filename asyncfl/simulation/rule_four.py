"""Which groups may be opened, said a second time: the observer must not rely on the code that it watches.

Rule 4 of an upload's life (docs/protocol.md), from the shuffle up, and the client's signature on every member.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from hashlib import sha256

from asyncfl.digest import digest
from asyncfl.federation import Federation, Roster
from asyncfl.identity import verify
from asyncfl.messages import LockContent, Manifest, ManifestCore
from asyncfl.parameters import MAX_LATE_EPOCHS


def objections(
    content: LockContent,
    manifests: Sequence[Manifest],
    federation: Federation,
    rosters: Collection[Roster],
) -> list[str]:
    """Why this group must not be opened; empty if it may be. `manifests[i]` is member i's.

    `rosters` are those that the operator has signed.
    """
    parameters, group = federation.parameters, content.id
    found: list[str] = []
    cores = [manifest.core for manifest in manifests]
    own = [core for core in cores if (core.epoch, core.cell) == (group.epoch, group.cell)]
    riders = [core for core in cores if (core.epoch, core.cell) != (group.epoch, group.cell)]
    if len(own) < parameters.min_group:
        found.append(f"{len(own)} members of one cell were opened, not {parameters.min_group}")
    if len({core.roster_digest for core in own}) > 1:
        found.append("members of one cell number under two rosters were opened as one cell")
    if len({core.client for core in cores}) < len(cores):
        found.append("a client appears twice in an opened group")
    if len(cores) > parameters.max_group:
        found.append(f"{len(cores)} members were opened, more than max_group")
    if riders and (group.epoch - 1 + group.cell - group.coordinator) % parameters.replicas:
        found.append("late uploads rode on a cell that is not the coordinator's own")
    if any(not 0 <= group.epoch - core.epoch <= MAX_LATE_EPOCHS for core in riders):
        found.append("an upload of a later epoch, or one too old, rode on a group")
    for manifest, member in zip(manifests, content.members, strict=True):
        core = manifest.core
        if (core.client, core.epoch) != (member.client, member.epoch):
            found.append("a member is not its manifest's")
        if is_misplaced(core, federation, rosters):
            found.append("a member is in a cell where the shuffle did not put it")
        if not verify(core.client, Manifest.KIND, federation.digest, manifest.body(), manifest.signature):
            found.append("an upload was opened that its client did not sign")
    return found


def is_misplaced(core: ManifestCore, federation: Federation, rosters: Collection[Roster]) -> bool:
    """Whether the roster that an upload names, of those that the operator signed, puts its client elsewhere."""
    roster = next((roster for roster in rosters if roster.digest == core.roster_digest), None)
    if roster is None or roster.start_epoch > core.epoch:
        return True
    cells = _cells(federation.digest, roster, federation.parameters.cell_size, core.epoch)
    return core.cell >= len(cells) or core.client not in cells[core.cell]


@lru_cache(maxsize=64)
def _cells(deployment: bytes, roster: Roster, cell_size: int, epoch: int) -> list[list[bytes]]:
    """Swap-or-not, one member at a time, cut into cells. The same for all members of a group."""
    seed = digest("asyncfl/1/shuffle", deployment, roster.digest, epoch.to_bytes(8, "little"))
    count = len(roster.members)
    shuffled = sorted(roster.members, key=lambda member: _position(roster.position[member], count, seed))
    cells = max(1, count // cell_size)
    return [shuffled[k * count // cells : (k + 1) * count // cells] for k in range(cells)]


def _position(index: int, count: int, seed: bytes) -> int:
    """Where the shuffle puts `index` of `count`: 90 rounds, in each of which it and its mirror image may swap."""
    for number in range(90):
        tag = seed + bytes([number])
        mirror = (int.from_bytes(sha256(tag).digest()[:8], "little") - index) % count
        larger = max(index, mirror)
        bits = int.from_bytes(sha256(tag + (larger // 256).to_bytes(4, "little")).digest(), "little")
        if bits >> (larger % 256) & 1:
            index = mirror
    return index
