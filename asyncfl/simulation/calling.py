"""How the operator of a simulated run reaches replicas: it calls again until each has heard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from asyncfl.messages import ExclusionStatement, RosterStatement
from asyncfl.replica import Replica
from asyncfl.simulation.deployment import Simulation, running_replica

CALL_SECONDS: Final = 1.0
"""How often the operator calls those who cannot be reached."""


def call(
    simulation: Simulation, name: str, statements: Sequence[RosterStatement | ExclusionStatement]
) -> None:
    """Bring `statements`, which ascend, to a replica: now, or as soon as it is up.

    One that goes down while it takes them is called again, as `asyncfl rollback` does until FRONT names the statement.
    """
    network = simulation.network
    nodes = [network.nodes[key].name for key in simulation.federation.replica_keys]
    index = nodes.index(name)
    for statement in statements:
        if network.is_up(simulation.replica_key(index)):
            simulation.tell(index, statement)
    if not network.is_up(simulation.replica_key(index)):
        network.after(CALL_SECONDS, partial(call, simulation, name, statements))


def find_running(simulation: Simulation, hostile: Collection[str]) -> list[Replica]:
    """Machines of all replicas that are up, without those whose names are `hostile`."""
    replicas = [simulation.network.nodes[key] for key in simulation.federation.replica_keys]
    honest = [node for node in replicas if node.name not in hostile]
    return [machine for machine in map(running_replica, honest) if machine is not None]
