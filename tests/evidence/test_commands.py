"""`asyncfl evidence` as a person meets it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asyncfl.effects import Put, Table
from asyncfl.evidence import TwoModels, decode_evidence, encode_evidence, evidence_digest
from asyncfl.messages import ModelVote, model_body
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.storage import Storage


def run(*arguments: str | Path, columns: int = 160) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": str(columns)})


def two_models(files: DeploymentDirectory, index: int) -> bytes:
    """What replica `index` would have to sign to be convicted."""
    deployment = files.deployment
    identity = files.identity(deployment.replicas[index].name)

    def vote(model: bytes) -> ModelVote:
        version = bytes(32)
        signature = identity.sign(ModelVote.KIND, deployment.digest, model_body(version, 1, model))
        return ModelVote(version=version, entries=1, model=model, signature=signature)

    evidence = TwoModels(replica=index, first=vote(bytes([1]) * 32), second=vote(bytes([2]) * 32))
    return encode_evidence(evidence)


def keep(files: DeploymentDirectory, name: str, *rows: tuple[bytes, bytes]) -> None:
    """Write evidence into a node's state, as the node does."""
    deployment = files.deployment
    key = next(key for key, known in deployment.names.items() if known == name)

    async def write() -> None:
        storage = Storage.open(files.state(name) / "state.sqlite", owner=deployment.digest + key)
        await storage.commit([Put(Table.EVIDENCE, digest, value) for digest, value in rows])
        await storage.close()

    asyncio.run(write())
    past = time.time() - 10
    os.utime(files.state(name) / "state.sqlite", (past, past))


@pytest.fixture
def files(tmp_path: Path) -> DeploymentDirectory:
    made = create_deployment(tmp_path / "run", NewDeployment(clients=8))
    encoded = two_models(made, 2)
    for name in ("replica-0", "replica-1", "client-3"):
        keep(made, name, (evidence_digest(encoded), encoded))
    return made


def facts_of(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


def test_what_is_held_is_listed_once_with_its_culprit_by_name(files: DeploymentDirectory) -> None:
    (piece,) = facts_of(run("evidence", "list", files.root, "--json", "-"))["evidence"]
    assert (piece["kind"], piece["culprit"]) == ("two-models", "replica-2")
    assert piece["held_by"] == ["replica-0", "replica-1", "client-3"]
    shown = run("evidence", "list", files.root)
    assert shown.exit_code == 0
    for word in ("replica-2", "two-models", "signed two models", "replica-0, replica-1 and 1 more"):
        assert word in shown.output


def test_what_holds_is_verified_for_a_deployment_and_for_one_node(files: DeploymentDirectory) -> None:
    for directory in (files.root, files.state("replica-1")):
        facts = facts_of(run("evidence", "verify", directory, "--json", "-"))
        assert facts["verified"]
        assert [piece["verified"] for piece in facts["evidence"]] == [True]
    assert "proven" in run("evidence", "verify", files.root).output


def test_tampered_bytes_are_named_and_fail(files: DeploymentDirectory) -> None:
    encoded = two_models(files, 3)
    broken = encoded[:-1] + bytes([encoded[-1] ^ 1])
    # One whose digest was made to fit, and one whose bytes were changed under its digest.
    keep(files, "replica-1", (evidence_digest(broken), broken), (evidence_digest(encoded), broken))
    facts = facts_of(run("evidence", "verify", files.root, "--json", "-"), code=1)
    objections = {piece["digest"]: piece["objection"] for piece in facts["evidence"] if not piece["verified"]}
    assert "did not sign" in objections[evidence_digest(broken).hex()]
    assert "not those that their digest names" in objections[evidence_digest(encoded).hex()]
    assert not facts["verified"]
    result = run("evidence", "verify", files.root)
    assert result.exit_code == 1
    assert result.output.count("proves nothing") == 2


def test_a_damaged_state_is_named_and_fails(files: DeploymentDirectory) -> None:
    state = files.state("replica-0") / "state.sqlite"
    value = two_models(files, 2)
    data = state.read_bytes()
    place = data.index(value[20:60]) + 25
    state.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    past = time.time() - 10
    os.utime(state, (past, past))
    result = run("evidence", "verify", files.root)
    assert result.exit_code == 3
    assert str(state) in result.output.replace("\n", "")


def test_no_evidence_is_said_so(tmp_path: Path) -> None:
    files = create_deployment(tmp_path / "run", NewDeployment(clients=8))
    keep(files, "client-0")
    for command in ("list", "verify"):
        result = run("evidence", command, files.root)
        assert result.exit_code == 0
        assert "nobody was proven to have lied" in result.output
        assert facts_of(run("evidence", command, files.root, "--json", "-"))["evidence"] == []


def test_a_directory_without_a_deployment_is_refused(tmp_path: Path) -> None:
    result = run("evidence", "list", tmp_path)
    assert result.exit_code == 2


def test_status_names_proven_liars(files: DeploymentDirectory) -> None:
    encoded = two_models(files, 2)
    status = {
        "deployment": files.deployment.digest.hex(),
        "evidence": [
            {
                "kind": decode_evidence(encoded).NAME,
                "culprit": files.deployment.replicas[2].key.hex(),
                "digest": evidence_digest(encoded).hex(),
            }
        ],
    }
    files.status_file("replica-0").write_text(json.dumps(status))
    assert "proven liars: replica-2" in run("status", files.root).output


@pytest.mark.parametrize("command", ["list", "verify"])
def test_where_no_node_keeps_its_state_nothing_is_said_of_evidence(tmp_path: Path, command: str) -> None:
    made = create_deployment(tmp_path / "run", NewDeployment(clients=8))
    for where in (made.root, made.state("replica-0")):
        result = run("evidence", command, where, "--json", "-")
        assert result.exit_code == 2
        assert "keeps its state on this machine" in result.stderr
        assert not result.stdout
        made.state("replica-0").mkdir(parents=True, exist_ok=True)
