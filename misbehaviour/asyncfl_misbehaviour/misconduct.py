"""What the nodes of a process do: attacks of the simulator (`asyncfl.adversary`) around their machines, or assaults."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from asyncfl.adversary import ATTACKERS, Attacker, Behaviour, Coven, Insider, Malicious
from asyncfl.adversary.behaviour import Role
from asyncfl.effects import Machine
from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS, Target
from asyncfl_misbehaviour.hostile_network import HostileNetwork
from asyncfl_misbehaviour.poisoners import poisoner
from node.deployment_files import DeploymentDirectory
from node.runtime import Network


@dataclass
class Misconduct:
    """What the nodes of this process do. Implements `node.interference.Interference`.

    They share one coven: the keys of `colluders` (read from the deployment's directory) and of each other, and
    whatever one of *them* has seen. What colluders in other processes have seen they do not know.
    """

    attackers: tuple[Attacker, ...]
    colluders: tuple[str, ...] = ()
    transport: str | None = None
    """An attack on the transport, which takes the place of all others."""
    coven: Coven | None = field(default=None, init=False)

    @classmethod
    def of(cls, names: str, role: Role, colluders: tuple[str, ...] = ()) -> Misconduct:
        """From names separated by commas. Raises `ConfigurationError` for one that `role` cannot do."""
        several = [name.strip() for name in names.split(",")]
        transport = next((name for name in several if name in TRANSPORT_ATTACKS), None)
        if transport is None:
            learning = [name for name in several if name not in ATTACKERS]
            if len(learning) > 1 and all(_named(name, role) for name in learning):
                raise ConfigurationError(
                    f"--misbehave {names}: put attacks on learning together as {'+'.join(learning)!r} (all of them) or "
                    f"{'|'.join(learning)!r} (attackers in turn)"
                )
            return cls(tuple(_named(name, role) for name in several), colluders)
        if len(several) > 1:
            raise ConfigurationError(
                f"--misbehave {transport} leaves nothing of the node that could do anything else: give it alone"
            )
        return cls((), colluders, transport)

    @property
    def label(self) -> str:
        return self.transport or ", ".join(attacker.name for attacker in self.attackers)

    def machine(self, files: DeploymentDirectory, identity: Identity, machine: Machine) -> Machine:
        """The machine under all behaviours, the first one next to it."""
        coven = self._join(files, identity)
        insider = Insider(coven.federation, identity, machine, coven)
        bent, began = machine, time.monotonic()
        for attacker in self.attackers:
            bent = Malicious(bent, attacker.make(insider), began=began)
        return Marked(bent, Behaviour(insider), self.label)

    def network(
        self, files: DeploymentDirectory, identity: Identity, listen: tuple[str, int] | None
    ) -> Network | None:
        if self.transport is None:
            return None
        deployment = files.deployment
        targets = [
            Target(
                identity,
                deployment.digest,
                replica.key,
                replica.url,
                *replica.address,
                deployment.model.digest,
            )
            for replica in deployment.replicas
            if replica.key != identity.public
        ]
        return HostileNetwork(targets, TRANSPORT_ATTACKS[self.transport].assault, listen)

    def _join(self, files: DeploymentDirectory, identity: Identity) -> Coven:
        if self.coven is None:
            self.coven = Coven(files.deployment.federation())
            for name in self.colluders:
                colluder = files.identity(name)
                self.coven.identities[colluder.public] = colluder
        self.coven.identities[identity.public] = identity
        return self.coven


class Marked(Malicious):
    """A machine whose status says that it misbehaves."""

    def __init__(self, machine: Machine, behaviour: Behaviour, label: str) -> None:
        super().__init__(machine, behaviour)
        self.label = label

    def status(self, now: float) -> dict[str, Any]:
        return {**super().status(now), "misbehaving": self.label}


def _named(name: str, role: Role) -> Attacker:
    attacker = ATTACKERS.get(name)
    if attacker is None:
        try:
            attacker = poisoner(name)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"--misbehave {name}: there is no such attack; `asyncfl simulate --attack list` lists them, and on the "
                f"transport there are {', '.join(TRANSPORT_ATTACKS)}; {error}"
            ) from None
    if attacker.role != role:
        raise ConfigurationError(f"--misbehave {name} is an attack of a {attacker.role}, not of a {role}")
    return attacker
