"""Making a deployment: everything a localhost run needs, and nothing written when something is wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from asyncfl.deployment import Deployment
from asyncfl.schedule import Schedule
from node.deployment_files import DeploymentDirectory

from .conftest import Program


def test_init_writes_all_that_a_localhost_deployment_needs(asyncfl: Program, tmp_path: Path) -> None:
    outcome = asyncfl("init", tmp_path / "run", "--clients", 5, "--replicas", 4)
    assert outcome.code == 0
    files = DeploymentDirectory.load(tmp_path / "run")
    names = [f"replica-{i}" for i in range(4)] + [f"client-{i}" for i in range(5)]
    assert list(files.deployment.names.values()) == names
    for name in names:
        assert files.key_file(name).stat().st_mode & 0o777 == 0o600
        assert files.deployment.names[files.identity(name).public] == name
    assert (files.root / "operator.key").stat().st_mode & 0o777 == 0o600
    ports = {entry.address for entry in files.deployment.replicas}
    assert len(ports) == 4
    assert all(host == "127.0.0.1" for host, _ in ports)
    assert len(files.initial_model()) == 4 * files.deployment.federation().dimension
    assert "asyncfl up" in outcome.stdout


def test_init_gives_json_on_standard_output(asyncfl: Program, tmp_path: Path) -> None:
    outcome = asyncfl("init", tmp_path / "run", "--clients", 4, "--json")
    facts = json.loads(outcome.stdout)
    assert facts["deployment"] == DeploymentDirectory.load(tmp_path / "run").deployment.digest.hex()
    assert facts["clients"] == [f"client-{i}" for i in range(4)]


def test_the_same_seed_gives_the_same_model_and_other_keys(asyncfl: Program, tmp_path: Path) -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        assert asyncfl("init", tmp_path / name, "--clients", 4, "--seed", seed).code == 0
    a, b, c = (DeploymentDirectory.load(tmp_path / name).deployment for name in "abc")
    assert a.model == b.model
    assert a.model != c.model
    assert a.digest != b.digest
    assert not set(a.names) & set(b.names)


def test_options_reach_the_deployment(asyncfl: Program, tmp_path: Path) -> None:
    outcome = asyncfl(
        "init", tmp_path / "run", "--clients", 14, "--replicas", 7, "--byzantine", 2, "--learning-rate", 0.25,
        "--local-steps", 3, "--batch-size", 8, "--parameter", "clip=4.5", "--parameter", "cell_size=7",
        "--task-option", "partition=dirichlet", "--task-option", "alpha=0.4", "--seed", 9,
        "--training", "decay=step", "--training", "decay_epochs=10", "--training", "decay_factor=0.5",
        "--training", "seconds=30",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    made = DeploymentDirectory.load(tmp_path / "run").deployment
    assert (made.parameters.replicas, made.parameters.byzantine, made.parameters.cell_size) == (7, 2, 7)
    assert made.parameters.clip == 4.5
    assert made.training == Schedule(
        learning_rate=0.25, local_steps=3, batch_size=8, decay="step", decay_epochs=10, decay_factor=0.5,
        seconds=30.0,
    )  # fmt: skip
    assert made.task.model_dump() == {
        "factory": "digits", "seed": 9, "options": {"partition": "dirichlet", "alpha": 0.4},
    }  # fmt: skip


def test_ports_are_consecutive_from_a_base_port_and_refused_when_in_use(
    asyncfl: Program, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = asyncfl("init", tmp_path / "run", "--clients", 4, "--base-port", port)
        assert outcome.code == 2
        assert f"port {port} is in use" in outcome.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replicas", 3], "n >= 3t+1"),
        (["--replicas", 17, "--clients", 34], "at most 16"),
        (["--parameter", "clop=1"], "no parameter 'clop'"),
        (["--parameter", "clip"], "KEY=VALUE"),
        (["--parameter", "clip=big"], "parameter clip"),
        (["--parameter", "clip=1", "--parameter", "clip=2"], "given twice"),
        (["--parameter", "replicas=5"], "--replicas"),
        (["--parameter", "cell_size=99"], "cell_size 99 exceeds"),
        (["--parameter", "max_group=64"], "max_group"),
        (["--parameter", "min_group=1", "--parameter", "cell_size=4"], "minority"),
        (["--parameter", 'preset="tiny"'], "tiny"),
        (["--training", "decai=step"], "did you mean 'decay'"),
        (["--training", "decay=step"], "takes decay_epochs and decay_factor"),
        (["--training", "local_steps=3", "--local-steps", 3], "are the same: give one"),
        (["--training", "seconds=-1"], "training.seconds"),
        (["--task", "digts"], "unknown task"),
        (["--task", "no_such_module:make"], "no module named"),
        (["--task-option", "colour=red"], "colour"),
        (["--task-option", "colour=red"], "its options: partition, alpha"),
        (["--task", "npz:absent.npz"], "absent.npz"),
        (["--base-port", 65535], "must lie in 1 to 65535"),
        (["--url", "replica-9=ws://h:1"], "--url names 'replica-9'"),
        (["--url", "replica-1=http://h:1"], "replicas[1].url"),
        (["--learning-rate", 2e6], "training.learning_rate"),
        (["--url", "replica-1"], "NAME=URL"),
        (["--public-keys", "absent"], "no directory"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    asyncfl: Program, tmp_path: Path, options: list[object], said: str
) -> None:
    outcome = asyncfl("init", tmp_path / "run", "--clients", 8, *map(str, options))
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: ")
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_something_is_left_alone(asyncfl: Program, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    outcome = asyncfl("init", tmp_path)
    assert outcome.code == 2
    assert "'precious.txt'" in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_an_existing_deployment_is_never_written_over(asyncfl: Program, copied: DeploymentDirectory) -> None:
    before = (copied.root / "deployment.toml").read_bytes()
    outcome = asyncfl("init", copied.root)
    assert outcome.code == 2
    assert "already holds a deployment" in outcome.stderr
    assert (copied.root / "deployment.toml").read_bytes() == before


def test_with_public_keys_of_the_parties_no_private_key_is_made(asyncfl: Program, tmp_path: Path) -> None:
    pubs = tmp_path / "pubs"
    pubs.mkdir()
    names = [f"replica-{i}" for i in range(4)] + [f"client-{i}" for i in range(4)]
    for name in names:
        assert asyncfl("keygen", name, "--out", tmp_path / name / "keys").code == 0
        (tmp_path / name / "keys" / f"{name}.pub").rename(pubs / f"{name}.pub")
    url = "replica-0=wss://a.example:443"
    made = ["init", tmp_path / "run", "--clients", 4, "--public-keys", pubs, "--url", url]
    (pubs / "client-3.pub").rename(tmp_path / "kept")
    outcome = asyncfl(*made)
    assert outcome.code == 2
    assert "lacks client-3" in outcome.stderr
    (tmp_path / "kept").rename(pubs / "client-3.pub")
    assert asyncfl(*made).code == 0
    assert not (tmp_path / "run" / "keys").exists()
    text = (tmp_path / "run" / "deployment.toml").read_text()
    assert Deployment.parse(text).replica("replica-0").url == "wss://a.example:443"
    # What comes back to a party, beside its own key, is all that it needs.
    (tmp_path / "client-2" / "deployment.toml").write_text(text)
    assert DeploymentDirectory.load(tmp_path / "client-2").identity("client-2")


def test_keygen_prints_the_public_key_only(asyncfl: Program, tmp_path: Path) -> None:
    outcome = asyncfl("keygen", "replica-1", "--out", tmp_path, "--json")
    facts = json.loads(outcome.stdout)
    private = (tmp_path / "replica-1.key").read_text().split()[1]
    assert facts["public_key"] in (tmp_path / "replica-1.pub").read_text()
    assert private not in outcome.stdout
    again = asyncfl("keygen", "replica-1", "--out", tmp_path)
    assert again.code == 2
    assert "never overwritten" in again.stderr


def test_keygen_refuses_a_name_that_no_node_can_have(asyncfl: Program, tmp_path: Path) -> None:
    outcome = asyncfl("keygen", "../evil", "--out", tmp_path / "keys")
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == []


def test_init_warns_where_a_sum_of_two_tells_each_what_the_other_sent(
    asyncfl: Program, tmp_path: Path
) -> None:
    for clients, warned in ((2, True), (4, True), (6, False)):
        outcome = asyncfl("init", tmp_path / str(clients), "--clients", clients, "--json")
        assert outcome.code == 0, outcome.stderr
        assert ("each of the two works out what the other sent" in outcome.stderr) is warned
        json.loads(outcome.stdout)


def test_init_with_keys_made_elsewhere_does_not_end_with_up(asyncfl: Program, tmp_path: Path) -> None:
    names = [*(f"replica-{i}" for i in range(4)), *(f"client-{i}" for i in range(6))]
    for name in names:
        assert asyncfl("keygen", name, "--out", tmp_path / "keys").code == 0
    outcome = asyncfl("init", tmp_path / "fed", "--clients", 6, "--public-keys", tmp_path / "keys")
    assert outcome.code == 0, outcome.stderr
    assert "asyncfl up" not in outcome.stdout
    assert "asyncfl node" in outcome.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("clip=-1.0", "parameter clip: it must be greater than 0"),
        ("window=two", "parameter window: it must be an integer"),
        ("clip=x", "parameter clip: it must be a number"),
    ],
)
def test_a_bad_parameter_is_refused_in_our_own_words(
    asyncfl: Program, tmp_path: Path, given: str, expected: str
) -> None:
    outcome = asyncfl("init", tmp_path / "run", "--parameter", given)
    assert outcome.code == 2
    assert expected in outcome.stderr
    assert "Input should" not in outcome.stderr


def test_a_file_in_place_of_a_deployments_directory_is_named_as_such(
    asyncfl: Program, tmp_path: Path
) -> None:
    path = tmp_path / "status.json"
    path.write_text("{}")
    outcome = asyncfl("status", path)
    assert outcome.code == 2
    assert "status.json is a file; name the directory" in outcome.stderr


def test_a_delta_without_a_budget_is_refused(asyncfl: Program, tmp_path: Path) -> None:
    refused = asyncfl("init", tmp_path / "run", "--delta", "1e-6")
    assert refused.code == 2
    assert "--delta is part of the budget that --epsilon sets" in " ".join(refused.stderr.split())
    assert not (tmp_path / "run").exists()
