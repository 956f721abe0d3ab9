"""The operator of a simulated run takes entries out of the model, and puts them back, as `asyncfl rollback` does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from asyncfl.digest import digest
from asyncfl.fold import FoldCache, FoldJob
from asyncfl.ledger import Ledger
from asyncfl.replica import Replica
from asyncfl.simulation.calling import call, find_running
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import Rollback


def arrange_rollbacks(
    simulation: Simulation, rollbacks: Sequence[Rollback], hostile: Collection[str] = ()
) -> None:
    """Let `rollbacks` come in a deployment that has not been started; `hostile` are the names of those who lie."""
    for rollback in rollbacks:
        simulation.network.after(rollback.at, partial(_sign, simulation, rollback, hostile))


def recompute_clean(simulation: Simulation, replica: Replica) -> bytes:
    """The model of a replica's ledger as if the excluded entries had never been there, computed from nothing."""
    exclusion = replica.context.exclusions.in_force
    clean = Ledger(simulation.federation.digest)
    for name, item in replica.context.ledger.items.items():
        if not exclusion.excludes(name, item):
            clean.add(item)
    job = FoldJob(simulation.federation, simulation.initial, clean.head, simulation.clients, FoldCache())
    blobs = simulation.network.nodes[simulation.replica_key(replica.context.index)].blobs
    return job.run(blobs).model


def _sign(simulation: Simulation, rollback: Rollback, hostile: Collection[str]) -> None:
    network = simulation.network
    held = sorted(
        {name for machine in find_running(simulation, hostile) for name in machine.context.ledger.items}
    )
    # With nothing to choose from it names what is nowhere.
    nowhere = digest("asyncfl/1/simulated-entry", str(rollback).encode())
    entries = {held[int(place * len(held))] if held else nowhere for place in rollback.entries}
    numbers = {network.nodes[simulation.client_key(i)].name: i for i in range(simulation.clients)}
    last = simulation.exclusion.number
    statement = simulation.sign_exclusion(
        last if rollback.again and last else last + 1,
        entries=entries,
        clients=[numbers[name] for name in rollback.clients],
        spans=rollback.spans,
        reason=f"signed {len(simulation.exclusions) + 1}",
    )
    before = [each for each in simulation.exclusions if each.number < statement.number]
    for name in rollback.told:
        call(simulation, name, (*before, statement))
