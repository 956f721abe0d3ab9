"""The operator of a simulated run: retires clients and enrols others, as `asyncfl enroll` and `asyncfl retire` do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from asyncfl.simulation.calling import CALL_SECONDS, call, find_running
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import RosterChange


def arrange(simulation: Simulation, changes: Sequence[RosterChange], hostile: Collection[str] = ()) -> None:
    """Let `changes` come in a deployment that has not been started; `hostile` are the names of those who lie.

    The clients that will join are added to it here, in the order of `changes`.
    """
    for change in changes:
        joiners = [simulation.enrol() for _ in range(change.joining)]
        simulation.network.after(change.at, partial(_sign, simulation, change, joiners, hostile))


def is_enrolled(simulation: Simulation, client: bytes) -> bool:
    """Whether the operator has signed a roster that lists the client."""
    return any(client in roster.position for roster in simulation.rosters)


def _sign(
    simulation: Simulation, change: RosterChange, joiners: Sequence[int], hostile: Collection[str]
) -> None:
    network = simulation.network
    running = find_running(simulation, hostile)
    if not running:
        network.after(CALL_SECONDS, partial(_sign, simulation, change, joiners, hostile))
        return
    newest = simulation.rosters[-1]
    members = {
        number
        for number in range(len(simulation.client_ids))
        if simulation.client_key(number) in newest.position
    }
    numbers = {
        network.nodes[simulation.client_key(number)].name: number for number in range(simulation.clients)
    }
    returning = [numbers[name] for name in change.returning]
    members -= {numbers[name] for name in change.leaving}
    members |= {*returning, *joiners}
    if len(members) < simulation.parameters.cell_size:
        return  # The operator's command refuses: no cell could be filled.
    front = max(replica.context.inclusion.front for replica in running)
    start = max(front + change.ahead, newest.start_epoch + 1)
    statement = simulation.sign_next_roster(start, members)
    statements = [roster.statement for roster in simulation.rosters[1 : statement.number + 1]]
    for name in change.told:
        call(simulation, name, statements)
    network.after(change.seconds, lambda: _start(simulation, (*returning, *joiners)))


def _start(simulation: Simulation, clients: Sequence[int]) -> None:
    """Who comes back had a process that said nothing any more: it is started again."""
    for number in clients:
        key = simulation.client_key(number)
        if simulation.network.is_up(key):
            simulation.network.crash(key)
        simulation.network.start(key)
