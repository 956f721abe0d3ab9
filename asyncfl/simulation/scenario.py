"""What a seed makes of a run: sizes, network, misfortune, attackers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

import numpy as np

from asyncfl.parameters import Parameters, RuleName
from asyncfl.replica.gossip import RECENT_ROWS
from asyncfl.simulation.attackers import ATTACKERS, Attack
from asyncfl.simulation.faults import (
    Crash,
    CrashAtEffect,
    Disconnection,
    Duplicates,
    Fault,
    Hold,
    Partition,
    Rollback,
    RosterChange,
    Skew,
)

EPOCHS: Final = 3
RULES: Final = get_args(RuleName)
BAD_GROUPS: Final = 0.15
"""Share of bad groups that a drawn rule allows for: windows then reach over several rows."""
CHANGES: Final = 0.3
"""Part of all seeds in which the operator changes the roster."""
CHANGING_EPOCHS: Final = 7
"""Of a run in which rosters change: some epochs must be left after the last change."""
LONG_RUNS: Final = 0.04
"""Part of all other seeds that go on for more epochs than a VIEW has rows."""
ROLLBACKS: Final = 0.18
"""Part of all seeds in which the operator takes entries out of the model."""
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
                case RosterChange(leaving=leaving, returning=returning, told=told):
                    names.update((*leaving, *returning, *told))
                case Rollback(clients=excluded, told=told):
                    names.update((*excluded, *told))
                case Duplicates():
                    pass
        return names

    def __str__(self) -> str:
        attackers, faults, rule = (
            len(self.attacks),
            len(self.faults),
            f", rule {self.rule}" * (self.rule != "mean"),
        )
        return (
            f"{self.replicas} replicas (t = {self.byzantine}), {_count(self.clients, 'client')}, "
            f"{_count(self.epochs, 'epoch')}, {_count(attackers, 'attacker')}, {_count(faults, 'fault')}{rule}"
        )

    def parameters(self) -> Parameters:
        return Parameters.for_clients(
            self.clients, replicas=self.replicas, byzantine=self.byzantine, preset="tiny",
            cell_size=self.cell_size, rule=self.rule, bad_groups=0.0 if self.rule == "mean" else BAD_GROUPS,
        )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


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
    scenario = Scenario(
        seed, replicas, byzantine, clients,
        latency=(slowest / 10, slowest), faults=faults, attacks=attacks, rule=rule,
    )  # fmt: skip
    # Numbers of their own, so that a seed's other draws stay what they are.
    changes, absence, rollbacks = (
        np.random.default_rng([seed, replicas, byzantine, number]) for number in (1, 2, 3)
    )
    if changes.random() < CHANGES:
        scenario = _with_roster_changes(changes, scenario, attack)
    elif absence.random() < LONG_RUNS:
        scenario = _with_a_long_absence(absence, scenario)
    return _with_rollbacks(rollbacks, scenario) if rollbacks.random() < ROLLBACKS else scenario


def _with_a_long_absence(rng: np.random.Generator, scenario: Scenario) -> Scenario:
    """The same over so many epochs that a replica which was away must ask for rows that no VIEW lists."""
    hostile = {chosen.node for chosen in scenario.attacks}
    honest = [name for j in range(scenario.replicas) if (name := f"replica-{j}") not in hostile]
    away, at = str(rng.choice(honest)), round(float(rng.uniform(0.5, 4)), 2)
    seconds = round(float(rng.uniform(15, 60)), 2)
    absence = Crash(away, at, seconds) if rng.random() < 0.5 else Partition((away,), at, seconds)
    epochs = int(rng.integers(RECENT_ROWS + 3, RECENT_ROWS + 9))
    return replace(scenario, epochs=epochs, faults=(*scenario.faults, absence))


def _with_roster_changes(rng: np.random.Generator, scenario: Scenario, attack: str | None) -> Scenario:
    """The same with one or two changes of the roster; a joiner may attack, or meet misfortune of its own."""
    clients, replicas = (
        [f"{role}-{i}" for i in range(count)]
        for role, count in (("client", scenario.clients), ("replica", scenario.replicas))
    )
    hostile = {chosen.node for chosen in scenario.attacks}
    told = [name for name in replicas if name not in hostile]
    at = round(float(rng.uniform(0.5, 8)), 2)
    first = _draw_change(rng, at, clients, (), told)
    changes = [first]
    if rng.random() < 0.4:
        staying = [name for name in clients if name not in first.leaving]
        at = round(at + float(rng.uniform(0, 6)), 2)
        changes.append(_draw_change(rng, at, staying, first.leaving, told))
    joiners = [f"joiner-{i}" for i in range(sum(change.joining for change in changes))]
    attacks = scenario.attacks
    pool = _names("client", attack)
    if joiners and pool and rng.random() < 0.3:
        attacks += (Attack(joiners.pop(), str(rng.choice(pool))),)
    extra: list[Fault] = []
    if joiners and rng.random() < 0.5:
        extra.append(_draw_fault(rng, [*joiners, *told]))
    if rng.random() < 0.5:
        extra.append(
            Hold(
                "RosterStatement", str(rng.choice(told)), round(float(rng.uniform(0, 8)), 2), round(at + 5, 2)
            )
        )
    faults = (*scenario.faults, *changes, *extra)
    return replace(scenario, epochs=CHANGING_EPOCHS, faults=faults, attacks=attacks)


def _draw_change(
    rng: np.random.Generator, at: float, clients: Sequence[str], away: Sequence[str], told: Sequence[str]
) -> RosterChange:
    """Some of `clients` leave, some of those who are `away` come back, others join; some replicas are `told`."""

    def some(names: Sequence[str], least: int, most: int) -> tuple[str, ...]:
        count = int(rng.integers(least, most + 1))
        return tuple(sorted(rng.permutation(np.array(names, dtype=object))[:count].tolist()))

    # One epoch ahead is too late for those who train for that epoch already: the command would not do it.
    return RosterChange(
        at, round(float(rng.exponential(1.0)), 2), int(rng.integers(1, 5)),
        some(clients, 0, len(clients) // 3), some(away, 0, len(away)), int(rng.integers(0, 5)),
        some(told, 1, len(told)),
    )  # fmt: skip


def _with_rollbacks(rng: np.random.Generator, scenario: Scenario) -> Scenario:
    """The same with one to three exclusions, of which one number may be signed twice; the run may be a long one."""
    if scenario.epochs == EPOCHS and rng.random() < 0.5:
        long = rng.random() < 0.2
        scenario = _with_a_long_absence(rng, scenario) if long else replace(scenario, epochs=CHANGING_EPOCHS)
    hostile = {chosen.node for chosen in scenario.attacks}
    told = [name for j in range(scenario.replicas) if (name := f"replica-{j}") not in hostile]
    clients = [f"client-{i}" for i in range(scenario.clients)]
    numbers = int(rng.integers(1, 4))
    twice = int(rng.integers(numbers)) if rng.random() < 0.4 else None
    rollbacks: list[Rollback] = []
    at = float(rng.uniform(0.5, 3.0))
    for number in range(numbers):
        rollbacks.append(_draw_rollback(rng, at, scenario.epochs, clients, told, again=False))
        if number == twice:
            also = at + float(rng.choice([0.0, rng.uniform(0, 2)]))
            rollbacks.append(_draw_rollback(rng, also, scenario.epochs, clients, told, again=True))
        at += float(rng.uniform(2.0, 2.0 + scenario.epochs))
    extra: list[Fault] = []
    if rng.random() < 0.4:
        seconds = round(float(rng.uniform(0, 8)), 2)
        until = round(float(rng.uniform(2, 15)), 2)
        extra.append(Hold("ExclusionStatement", str(rng.choice(told)), seconds, until))
    return replace(scenario, faults=(*scenario.faults, *rollbacks, *extra))


def _draw_rollback(
    rng: np.random.Generator,
    at: float,
    epochs: int,
    clients: Sequence[str],
    told: Sequence[str],
    *,
    again: bool,
) -> Rollback:
    """Up to two entries, up to two spans of epochs, sometimes a client; nothing at all takes all of it back."""
    entries = tuple(round(float(rng.random()), 3) for _ in range(int(rng.integers(0, 3))))
    spans: tuple[tuple[int, int], ...] = ()
    if rng.random() < 0.5:
        first = int(rng.integers(1, epochs + 1))
        last = first + int(rng.integers(0, 3))
        spans = ((first, last), (last + 2, last + 3))[: int(rng.integers(1, 3))]
    excluded = (str(rng.choice(clients)),) if rng.random() < 0.15 else ()
    some = tuple(
        sorted(rng.permutation(np.array(told, dtype=object))[: int(rng.integers(1, len(told) + 1))].tolist())
    )
    return Rollback(round(at, 2), entries, excluded, spans, again, some)


def _draw_attacks(
    rng: np.random.Generator, replicas: int, byzantine: int, clients: int, attack: str | None
) -> tuple[Attack, ...]:
    pool = {role: _names(role, attack) for role in ("replica", "client")}
    attacks: list[Attack] = []
    if pool["replica"]:
        count = byzantine if attack else int(rng.integers(0, byzantine + 1))
        for j in rng.permutation(replicas)[:count]:
            attacks.append(Attack(f"replica-{j}", str(rng.choice(pool["replica"]))))
    if pool["client"]:
        for i in rng.permutation(clients)[: int(rng.integers(1 if attack else 0, 3))]:
            attacks.append(Attack(f"client-{i}", str(rng.choice(pool["client"]))))
    beside = None if attack is None else ATTACKERS[attack].beside
    if beside is not None:
        # One liar of each kind; a client's attack takes a replica that colludes.
        liars = [each.node for each in attacks if each.node.startswith("replica")]
        node = liars[-1] if liars else f"replica-{rng.integers(0, replicas)}"
        attacks = [each for each in attacks if each.node != node] + [Attack(node, beside)]
    return tuple(attacks)


def _names(role: str, attack: str | None) -> list[str]:
    """Attacks of a role to draw from: `attack` alone, if one is named."""
    return sorted(a.name for a in ATTACKERS.values() if a.role == role and attack in (None, a.name))


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
