"""Seeded campaigns of misfortune and malice: no promise is broken, and training goes on."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from asyncfl.adversary import ATTACKERS
from asyncfl.client import Client
from asyncfl.client.context import State
from asyncfl.replica.gossip import RECENT_ROWS
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import Crash, Rollback, RosterChange
from asyncfl.simulation.scenario import Scenario, draw
from asyncfl.simulation.trial import run
from node.cli import app


@pytest.mark.timeout(900)
def test_in_two_hundred_seeds_every_promise_is_kept() -> None:
    """The command itself, on all cores; the report names the failing seeds."""
    command = [
        "simulate",
        "--seeds",
        "200",
        "--first-seed",
        "1",
        "--replicas",
        "4",
        "--byzantine",
        "1",
        "--json",
        "-",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["seeds"], told["violations"], told["stalled"], told["failing"]) == (200, 0, 0, [])


@pytest.mark.parametrize("seed", range(1, 4))
def test_seven_replicas_keep_every_promise(seed: int) -> None:
    outcome = run(draw(seed, replicas=7, byzantine=2))
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)


def test_two_uploads_of_one_epoch_can_both_be_dropped() -> None:
    """Seed 151: a client made two, and the second one's end stopped every replica that held both."""
    outcome = run(draw(151, replicas=4, byzantine=1))
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)


def test_two_malicious_replicas_do_not_own_the_only_two_cells_for_ever() -> None:
    """With eight clients there are two cells; replicas 0 and 1 once coordinated both in every epoch."""
    hoarders = (Attack("replica-0", "drop-updates"), Attack("replica-1", "drop-updates"))
    outcome = run(Scenario(1, 7, 2, 8, attacks=hoarders), drain=30.0)
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    assert outcome.included >= outcome.sent / 2


def test_a_drawn_roster_change_retires_brings_back_and_enrols() -> None:
    """The only replica that is told of the first change is down for a while; a joiner crashes as well."""
    first = RosterChange(2.0, 0.5, 2, ("client-0", "client-1"), (), 2, ("replica-1",))
    second = RosterChange(9.0, 0.0, 2, ("client-2",), ("client-0",), 1, ("replica-0", "replica-3"))
    misfortune = Crash("replica-1", 1.5, 2.0), Crash("joiner-0", 8.0, 1.0)
    seen: list[Simulation] = []
    outcome = run(
        Scenario(1, 4, 1, 8, epochs=14, faults=(first, second, *misfortune)), drain=20.0, attend=seen.append
    )
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    (simulation,) = seen
    nodes = {node.name: node for node in simulation.network.nodes.values()}
    states = {name: node.machine.state for name, node in nodes.items() if isinstance(node.machine, Client)}
    retired = {name for name, state in states.items() if state is State.RETIRED}
    assert retired == {"client-1", "client-2"}
    assert len(states) == 8 + 3
    begin, again = (roster.start_epoch for roster in simulation.rosters[1:])
    assert 3 <= begin < again <= 14

    def epochs(name: str) -> set[int]:
        included = simulation.replica(0).context.ledger.included
        return {epoch for client, epoch in included if client == nodes[name].key}

    assert max(epochs("client-1")) < begin
    assert epochs("client-0") & set(range(1, begin))
    assert epochs("client-0") & set(range(again, 15))
    assert not epochs("client-0") & set(range(begin, again))
    assert max(epochs("client-2")) < again
    for joiner, start in (("joiner-0", begin), ("joiner-1", begin), ("joiner-2", again)):
        assert min(epochs(joiner)) >= start


def test_some_seeds_draw_changes_of_the_roster_and_a_few_long_runs() -> None:
    drawn = [draw(seed, replicas=7, byzantine=2) for seed in range(200)]
    changing = [each for each in drawn if any(isinstance(fault, RosterChange) for fault in each.faults)]
    assert 40 <= len(changing) <= 80
    excluding = [each for each in drawn if any(isinstance(fault, Rollback) for fault in each.faults)]
    others = [each.epochs for each in drawn if each not in changing and each not in excluding]
    assert others.count(3) >= 0.9 * len(others)
    assert 1 <= sum(epochs > RECENT_ROWS for epochs in others) == len(others) - others.count(3)
    changes = [fault for each in changing for fault in each.faults if isinstance(fault, RosterChange)]
    assert sum(bool(change.leaving) for change in changes) > 20
    assert sum(bool(change.joining) for change in changes) > 20
    assert any(change.returning for change in changes)
    assert any(attack.node.startswith("joiner") for each in changing for attack in each.attacks)


def test_who_was_never_enrolled_is_waited_for_by_nobody() -> None:
    """The operator's command refuses a roster that fills no cell."""
    everybody = tuple(f"client-{i}" for i in range(6))
    change = RosterChange(1.0, 0.0, 2, everybody, (), 2, ("replica-0",))
    seen: list[Simulation] = []
    outcome = run(Scenario(1, 4, 1, 6, epochs=2, faults=(change,)), attend=seen.append)
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)
    assert len(seen[0].rosters) == 1


def test_a_seed_reproduces_its_run_event_by_event() -> None:
    scenario = draw(5, replicas=4, byzantine=1)
    first, second = run(scenario), run(scenario)
    assert first.trace == second.trace
    assert (first.events, first.seconds, first.entries) == (second.events, second.seconds, second.entries)


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Whatever order a process gives to sets of bytes: Python hashes them anew in every process."""
    code = (
        "from asyncfl.simulation.scenario import draw; from asyncfl.simulation.trial import run; "
        "print(*run(draw(21, replicas=4, byzantine=1)).trace, sep='\\n')"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1


def test_the_command_tells_what_it_found() -> None:
    result = CliRunner().invoke(app, ["simulate", "--seeds", "2", "--workers", "1", "--json", "-"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["seeds"], told["violations"], told["stalled"], told["failing"]) == (2, 0, 0, [])
    assert told["entries"] > 0
    assert told["events"] > 0


@pytest.mark.parametrize("seed", [2101582, 2101817])
def test_seeds_that_failed_once_hold(seed: int) -> None:
    """The first is slow, and no more than that. In the second a front goes a thousand epochs ahead while most clients
    are away: a replica forgot the uploads of a group while a job opened it, and stopped."""
    outcome = run(draw(seed, replicas=4, byzantine=1))
    assert outcome.kind is None, (outcome.violations[:3], outcome.stalled)


def test_attacks_are_listed_and_unknown_ones_refused() -> None:
    listed = CliRunner().invoke(app, ["simulate", "--attack", "list"])
    assert "differencing" in listed.stdout
    refused = CliRunner().invoke(app, ["simulate", "--attack", "politeness"])
    assert refused.exit_code == 2


@pytest.mark.parametrize(("attack", "least"), [("frame-up", 2), ("signs-conflicts", 2), ("copied-shares", 1)])
def test_an_attack_that_takes_a_colluder_is_drawn_with_one_and_refused_without(
    attack: str, least: int
) -> None:
    too_few = ["--replicas", "4", "--byzantine", str(least - 1)]
    refused = CliRunner().invoke(app, ["simulate", "--attack", attack, "--seeds", "1", *too_few])
    assert refused.exit_code == 2
    for seed in range(5):
        attacks = draw(seed, replicas=7, byzantine=2, attack=attack).attacks
        told = {each.name for each in attacks}
        assert told == {attack, ATTACKERS[attack].beside}
        liars = [each.node for each in attacks if each.node.startswith("replica")]
        assert len(liars) == len(set(liars)) == least
