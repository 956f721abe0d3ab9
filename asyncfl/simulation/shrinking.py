"""From a scenario that fails to a smaller one that fails in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Final, TypeVar

from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.faults import Fault
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import Outcome, run

TRIES: Final = 200

Named = TypeVar("Named", Fault, Attack)


def shrink(outcome: Outcome, *, tries: int = TRIES) -> Outcome:
    """The smallest failure found that breaks the same rule: fewer faults, attackers, epochs, replicas, clients.

    Greedy, `tries` runs at most; returns `outcome` itself where nothing smaller fails alike.
    """
    best, progress = outcome, True
    while progress:
        progress = False
        for candidate in _smaller(best.scenario):
            if not tries:
                return best
            tries -= 1
            found = run(candidate)
            if found.kind == outcome.kind:
                best, progress = found, True
                break
    return best


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    for index in range(len(scenario.faults)):
        yield replace(scenario, faults=scenario.faults[:index] + scenario.faults[index + 1 :])
    for index in range(len(scenario.attacks)):
        yield replace(scenario, attacks=scenario.attacks[:index] + scenario.attacks[index + 1 :])
    if scenario.epochs > 1:
        yield replace(scenario, epochs=scenario.epochs - 1)
    if scenario.rule != "mean":
        yield replace(scenario, rule="mean")
    if scenario.byzantine > 1 and _hostile(scenario) < scenario.byzantine:
        fewer = 3 * (scenario.byzantine - 1) + 1
        smaller = replace(scenario, replicas=fewer, byzantine=scenario.byzantine - 1)
        yield from _renumbered(smaller, "replica", fewer)
    for fewer in (scenario.clients // 2, scenario.clients - 1):
        if fewer >= scenario.replicas:
            yield from _renumbered(replace(scenario, clients=fewer), "client", fewer)


def _hostile(scenario: Scenario) -> int:
    """How many replicas attack."""
    return sum(attack.node.startswith("replica-") for attack in scenario.attacks)


def _renumbered(scenario: Scenario, role: str, count: int) -> Iterator[Scenario]:
    """Who is mentioned and is not among the first `count` of its role takes another's place there, if there is one."""
    numbers = sorted(int(name.split("-")[1]) for name in scenario.mentioned() if name.startswith(f"{role}-"))
    if len(numbers) > count:
        return
    free = iter([number for number in range(count) if number not in numbers])
    names = {f"{role}-{number}": f"{role}-{next(free)}" for number in numbers if number >= count}
    faults = tuple(_renamed(fault, names) for fault in scenario.faults)
    attacks = tuple(_renamed(attack, names) for attack in scenario.attacks)
    yield replace(scenario, faults=faults, attacks=attacks)


def _renamed(thing: Named, names: Mapping[str, str]) -> Named:
    """A fault or an attack of other nodes."""
    changes: dict[str, Any] = {}
    for field in fields(thing):
        value = getattr(thing, field.name)
        if isinstance(value, str):
            changes[field.name] = names.get(value, value)
        elif isinstance(value, tuple):
            changes[field.name] = tuple(names.get(name, name) for name in value)
    return replace(thing, **changes)
