"""Every rule is needed: without it the attacks that it stops succeed, and the simulator notices; with it they do not.

A defect is *caught* where the observer finds a rule broken or nothing moves any more, or where what the attacker is
after was reached (`goals`).
"""

from dataclasses import replace

import pytest

from asyncfl.adversary import ATTACKERS
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.faults import Disconnection
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import run
from tests.simulation import goals
from tests.simulation.attack_mutations import ATTACK_MUTATIONS
from tests.simulation.goals import Goal, measured
from tests.simulation.mutations import MUTATIONS, Mutation, applied, by_clients, by_replica

ALL = {mutation.name: mutation for mutation in (*MUTATIONS, *ATTACK_MUTATIONS)}
PAIRS = [(attacker.name, name) for attacker in ATTACKERS.values() for name in attacker.without]
NEEDED_BY_NOBODY = sorted(ALL.keys() - {name for _, name in PAIRS})
"""Defects that show whatever attackers do."""

GOALS = {
    ("slow", "never-the-next-in-line"): replace(goals.HOURS, least=15.0),
    ("crashing", "never-the-next-in-line"): replace(goals.HOURS, least=10.0),
    ("censor", "never-the-next-in-line"): replace(goals.LEFT_OUT, least=0.1),
    ("minutes-late", "nobody-is-overdue"): replace(goals.HOURS, least=150.0),
}
"""Where an attacker is after something else than others that the same defect helps."""
FAULTS = {
    "altered-entries": tuple(Disconnection("replica-1", f"replica-{j}", 2.0, 20.0) for j in (2, 3)),
}
"""What else must go wrong for an attack: where the right answers are at hand nobody looks at an ENTRY."""

COSTS: dict[str, tuple[Goal, float]] = {
    "asks-everybody": (goals.LOST, 0.1),
    "wrong-coordinator": (goals.LOST, 0.1),
    "feigned-slowness": (goals.HOURS, 60.0),
}
"""Attacks that no rule stops alone, because they gain nothing: at most so much is lost by honest clients."""


def scenario_of(attacker: str, mutation: Mutation, seed: int) -> Scenario:
    """The mutation's scenario, with `attacker` in the place of another one of its role."""
    scenario = mutation.scenario(seed)
    if attacker in {attack.name for attack in scenario.attacks}:
        return scenario
    role = ATTACKERS[attacker].role
    swapped = (
        Attack(attack.node, attacker) if ATTACKERS[attack.name].role == role else attack
        for attack in scenario.attacks
    )
    return replace(scenario, attacks=tuple(swapped), faults=FAULTS.get(attacker, scenario.faults))


def is_caught(mutation: Mutation, scenario: Scenario, goal: Goal | None = None) -> bool:
    """Whether a run shows the defect: a breach that may come of it, or its goal reached (or `goal`)."""
    if mutation.found and goal is None:
        outcome = run(scenario)
        assert outcome.kind is None or outcome.kind in mutation.found, outcome
        return outcome.kind is not None
    wanted = goal or mutation.goal
    return measured(scenario, wanted)[0] >= wanted.least


def seeds(mutation: Mutation) -> range:
    return range(1, mutation.seeds + 1)


@pytest.mark.parametrize(("attacker", "name"), PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_without_its_rule_an_attack_succeeds(attacker: str, name: str) -> None:
    mutation = ALL[name]
    goal = GOALS.get((attacker, name))
    with applied(mutation):
        scenarios = (scenario_of(attacker, mutation, seed) for seed in seeds(mutation))
        assert any(is_caught(mutation, scenario, goal) for scenario in scenarios), mutation.disables


@pytest.mark.parametrize(("attacker", "name"), PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_with_its_rule_it_does_not(attacker: str, name: str) -> None:
    mutation = ALL[name]
    scenario, goal = scenario_of(attacker, mutation, 1), GOALS.get((attacker, name), mutation.goal)
    if mutation.found and (attacker, name) not in GOALS:
        assert run(scenario).kind is None
        return
    reached, outcome = measured(scenario, goal)
    assert outcome.kind is None, (outcome.violations[:2], outcome.stalled)
    assert reached < goal.least


@pytest.mark.parametrize("name", NEEDED_BY_NOBODY)
def test_a_defect_shows_without_an_attacker(name: str) -> None:
    mutation = ALL[name]
    with applied(mutation):
        assert any(is_caught(mutation, mutation.scenario(seed)) for seed in seeds(mutation))
    assert run(mutation.scenario(1)).kind is None


@pytest.mark.parametrize("attacker", sorted(COSTS))
def test_an_attack_that_gains_nothing_costs_little(attacker: str) -> None:
    goal, most = COSTS[attacker]
    by = by_replica if ATTACKERS[attacker].role == "replica" else by_clients
    reached, outcome = measured(by(attacker, clients=12)(1), goal)
    assert outcome.kind is None
    assert reached <= most, goal.what


def test_every_attacker_has_a_rule_without_which_it_succeeds_or_gains_nothing() -> None:
    assert {name for _, name in PAIRS} <= ALL.keys()
    assert len(ALL) == len(MUTATIONS) + len(ATTACK_MUTATIONS)
    idle = {attacker.name for attacker in ATTACKERS.values() if not attacker.without}
    assert idle == COSTS.keys()
