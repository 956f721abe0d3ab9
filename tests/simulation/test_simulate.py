"""Seeded campaigns of misfortune and malice: no promise is broken, and training goes on."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from asyncfl.simulation.attackers import Attack
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


def test_attacks_are_listed_and_unknown_ones_refused() -> None:
    listed = CliRunner().invoke(app, ["simulate", "--attack", "list"])
    assert "differencing" in listed.stdout
    refused = CliRunner().invoke(app, ["simulate", "--attack", "politeness"])
    assert refused.exit_code == 2
