"""Puts attackers into a simulated deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asyncfl.adversary import ATTACKERS, Coven, Insider, Malicious
from asyncfl.effects import Machine
from asyncfl.identity import Identity
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.network import Durable, Node

__all__ = ["ATTACKERS", "Attack", "corrupt"]


@dataclass(frozen=True, slots=True)
class Attack:
    """`node` behaves as the attacker `name` of the registry."""

    node: str
    name: str

    def __str__(self) -> str:
        return f"{self.node} attacks: {self.name}"


def corrupt(simulation: Simulation, attacks: Sequence[Attack]) -> Coven:
    """Let the named nodes misbehave from the start; they share one coven, which is returned.

    It outlives each of them, but not one that is alone in it.
    """
    coven = Coven(simulation.federation)
    nodes = {node.name: node for node in simulation.network.nodes.values()}
    identities = {i.public: i for i in (*simulation.replica_ids, *simulation.client_ids)}
    for attack in attacks:
        node = nodes[attack.node]
        identity = coven.identities[node.key] = identities[node.key]
        node.make = _misbehaving(simulation, node, identity, coven, attack.name, alone=len(attacks) == 1)
    return coven


def _misbehaving(
    simulation: Simulation, node: Node, identity: Identity, coven: Coven, name: str, *, alone: bool
) -> Callable[[Durable], Machine]:
    make = node.make

    def made(durable: Durable) -> Machine:
        if alone:
            coven.forget()
        machine = make(durable)
        insider = Insider(simulation.federation, identity, machine, coven)
        return Malicious(machine, ATTACKERS[name].make(insider))

    return made
