"""Every attacker, alone and in pairs, against whole deployments: no rule is broken, and training goes on."""

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from asyncfl.adversary import ATTACKERS, Attacker, Malicious
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import Crash
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import run

CLIENTS, EPOCHS = 8, 2
DRAIN = 40.0
"""Virtual seconds that late uploads are given before those of pairs are counted."""
OCCASIONS = dict.fromkeys(("minority-of-its-cell", "riders-of-the-future", "foreign-cell"), 16)
"""Clients, where an attack takes more than one cell of its own."""
LEAST = 0.35
"""Part of honest clients' uploads that is opened under any attack: those of the attackers' own cells are lost, and
with eight clients in two cells that is half of them."""
SMALL = ("differencing", "frame-up", "invented-items", "forged-models", "slow", "minority-of-its-cell")
WORST = (
    "differencing", "disjoint-groupings", "waits-for-restarts", "signs-conflicts", "reveals-unlocked", "frame-up",
    "random-sums", "invented-items", "forged-models", "steals-uploads", "false-taken-over", "refuses-locks",
)  # fmt: skip


def arrange(attacker: Attacker, replicas: int = 4, byzantine: int = 1, clients: int = CLIENTS) -> Scenario:
    """All t replicas, or two clients, do this."""
    byzantine = max(byzantine, attacker.least_byzantine)
    names = (
        [f"replica-{j}" for j in range(byzantine)]
        if attacker.role == "replica"
        else ["client-0", f"client-{clients // 2}"]
    )
    attacks = [Attack(name, attacker.name) for name in names]
    if attacker.beside is not None:
        beside = f"replica-{byzantine - 1}"
        attacks = [each for each in attacks if each.node != beside] + [Attack(beside, attacker.beside)]
    replicas, clients = max(replicas, 3 * byzantine + 1), max(clients, 14 if byzantine > 1 else 0)
    return Scenario(1, replicas, byzantine, clients, epochs=EPOCHS, attacks=tuple(attacks))


@pytest.mark.parametrize("attacker", [*ATTACKERS.values()], ids=lambda attacker: attacker.name)
def test_an_attack_is_stopped(attacker: Attacker) -> None:
    scenario, attended = arrange(attacker, clients=OCCASIONS.get(attacker.name, CLIENTS)), list[Simulation]()
    outcome = run(scenario, attend=attended.append)
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    assert outcome.entries >= EPOCHS
    assert outcome.included >= LEAST * outcome.sent
    assert errors_of_honest_nodes(attended[0], scenario) <= {"evidence"}
    assert acted(attended[0], scenario, attacker), "nothing was stopped: it did what an honest node does"


def acted(simulation: Simulation, scenario: Scenario, attacker: Attacker) -> bool:
    """Whether anybody who was to attack did anything that an honest node would not have done."""
    nodes = {node.name: node for node in simulation.network.nodes.values()}
    machines = [nodes[each.node].machine for each in scenario.attacks if each.name == attacker.name]
    return any(machine.acted > 0 for machine in machines if isinstance(machine, Malicious))


def errors_of_honest_nodes(simulation: Simulation, scenario: Scenario) -> set[str]:
    """What they say is for their operators to act on. What a peer does wrong is a warning, until it is proven."""
    hostile = {attack.node for attack in scenario.attacks}
    return {
        said.event
        for node in simulation.network.nodes.values()
        for _, said in node.events
        if said.level == "error" and node.name not in hostile
    }


@pytest.mark.parametrize(
    "attacker",
    [
        pytest.param(attacker, marks=() if name == "late-epochs" else pytest.mark.slow, id=name)
        for name, attacker in ATTACKERS.items()
    ],
)
def test_an_attacker_that_starts_again_attacks_on_and_is_stopped(attacker: Attacker) -> None:
    """It has forgotten what it only had in mind; an attacker that fails by itself would prove nothing."""
    scenario = arrange(attacker, clients=12)  # As many cells as replicas, so that it coordinates one.
    crashes = [Crash(attack.node, at, 0.3) for attack in scenario.attacks for at in (3.5, 5.5)]
    outcome = run(replace(scenario, faults=tuple(crashes)))
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    assert outcome.entries >= EPOCHS


@pytest.mark.parametrize("name", SMALL)
def test_two_of_seven_replicas_are_stopped(name: str) -> None:
    outcome = run(arrange(ATTACKERS[name], 7, 2, 14))
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    assert outcome.included >= LEAST * outcome.sent


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*combinations(WORST, 2)], ids="+".join)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_colluders_with_different_attacks_are_stopped(pair: tuple[str, str], seed: int) -> None:
    """At n = 7, t = 2, with two clients that deal badly and share what they know."""
    first, second = pair
    attacks = (
        Attack("replica-0", first), Attack("replica-1", second),
        Attack("client-0", "misdeals-many"), Attack("client-7", "two-uploads"),
    )  # fmt: skip
    outcome = run(Scenario(seed, 7, 2, 14, epochs=EPOCHS, attacks=attacks), drain=DRAIN)
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    assert outcome.included >= LEAST * outcome.sent


def test_the_registry_says_what_each_tries_and_which_rule_stops_it() -> None:
    assert len(ATTACKERS) >= 60
    assert all(attacker.tries and attacker.rule for attacker in ATTACKERS.values())


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
CELLS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
ROWS = {cells[0].strip("`"): cells for cells in CELLS if len(cells) == 4}


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_the_threat_model_names_what_an_attack_tries_its_rule_and_the_defects_that_are_tested(
    name: str,
) -> None:
    """`test_mutations.py` shows that it succeeds with each of these defects, and not without; or what it costs."""
    attacker = ATTACKERS[name]
    _, tries, rule, without = ROWS[name]
    assert (tries, rule) == (attacker.tries, attacker.rule)
    if attacker.without:
        assert without.split(", ") == [f"`{defect}`" for defect in attacker.without]
    else:
        assert "`" not in without
        assert any(character.isdigit() for character in without) or "minute" in without, "no bound"


def test_every_test_that_the_threat_model_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)`", PAGE))
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]
