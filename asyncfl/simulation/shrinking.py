"""From a scenario that fails to a smaller one that fails in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import Outcome, run

TRIES: Final = 200


def shrink(outcome: Outcome, *, tries: int = TRIES) -> Outcome:
    """The smallest failure found that breaks the same rule: fewer faults, attackers, epochs, clients.

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
    last = f"client-{scenario.clients - 1}"
    if scenario.clients > scenario.replicas and last not in scenario.mentioned():
        yield replace(scenario, clients=scenario.clients - 1)
