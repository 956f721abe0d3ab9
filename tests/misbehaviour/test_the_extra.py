"""Misbehaviour takes an extra, a deployment that allows it, and an option; and it is loud."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from asyncfl.adversary import ATTACKERS
from asyncfl.deployment import Deployment
from asyncfl.effects import Machine
from asyncfl.errors import ConfigurationError
from asyncfl_misbehaviour.misconduct import Misconduct
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DEPLOYMENT_FILE, DeploymentDirectory

ROOT = Path(__file__).parents[2]
WITHOUT = "import sys; sys.modules['asyncfl_misbehaviour'] = None; from node.cli import main; main()"


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> DeploymentDirectory:
    wanted = NewDeployment(clients=6, allow_misbehaviour=True)
    return create_deployment(tmp_path_factory.mktemp("drill") / "run", wanted)


@pytest.fixture(scope="module")
def earnest(tmp_path_factory: pytest.TempPathFactory) -> DeploymentDirectory:
    return create_deployment(tmp_path_factory.mktemp("earnest") / "run", NewDeployment(clients=6))


def node(
    files: DeploymentDirectory, *words: str, role: str = "aggregator", name: str = "replica-0"
) -> Result:
    arguments = ["node", "--role", role, "--deployment", str(files.root), "--name", name, *words]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_without_the_extra_there_is_no_such_option(drill: DeploymentDirectory) -> None:
    command = [sys.executable, "-c", WITHOUT, "node", "--role", "aggregator", "--deployment", str(drill.root)]
    done = subprocess.run(
        [*command, "--name", "replica-0", "--misbehave", "silent"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_the_ordinary_distribution_does_not_ship_the_extra() -> None:
    setuptools = pytest.importorskip("setuptools")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    shipped = setuptools.find_namespace_packages(str(ROOT), include=patterns)
    assert "node.commands" in shipped
    assert not [package for package in shipped if "misbehaviour" in package]


def test_nothing_that_a_node_loads_loads_an_attacker() -> None:
    loading = (
        "import sys, node.cli, node.processes, node.runtime, node.supervisor.run, asyncfl.replica, asyncfl.client, "
        "node.training.workbench; import re; "
        "print([name for name in sys.modules if re.search('adversary|misbehav|poisoning', name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", loading], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ast.literal_eval(done.stdout) == []


def test_a_deployment_that_does_not_allow_it_is_refused_with_the_remedy(earnest: DeploymentDirectory) -> None:
    said = node(earnest, "--misbehave", "silent")
    assert said.exit_code == 2
    assert "asyncfl init --allow-misbehaviour" in said.stderr
    assert not earnest.state("replica-0").exists()


def test_consent_written_into_an_ordinary_file_makes_another_deployment(earnest: DeploymentDirectory) -> None:
    text = (earnest.root / DEPLOYMENT_FILE).read_text()
    with pytest.raises(ConfigurationError, match="signature"):
        Deployment.parse(text.replace("[parameters]", "allow_misbehaviour = true\n\n[parameters]", 1))
    assert "allow_misbehaviour" not in text


def test_a_drill_is_read_back_and_says_so_at_its_making(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["init", str(tmp_path / "x"), "--allow-misbehaviour", "--clients", "6"])
    assert made.exit_code == 0
    assert "this deployment is a drill" in made.stderr
    assert DeploymentDirectory.load(tmp_path / "x").deployment.allow_misbehaviour


def test_names_are_checked_before_anything_runs(drill: DeploymentDirectory) -> None:
    unknown = node(drill, "--misbehave", "silent,quiet")
    assert unknown.exit_code == 2
    assert "--misbehave quiet: there is no such attack" in unknown.stderr
    other = node(drill, "--misbehave", "ready-for-ever")
    assert other.exit_code == 2
    assert "an attack of a client, not of a replica" in other.stderr
    alone = node(drill, "--colluder", "replica-1")
    assert alone.exit_code == 2
    assert not drill.state("replica-0").exists()


class Idle(Machine):
    """A machine of which nothing but its status is asked."""

    def status(self, now: float) -> dict[str, object]:
        return {"state": "up"}


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_every_attack_of_the_simulator_goes_around_a_real_nodes_machine_and_shows_in_its_status(
    drill: DeploymentDirectory, name: str
) -> None:
    role = ATTACKERS[name].role
    mine, other = ("replica-0", "replica-1") if role == "replica" else ("client-0", "client-1")
    misconduct = Misconduct.of(name, role, (other,))
    bent = misconduct.machine(drill, drill.identity(mine), Idle())
    assert bent.status(0.0) == {"state": "up", "misbehaved": 0, "misbehaving": name}
    assert misconduct.coven is not None
    assert misconduct.coven.identities.keys() == {drill.identity(each).public for each in (mine, other)}
