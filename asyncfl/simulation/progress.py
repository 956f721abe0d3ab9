"""L: how far a run has come, and what it still waits for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from asyncfl.effects import Table
from asyncfl.replica import Replica
from asyncfl.simulation.deployment import Simulation, running_replica
from asyncfl.simulation.turnover import is_enrolled

LEAST_OPENED: Final = 0.25
"""Part of the honest clients' uploads that must be opened in the end. `t` malicious replicas coordinate a quarter of
all cells at n = 4, where there are few cells all of them in some
epochs; late uploads of the last epochs find no later group."""


class Progress:
    """Of all who are not `hostile` (public keys)."""

    def __init__(self, simulation: Simulation, hostile: Collection[bytes]) -> None:
        self.simulation = simulation
        self.clients = [i.public for i in simulation.client_ids if i.public not in hostile]
        self._replicas = [key for key in simulation.federation.replica_keys if key not in hostile]

    def replicas(self) -> list[Replica]:
        """Those that are up."""
        nodes = self.simulation.network.nodes
        machines = (running_replica(nodes[key]) for key in self._replicas)
        return [machine for machine in machines if machine is not None]

    def is_done(self, client: bytes) -> bool:
        """Whether the client took part in all that it was to take part in.

        Who was never enrolled has nothing to do, nor has who is excluded in the end.
        """
        if client in self.simulation.exclusion.clients:
            return True
        machine = self.simulation.network.nodes[client].machine
        if machine is None:
            return not is_enrolled(self.simulation, client)
        return bool(machine.status(self.simulation.network.now)["done"])

    def late(self) -> str | None:
        """Who is not done, and what it says that it waits for."""
        nodes = self.simulation.network.nodes
        late = [nodes[key] for key in self.clients if not self.is_done(key)]
        said = []
        for node in late[:4]:
            if node.machine is None:
                said.append(f"{node.name} is down")
                continue
            status = node.machine.status(self.simulation.network.now)
            said.append(f"{node.name} at epoch {status['epoch']}: {status['waiting_for']}")
        return "; ".join(said) or None

    @property
    def entries(self) -> int:
        """Of the largest ledger."""
        return max(machine.context.ledger.entries for machine in self.replicas())

    @property
    def included(self) -> int:
        """Uploads of honest clients in the largest ledger."""
        ledger = max(
            (machine.context.ledger for machine in self.replicas()), key=lambda ledger: ledger.entries
        )
        return sum(ledger.counts.get(key, 0) for key in self.clients)

    @property
    def sent(self) -> int:
        """Uploads that honest clients have made."""
        nodes = self.simulation.network.nodes
        return sum(len(nodes[key].durable[Table.PRIVACY]) for key in self.clients)

    def unsettled(self) -> str | None:
        """What is still to come once all clients are done; None if nothing is."""
        machines = self.replicas()
        versions = {machine.context.version for machine in machines}
        in_force = self.simulation.exclusion
        if any(machine.context.exclusions.in_force != in_force for machine in machines):
            return (
                f"exclusion {in_force.number} never reaches all honest replicas, or another one counts there"
            )
        if len(machines) < len(self._replicas) or len(versions) > 1:
            return "honest replicas hold different entries for ever"
        groups = {group for machine in machines for group in machine.opening.groups}
        if groups:
            names = sorted(f"{g.epoch}/{g.cell}/{g.coordinator}/{g.part}" for g in groups)
            return f"locked groups never open: {', '.join(names)}"
        if not self.entries:
            return "no group was ever opened"
        latest = [machine.models.latest for machine in machines]
        behind = sum(model is None or model.version not in versions for model in latest)
        if behind:
            return (
                f"{behind} of {len(machines)} honest replicas never have their last version's model certified"
            )
        if self.included < LEAST_OPENED * self.sent:
            return f"only {self.included} of {self.sent} uploads of honest clients are opened"
        return None
