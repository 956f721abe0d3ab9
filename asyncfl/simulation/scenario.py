"""What a seed makes of a run: sizes, network, misfortune, attackers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from asyncfl.parameters import Parameters, RuleName
from asyncfl.simulation.attackers import ATTACKERS, Attack
from asyncfl.simulation.faults import (
    Crash,
    CrashAtEffect,
    Disconnection,
    Duplicates,
    Fault,
    Hold,
    Partition,
    Skew,
)

EPOCHS: Final = 3
RULES: Final = get_args(RuleName)
BAD_GROUPS: Final = 0.15
"""Share of bad groups that a drawn rule allows for: windows then reach over several rows."""
_HELD: Final = ("*", "Upload", "Relay", "ShareOk", "Lock", "Locked", "Reveal", "ShareSum", "Entry", "Attest",
         "View", "ModelVote", "Task", "Front", "Stored", "Ready")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that decides a run. The same scenario gives the same run, event by event."""

    seed: int
    replicas: int
    byzantine: int
    clients: int
    epochs: int = EPOCHS
    latency: tuple[float, float] = (0.005, 0.05)
    faults: tuple[Fault, ...] = ()
    attacks: tuple[Attack, ...] = ()
    cell_size: int | None = None
    """None: as many clients to a cell as the deployment's defaults say."""
    rule: str = "mean"

    def mentioned(self) -> set[str]:
        """Names of the nodes that a fault or an attack needs."""
        names: set[str] = {attack.node for attack in self.attacks}
        for fault in self.faults:
            match fault:
                case Crash(node=name) | CrashAtEffect(node=name) | Skew(node=name) | Hold(target=name):
                    names.add(name)
                case Partition(nodes=several):
                    names.update(several)
                case Disconnection(first=first, second=second):
                    names.update((first, second))
                case Duplicates():
                    pass
        return names

    def parameters(self) -> Parameters:
        return Parameters.for_clients(
            self.clients, replicas=self.replicas, byzantine=self.byzantine, preset="tiny",
            cell_size=self.cell_size, rule=self.rule, bad_groups=0.0 if self.rule == "mean" else BAD_GROUPS,
        )  # fmt: skip


def draw(seed: int, *, replicas: int, byzantine: int, attack: str | None = None) -> Scenario:
    """A scenario from a seed: sizes, network, misfortune, and attackers (only `attack`, if one is named)."""
    rng = np.random.default_rng([seed, replicas, byzantine])
    clients = int(rng.integers(max(6, replicas), 2 * replicas + 4))
    names = [f"replica-{j}" for j in range(replicas)] + [f"client-{i}" for i in range(clients)]
    slowest = float(rng.choice([0.05, 0.2, 0.8]))
    attacks = _draw_attacks(rng, replicas, byzantine, clients, attack)
    hostile = {chosen.node for chosen in attacks}
    honest = [name for name in names if name not in hostile]
    faults = tuple(_draw_fault(rng, honest) for _ in range(int(rng.integers(0, 6))))
    rule = str(rng.choice(RULES)) if rng.random() < 0.5 else "mean"
    return Scenario(
        seed, replicas, byzantine, clients,
        latency=(slowest / 10, slowest), faults=faults, attacks=attacks, rule=rule,
    )  # fmt: skip


def _draw_attacks(
    rng: np.random.Generator, replicas: int, byzantine: int, clients: int, attack: str | None
) -> tuple[Attack, ...]:
    pool = {
        role: sorted(a.name for a in ATTACKERS.values() if a.role == role) for role in ("replica", "client")
    }
    if attack is not None:
        role = ATTACKERS[attack].role
        pool = {
            "replica": [attack] if role == "replica" else [],
            "client": [attack] if role == "client" else [],
        }
    attacks: list[Attack] = []
    if pool["replica"]:
        count = byzantine if attack else int(rng.integers(0, byzantine + 1))
        for j in rng.permutation(replicas)[:count]:
            attacks.append(Attack(f"replica-{j}", str(rng.choice(pool["replica"]))))
    if pool["client"]:
        for i in rng.permutation(clients)[: int(rng.integers(1 if attack else 0, 3))]:
            attacks.append(Attack(f"client-{i}", str(rng.choice(pool["client"]))))
    return tuple(attacks)


def _draw_fault(rng: np.random.Generator, names: Sequence[str]) -> Fault:
    def anybody() -> str:
        return str(rng.choice(names))

    at = round(float(rng.uniform(0, 20)), 2)
    seconds = round(float(rng.exponential(4.0)) + 0.1, 2)
    match int(rng.integers(7)):
        case 0:
            return Crash(anybody(), at, seconds)
        case 1:
            return CrashAtEffect(anybody(), int(rng.integers(1, 600)), seconds)
        case 2:
            size = int(rng.integers(1, max(2, len(names) // 2)))
            return Partition(tuple(sorted(rng.choice(names, size, replace=False).tolist())), at, seconds)
        case 3:
            first, second = rng.choice(names, 2, replace=False).tolist()
            return Disconnection(first, second, at, seconds)
        case 4:
            target = anybody() if rng.random() < 0.7 else "*"
            return Hold(str(rng.choice(_HELD)), target, round(seconds / 3, 2), round(at + 5, 2))
        case 5:
            return Skew(
                anybody(), round(float(rng.uniform(0.8, 1.25)), 3), round(float(rng.uniform(0, 1e4)), 1)
            )
        case _:
            return Duplicates(round(float(rng.uniform(0.01, 0.2)), 3))
