"""What a person wants to know of a replica, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from asyncfl.exclusions import Exclusion
from asyncfl.statistics import RowStatistics

if TYPE_CHECKING:
    from asyncfl.replica.machine import Replica

MAX_SILENT: Final = 64
"""As many silent clients are named in a status."""
ARRIVAL_SECONDS: Final = 20.0
"""For so long after a replica's start clients may still be on their way: nobody is gone for good yet."""


def describe(replica: Replica) -> dict[str, Any]:
    """Plain JSON values: state, ledger, certified model, uploads, peers, and what it waits for."""
    context, ledger = replica.context, replica.context.ledger
    latest = replica.models.latest
    connected = [j for j in context.connected_replicas() if j != context.index]
    return {
        "state": "up" if replica.gossip.is_caught_up else "catching_up",
        "entries": ledger.entries,
        "epoch": ledger.last_epoch,
        "front": context.inclusion.front,
        "roster": context.rosters.at(context.inclusion.front).number,
        "highest_roster": context.rosters.highest,
        "version": context.version.hex(),
        "exclusion": context.exclusions.highest,
        "certified": None
        if latest is None
        else {
            "version": latest.version.hex(),
            "entries": latest.entries,
            "model": latest.model.hex(),
            "statement": latest.exclusion.number,
            "counted": ledger.counted(latest.head).entries if latest.exclusion == ledger.exclusion else None,
        },
        "counted": {"entries": ledger.counted_head.entries, "uploads": ledger.counted_head.memberships},
        "left_out": describe_exclusion(ledger.exclusion),
        "rows": {str(epoch): members for epoch, members in sorted(ledger.row_members.items())},
        "accuracy": describe_accuracy(() if latest is None else latest.statistics),
        "inclusion": {client.hex(): count for client, count in sorted(ledger.counts.items())},
        "uploads": {
            "stored": sum(record.stored for record in replica.uploads.records.values()),
            "waiting": sum(replica.coordination.is_groupable(r) for r in replica.uploads.records.values()),
        },
        "tasks": {
            "outstanding": len(replica.tasks.scheduler.outstanding),
            "waiting": len(replica.tasks.waiting),
        },
        "groups_open": len(replica.opening.groups) + len(replica.coordination.own),
        "connected": len(connected),
        "connected_clients": sum(peer not in context.federation.replica_index for peer in context.connected),
        "silent": [client.hex() for client in silent_members(replica)[:MAX_SILENT]],
        "patience_s": context.inclusion.patience.seconds,
        "finished": replica.models.finished,
        "evidence": context.docket.status(),
        "stall": explain_stall(replica),
    }


def describe_exclusion(exclusion: Exclusion) -> dict[str, Any]:
    """What an exclusion names: how many entries, clients by key, first and last epochs."""
    return {
        "entries": len(exclusion.entries),
        "clients": sorted(client.hex() for client in exclusion.clients),
        "spans": [[first, last] for first, last in exclusion.spans],
    }


def describe_accuracy(rows: Iterable[RowStatistics]) -> dict[str, dict[str, float]]:
    """By epoch what a row's members measured: noisy sums, and the standard deviation of the noise in each."""
    return {
        str(row.epoch): {
            "correct": round(row.correct, 2), "count": round(row.count, 2), "noise": round(row.noise, 2),
        }
        for row in rows
    }  # fmt: skip


def explain_stall(replica: Replica) -> str | None:
    """Why nothing, or little, can move, with the numbers and the remedy; None while it can."""
    context = replica.context
    parameters = context.parameters
    reachable = context.connected_replicas()
    if len(reachable) < parameters.quorum:
        missing = [f"replica-{j}" for j in range(parameters.replicas) if j not in reachable]
        return (
            f"{len(reachable)} of {parameters.replicas} replicas can be reached, {parameters.quorum} are needed "
            f"to lock a group: start {' or '.join(missing)} again, or mend the network to them; training resumes "
            "by itself"
        )
    if replica.models.latest is None:
        return f"no model is certified yet: {parameters.certifiers} replicas must sign one"
    members, silent = len(context.rosters.at(context.inclusion.front).members), len(silent_members(replica))
    live, cells = members - silent, max(1, members // parameters.cell_size)
    if live < parameters.min_group * cells and context.now - context.started < ARRIVAL_SECONDS:
        return (
            f"{live} of {members} clients have come so far, a group needs {parameters.min_group} of one cell"
        )
    remedy = "start more clients, or let the operator retire those that are gone for good (asyncfl retire)"
    if live < parameters.min_group:
        return (
            f"{live} of {members} clients are live, a group needs {parameters.min_group} of one cell of "
            f"{parameters.cell_size}: {remedy}"
        )
    if live < parameters.min_group * cells:
        return (
            f"{live} of {members} clients are live, {live / cells:.1f} of a cell on average, and a group needs "
            f"{parameters.min_group}: few cells fill; {remedy}"
        )
    return None


def silent_members(replica: Replica) -> list[bytes]:
    """Members of the roster at the front that are not live, as far as this replica hears."""
    context = replica.context
    inclusion = context.inclusion
    members = context.rosters.at(inclusion.front).members
    return [client for client in members if not inclusion.is_live(client, context.now)]
