"""Which groups may be opened, said a second time: the observer must not rely on the code that it watches.

Rule 4 of an upload's life (docs/protocol.md), from the shuffle up, and the client's signature on every member.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from asyncfl.assignment import compute_cells, compute_seed
from asyncfl.federation import Federation, Roster
from asyncfl.identity import verify
from asyncfl.messages import LockContent, Manifest
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
        named = [roster for roster in rosters if roster.digest == core.roster_digest]
        if not any(_is_in_cell(core.client, core.epoch, core.cell, federation, roster) for roster in named):
            found.append("a member is in a cell where the shuffle did not put it")
        if not verify(core.client, Manifest.KIND, federation.digest, manifest.body(), manifest.signature):
            found.append("an upload was opened that its client did not sign")
    return found


def _is_in_cell(client: bytes, epoch: int, cell: int, federation: Federation, roster: Roster) -> bool:
    cells = _cells(
        roster, federation.parameters.cell_size, compute_seed(federation.digest, roster.digest, epoch)
    )
    return roster.start_epoch <= epoch and cell < len(cells) and client in cells[cell]


_cells = lru_cache(maxsize=64)(compute_cells)
"""The same for all members of a group."""
