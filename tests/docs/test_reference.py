"""The reference pages name every option and every key, and defaults are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from asyncfl import messages, parameters
from asyncfl.deployment import Deployment
from asyncfl.parameters import Parameters
from asyncfl.poisoning import ATTACKS
from node.cli import app
from node.experiment.poisoning.configuration import Data, Poisoning

DOCS = Path(__file__).parents[2] / "docs"


def test_every_option_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "commands.md").read_text()
    for name, command in typer.main.get_group(app).commands.items():
        assert f"asyncfl {name}" in page
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("--"):
                    assert re.search(rf"`{option}[`, A-Z]", page), f"{name} {option}"


def test_every_key_of_a_deployment_file_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "deployment.md").read_text()
    for name, field in Deployment.model_fields.items():
        assert f"`{name}`" in page or f"[{name}]" in page
        inner = getattr(field.annotation, "model_fields", {})
        for key in inner:
            assert f"`{key}`" in page, f"{name}.{key}"


def test_every_message_is_in_the_protocol_page() -> None:
    page = (DOCS / "protocol.md").read_text()
    for kind in messages.MESSAGE_TYPES:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper()
        assert f"| {name} | " in page, name


def test_constants_in_the_protocol_page_are_those_of_the_code() -> None:
    page = (DOCS / "protocol.md").read_text()
    ring = Parameters.for_clients(16).ring
    assert f"`N = {ring.degree}`, `q = {ring.modulus}`" in page
    assert f"{parameters.PROJECTIONS} vectors" in page
    assert f"`K = {parameters.CHECK_BLOCKS}` check blocks" in page
    assert f"max_group * {parameters.OPENING_BOUND} > q/8" in page
    assert f"at most {parameters.MAX_LATE_EPOCHS} epochs later" in page


@pytest.mark.parametrize("clients", [4, 16])
def test_init_writes_the_documented_facts_and_group_sizes(tmp_path: Path, clients: int) -> None:
    made = CliRunner().invoke(app, ["init", str(tmp_path / "x"), "--clients", str(clients), "--json"])
    facts = json.loads(made.stdout)
    assert set(facts) == {
        "directory",
        "deployment",
        "stop",
        "replicas",
        "clients",
        "dimension",
        "parameters",
        "frozen_buffers",
        "privacy",
    }
    expected = {4: (3, 2, 6), 16: (4, 3, 8)}[clients]
    used = facts["parameters"]
    assert (used["cell_size"], used["min_group"], used["max_group"]) == expected


def test_every_attack_on_learning_is_in_the_reference_as_the_registry_has_it() -> None:
    page = (DOCS / "reference" / "poisoning.md").read_text()
    for name, attack in ATTACKS.items():
        facts = attack.facts
        assert f"| `{name}` | {facts.tries} | {facts.knows} | {facts.source} |" in page


def test_every_key_of_an_experiment_with_malicious_clients_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "poisoning.md").read_text()
    for name in Poisoning.model_fields:
        assert f"`{name}`" in page or f"[{name}]" in page, name
    for key in Data.model_fields:
        assert f"`{key}`" in page, key
