"""A robust rule in real processes; what `init` refuses and says of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asyncfl.errors import ConfigurationError
from asyncfl.group_rules import clean_probability
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory

from .conftest import Program

SMALL = ["--parameter", "cell_size=2", "--parameter", "min_group=2"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_replicas_agree_on_a_robust_model_one_of_them_killed_and_back(
    asyncfl: Program, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    chosen = ["--rule", "multi_krum", "--bad-clients", "0.1", "--parameter", "reputation=true"]
    assert asyncfl("init", root, "--clients", 10, *SMALL, *chosen).code == 0
    arguments = ["up", root, "--epochs", 6, "--kill", "replica-1@2", "--restart", "replica-1@4"]
    outcome = subprocess.run(
        [sys.executable, "-m", "node.cli", *map(str, arguments), "--client-processes", "2", "--no-baseline",
         "--json", "-"],
        capture_output=True, text=True, timeout=220, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["failures"] == []
    assert set(result["model_digest"]) == {f"replica-{i}" for i in range(4)}
    assert len(set(result["model_digest"].values())) == 1
    assert result["accuracy"] > 0.3


def test_init_says_what_the_rule_stands_and_how_likely_a_group_is_clean(
    asyncfl: Program, tmp_path: Path
) -> None:
    made = asyncfl(
        "init", tmp_path / "run", "--clients", 40, *SMALL, "--rule", "median", "--bad-clients", "0.1"
    )
    likely = f"{clean_probability(40, 2, 0.1):.2g}"
    assert "rule median: stands 4 bad groups; an epoch yields 20 groups" in " ".join(made.stdout.split())
    assert f"a group is clean with probability {likely}" in " ".join(made.stdout.split())
    deployment = DeploymentDirectory.load(tmp_path / "run").deployment
    assert (deployment.parameters.bad_groups, deployment.parameters.bad_clients) == (0.2, 0.1)


def test_a_rule_that_does_not_hold_is_refused_before_anything_is_written(
    asyncfl: Program, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    refused = asyncfl("init", root, "--clients", 40, "--rule", "krum", "--bad-clients", "0.2")
    assert refused.code == 2
    assert "many small cells for each coordinator give more groups" in " ".join(refused.stderr.split())
    assert not root.exists()


def test_the_mean_with_bad_clients_is_refused_and_a_rule_that_stands_none_is_told(
    asyncfl: Program, tmp_path: Path
) -> None:
    refused = asyncfl("init", tmp_path / "run", "--clients", 8, "--bad-clients", "0.3")
    assert refused.code == 2
    assert "rule mean stands no bad group" in " ".join(refused.stderr.split())
    assert not (tmp_path / "run").exists()
    told = asyncfl("init", tmp_path / "run", "--clients", 4, "--rule", "krum")
    assert told.code == 0
    assert "warning: rule krum stands no bad group of 3" in " ".join(told.stderr.split())


def test_the_readmes_robust_rule_is_accepted(asyncfl: Program, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (example,) = re.findall(r"`asyncfl init DIR ([^`]*--rule[^`]*)`", readme)
    made = asyncfl("init", tmp_path / "run", *example.split())
    assert made.code == 0, made.stderr


def test_rule_options_survive_the_file_and_nobody_changes_them_there(tmp_path: Path) -> None:
    options = {
        "rule": "bucketing",
        "rule_options": {"then": "krum", "size": 2},
        "cell_size": 2,
        "min_group": 2,
    }
    create_deployment(tmp_path / "run", NewDeployment(clients=24, parameters=options))
    read = DeploymentDirectory.load(tmp_path / "run").deployment
    assert read.parameters.rule_options == {"then": "krum", "size": 2}
    file = tmp_path / "run" / "deployment.toml"
    file.write_text(file.read_text().replace('then = "krum"', 'then = "median"'))
    with pytest.raises(ConfigurationError, match="signature"):
        DeploymentDirectory.load(tmp_path / "run")


def test_clients_do_not_retire_below_what_the_rule_stands(asyncfl: Program, tmp_path: Path) -> None:
    root = tmp_path / "run"
    chosen = ["--rule", "krum", "--bad-clients", "0.1"]
    assert asyncfl("init", root, "--clients", 20, *SMALL, *chosen).code == 0
    names = [f"client-{number}" for number in range(12)]
    refused = asyncfl("retire", root, *names, "--yes", "--start-epoch", 20)
    assert refused.code == 2
    assert "rule krum stands" in " ".join(refused.stderr.split())
