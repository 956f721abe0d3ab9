"""What privacy rests on is said at every start: the assumed colluders, and what they could still do."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from asyncfl.parameters import Parameters
from asyncfl.privacy.allowance import Cells, isolation_probability, malicious_allowance
from asyncfl.privacy.collusion import USUAL_EPOCHS, Collusion
from node import processes
from node.cli import app
from node.deployment_files import DeploymentDirectory


def test_the_sentence_names_what_is_assumed_and_what_remains_possible() -> None:
    cells = Cells(1000, 48, 4)
    allowance = malicious_allowance(cells, 0.05, 32)
    parameters = Parameters.for_clients(
        1000, cell_size=48, min_group=32, malicious_allowance=allowance, malicious_fraction=0.05
    )
    collusion = Collusion.of(parameters, 1000, 120)
    assert collusion.isolation_probability == isolation_probability(cells, 0.05, 32, 120) > 0
    text = collusion.sentence()
    assert "50 of 1000 clients" in text
    assert f"malicious_allowance {allowance} of 32" in text
    assert f"{collusion.isolation_probability:.1g} at most in 120 epochs" in text


def test_that_nobody_is_assumed_to_collude_is_said_as_well() -> None:
    collusion = Collusion.of(Parameters.for_clients(16), 16, None)
    assert (collusion.epochs, collusion.isolation_probability) == (USUAL_EPOCHS, 0.0)
    assert "no client is assumed to collude" in collusion.sentence()
    assert "if 2 in a cell did" in collusion.sentence()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> DeploymentDirectory:
    root = tmp_path_factory.mktemp("deployments") / "run"
    made = CliRunner().invoke(app, ["init", str(root), "--clients", "64", "--malicious-fraction", "0.02"])
    assert made.exit_code == 0, made.output
    return DeploymentDirectory.load(root)


def test_init_keeps_the_fraction_with_the_allowance_that_it_gave(files: DeploymentDirectory) -> None:
    parameters = files.deployment.parameters
    assert parameters.malicious_fraction == 0.02
    assert parameters.malicious_allowance == malicious_allowance(Cells(64, 16, 4), 0.02, 11) > 0


def test_nodes_log_it_when_they_start(files: DeploymentDirectory) -> None:
    with capture_logs() as lines:
        processes._say_what_is_assumed(files.deployment, 20)
    (line,) = lines
    expected = Collusion.of(files.deployment.parameters, 64, 20)
    assert line["event"] == "colluders_assumed"
    assert line["malicious_allowance"] == expected.malicious_allowance
    assert line["malicious_fraction"] == 0.02
    assert line["isolation_probability"] == expected.isolation_probability


def test_status_shows_it(files: DeploymentDirectory) -> None:
    shown = CliRunner().invoke(app, ["status", str(files.root)])
    assert "2 of 64 clients are assumed to collude" in " ".join(shown.output.split())
    facts = json.loads(CliRunner().invoke(app, ["status", str(files.root), "--json"]).stdout)
    assert facts["collusion"]["malicious_fraction"] == 0.02


def test_the_fraction_has_an_option_of_its_own(tmp_path: Path) -> None:
    arguments = ["init", str(tmp_path / "x"), "--parameter", "malicious_fraction=0.1"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "--malicious-fraction" in " ".join(refused.output.split())
