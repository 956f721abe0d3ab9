"""`asyncfl init --epsilon`: noise and budget go together, from the file to the client's limit."""

from pathlib import Path
from typing import Any

import pytest

from asyncfl.errors import ConfigurationError
from node.deployment_creation import NewDeployment, create_deployment
from node.processes import upload_limit

SMALL = {"allow_small_private_groups": True}


def wanted(**options: Any) -> NewDeployment:
    return NewDeployment(**{"epsilon": 20.0, "epochs": 4, "parameters": SMALL, **options})


def test_the_noise_lasts_for_just_the_uploads_that_were_asked_for(tmp_path: Path) -> None:
    deployment = create_deployment(tmp_path / "run", wanted()).deployment
    assert deployment.parameters.noise_multiplier > 0
    assert deployment.privacy is not None
    assert (deployment.privacy.epsilon, deployment.privacy.delta) == (20.0, 1e-5)
    assert upload_limit(deployment) == 4


def test_without_a_budget_nobody_is_limited(tmp_path: Path) -> None:
    deployment = create_deployment(tmp_path / "run", NewDeployment()).deployment
    assert deployment.privacy is None
    assert upload_limit(deployment) is None


def test_colluders_are_allowed_for_with_more_noise_of_each(tmp_path: Path) -> None:
    options = {"clients": 64, "parameters": {"cell_size": 16, **SMALL}}
    plain = create_deployment(tmp_path / "plain", wanted(**options)).deployment.parameters
    wary = create_deployment(
        tmp_path / "wary", wanted(**options, malicious_fraction=0.05)
    ).deployment.parameters
    assert (plain.malicious_allowance, wary.malicious_allowance > 0) == (0, True)
    assert wary.payload_sigma > plain.payload_sigma


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epochs": None}, "--epsilon needs --epochs"),
        ({"parameters": {**SMALL, "noise_multiplier": 1.0}}, "give one of the two"),
        ({"malicious_fraction": 0.5}, "colluder|honest"),
        ({"parameters": {}}, "allow_small_private_groups"),
    ],
)
def test_a_wish_that_contradicts_itself_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        create_deployment(tmp_path / "run", wanted(**options))
    assert not (tmp_path / "run").exists()


def test_a_budget_without_noise_is_refused_by_the_client(tmp_path: Path) -> None:
    files = create_deployment(tmp_path / "run", NewDeployment())
    text = (tmp_path / "run" / "deployment.toml").read_text()
    budget = "[privacy]\nepsilon = 1.0\ndelta = 1e-5\n\n[roster]"
    edited = type(files.deployment).parse(text.replace("[roster]", budget))
    with pytest.raises(ConfigurationError, match="no noise"):
        upload_limit(edited)
