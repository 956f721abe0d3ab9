"""`asyncfl enroll` and `asyncfl retire`: what is signed, written and sent, and what is refused before anything is."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from asyncfl import deployment_rosters
from asyncfl.deployment import Deployment
from asyncfl.identity import Identity
from node import operator_calls
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory, read_key, write_key, write_public_key
from node.enrolment import compute_start_epoch
from node.enrolment import statements as statements_of

from .conftest import Outcome, Program
from .replicas import Script, running

ALL = [f"replica-{i}" for i in range(4)]
WINDOW = 2


@pytest.fixture(autouse=True)
def _short_wait_for_stragglers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once n-t have answered; the tests that need all four have four that answer."""
    monkeypatch.setattr(operator_calls, "STRAGGLER_SECONDS", 1.0)


def facts_of(outcome: Outcome) -> dict[str, Any]:
    value = json.loads(outcome.stdout)
    assert isinstance(value, dict)
    return value


def again(files: DeploymentDirectory) -> Deployment:
    return DeploymentDirectory.load(files.root).deployment


def as_text(files: DeploymentDirectory) -> str:
    return (files.root / "deployment.toml").read_text()


# where nothing runs


def test_where_nothing_runs_the_file_alone_is_changed_and_says_so(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    outcome = asyncfl("enroll", copied.root, "client-6", "client-7", "--yes")
    assert outcome.code == 0, outcome.stderr
    assert "nothing was sent" in outcome.stdout
    deployment = again(copied)
    assert deployment.members == (*(f"client-{i}" for i in range(8)),)
    assert deployment.rosters[0].start_epoch == 1 + WINDOW + 5
    assert deployment.digest == copied.deployment.digest
    for name in ("client-6", "client-7"):
        assert read_key(copied.key_file(name)).public == deployment.client(name).key
        assert copied.key_file(name).stat().st_mode & 0o777 == 0o600
    assert "asyncfl node --role client" in outcome.stdout


def test_the_front_that_replicas_left_on_this_machine_is_counted_from(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    for index, front in enumerate((31, 33, 30, 33)):
        path = copied.status_file(f"replica-{index}")
        path.parent.mkdir(parents=True)
        path.write_text(
            json.dumps({"deployment": copied.deployment.digest.hex(), "front": front, "epoch": 30})
        )
    facts = facts_of(asyncfl("retire", copied.root, "client-0", "--yes", "--json", "--margin", "7"))
    assert facts["start_epoch"] == 33 + WINDOW + 7
    assert facts["retiring"] == ["client-0"]
    assert facts["members"] == [f"client-{i}" for i in range(1, 6)]
    assert facts["have_it"] == 0


def test_where_replicas_are_kept_elsewhere_and_none_answers_an_epoch_must_be_named(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    for name in ALL[:2]:
        copied.key_file(name).unlink()
    before = as_text(copied)
    outcome = asyncfl("enroll", copied.root, "client-6", "--yes")
    assert outcome.code == 1
    assert "0 of 4 replicas answered, 3 are needed" in outcome.stderr
    assert "--start-epoch" in outcome.stderr
    assert as_text(copied) == before
    assert asyncfl("enroll", copied.root, "client-6", "--yes", "--start-epoch", 40).code == 0
    assert again(copied).rosters[0].start_epoch == 40


# with replicas


def test_running_replicas_get_the_next_roster_and_the_epoch_lies_beyond_their_fronts(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    scripts = {name: Script(front=20 + index) for index, name in enumerate(ALL)}
    with running(copied, tmp_path / "blobs", scripts) as replicas:
        facts = facts_of(asyncfl("enroll", copied.root, "client-6", "--yes", "--json"))
        held = {name: replica.rosters.highest for name, replica in replicas.items()}
    assert facts["start_epoch"] == 23 + WINDOW + 5
    assert (facts["roster"], facts["have_it"], facts["needed"]) == (1, 4, 3)
    assert held == dict.fromkeys(ALL, 1)
    assert facts["replicas"]["replica-3"] == {"has_it": True, "front": 23, "problem": None}


def test_a_replica_that_is_away_is_named_and_gets_what_it_missed_with_the_next_change(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    with running(copied, tmp_path / "a", {name: Script() for name in ALL[:3]}):
        outcome = asyncfl("enroll", copied.root, "client-6", "--yes")
    assert outcome.code == 0, outcome.stderr
    assert "3 of 4 replicas have roster 1, 3 are needed" in outcome.stdout
    assert "replica-3" in outcome.stdout
    assert "nothing listens at" in outcome.stdout
    # `copied` is as all replicas started: without roster 1 in the file.
    with running(copied, tmp_path / "b", {name: Script() for name in ALL}) as replicas:
        assert asyncfl("retire", copied.root, "client-6", "--yes").code == 0
        assert {name: replica.rosters.highest for name, replica in replicas.items()} == dict.fromkeys(ALL, 2)
    assert again(copied).takes_part("client-6") == ((27, 27),)


def test_too_few_replicas_leave_the_file_alone_unless_an_epoch_is_named(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    before = as_text(copied)
    with running(copied, tmp_path / "blobs", {name: Script() for name in ALL[:2]}):
        refused = asyncfl("enroll", copied.root, "client-6", "--yes", "--wait", 3)
        assert refused.code == 1
        assert "2 of 4 replicas answered, 3 are needed" in refused.stderr
        assert "waiting for replica-2, replica-3" in refused.stderr
        assert as_text(copied) == before
        named = asyncfl("enroll", copied.root, "client-6", "--yes", "--wait", 1, "--start-epoch", 50)
    assert named.code == 1
    assert "not yet in force" in named.stderr
    assert "--resend" in named.stderr
    assert again(copied).rosters[0].start_epoch == 50


def test_what_was_signed_but_not_sent_is_sent_again_under_its_number(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    assert asyncfl("enroll", copied.root, "client-6", "--yes").code == 0
    signed = as_text(copied)
    assert asyncfl("enroll", copied.root, "--resend").code == 1
    with running(copied, tmp_path / "blobs", {name: Script() for name in ALL}) as replicas:
        outcome = asyncfl("enroll", copied.root, "--resend", "--json")
        assert outcome.code == 0, outcome.stderr
        assert all(replica.rosters.highest == 1 for replica in replicas.values())
        taken = asyncfl("enroll", copied.root, "client-6", "--yes")
    assert facts_of(outcome)["have_it"] == 4
    assert as_text(copied) == signed
    assert taken.code == 2
    assert "client-6 takes part already" in taken.stderr


def test_an_older_copy_of_the_file_cannot_sign_a_number_twice(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    old = as_text(copied)
    assert asyncfl("enroll", copied.root, "client-6", "--yes").code == 0
    newer = DeploymentDirectory.load(copied.root)
    (copied.root / "deployment.toml").write_text(old)
    with running(newer, tmp_path / "blobs", {name: Script() for name in ALL}):
        outcome = asyncfl("enroll", copied.root, "client-7", "--yes")
    assert outcome.code == 2
    assert "is not the newest" in outcome.stderr
    assert "holds roster 1" in outcome.stderr
    assert as_text(copied) == old


@pytest.mark.parametrize(
    "liar",
    [
        Script(front=2**31 - 1),
        Script(claims=7),
        Script(silent=True),
        Script(takes=False),
        Script(stranger=True),
    ],
    ids=["absurd front", "roster that nobody signed", "silent", "takes nothing", "refuses the operator"],
)
def test_one_replica_cannot_hold_up_a_roster(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path, liar: Script
) -> None:
    scripts = {name: Script() for name in ALL} | {"replica-1": liar}
    with running(copied, tmp_path / "blobs", scripts) as replicas:
        outcome = asyncfl("enroll", copied.root, "client-6", "--yes", "--json")
        assert outcome.code == 0, outcome.stderr
        assert all(replicas[name].rosters.highest == 1 for name in ALL if name != "replica-1")
    assert facts_of(outcome)["start_epoch"] == 20 + WINDOW + 5


def test_an_epoch_that_clients_may_train_for_already_is_refused(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    with running(copied, tmp_path / "blobs", {name: Script() for name in ALL}):
        outcome = asyncfl("retire", copied.root, "client-0", "--yes", "--start-epoch", 22)
        assert outcome.code == 2
        assert "--start-epoch 22: it must be at least 23" in outcome.stderr
        far = asyncfl("retire", copied.root, "client-0", "--yes", "--start-epoch", 2_000_000_000)
        assert far.code == 2
        assert "choose a nearer one" in far.stderr
        assert not again(copied).rosters
        assert asyncfl("retire", copied.root, "client-0", "--yes", "--start-epoch", 23).code == 0


# keys and names


def test_clients_bring_their_own_keys(asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path) -> None:
    theirs = {name: Identity.generate().public for name in ("client-6", "hospital")}
    for name, key in theirs.items():
        write_public_key(tmp_path / f"{name}.pub", name, key)
    files = [f"--public-key={tmp_path / f'{name}.pub'}" for name in theirs]
    outcome = asyncfl("enroll", copied.root, *files, "--yes")
    assert outcome.code == 0, outcome.stderr
    assert {name: again(copied).client(name).key for name in theirs} == theirs
    assert not copied.key_file("hospital").exists()
    assert "deployment.toml and model.safetensors" in outcome.stdout


def test_a_retired_client_returns_with_its_key(asyncfl: Program, copied: DeploymentDirectory) -> None:
    key = copied.deployment.client("client-2").key
    assert asyncfl("retire", copied.root, "client-2", "--yes").code == 0
    assert "client-2" not in again(copied).members
    other = copied.root / "client-2.pub"
    write_public_key(other, "client-2", Identity.generate().public)
    wrong = asyncfl("enroll", copied.root, "client-2", "--public-key", other, "--yes")
    assert wrong.code == 2
    assert "the key that it had" in wrong.stderr
    assert asyncfl("enroll", copied.root, "client-2", "--yes").code == 0
    assert again(copied).client("client-2").key == key
    assert again(copied).takes_part("client-2") == ((1, 7), (9, None))


def test_a_key_file_that_an_interrupted_command_left_is_used(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    made = Identity.generate()
    write_key(copied.key_file("client-6"), made)
    assert asyncfl("enroll", copied.root, "client-6", "--yes").code == 0
    assert again(copied).client("client-6").key == made.public


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["enroll", "client-0"], "client-0 takes part already"),
        (["enroll", "CLIENT-0"], "client-0 is in this deployment"),
        (["enroll", "replica-1"], "replica-1 is in this deployment"),
        (["enroll", "a/b"], "is no name for a client"),
        (["enroll", "x", "x"], "x is named twice"),
        (["enroll"], "nobody is named"),
        (["enroll", "x", "--resend"], "give nothing else with it"),
        (["enroll", "--resend"], "has only the first roster"),
        (["retire", "client-9"], "no client is called 'client-9'"),
        (["retire", "client-1", "client-1"], "client-1 is named twice"),
        (["retire", *(f"client-{i}" for i in range(4))], "2 clients would be left of 6, and a cell has 3"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    asyncfl: Program, made: DeploymentDirectory, words: list[str], expected: str
) -> None:
    before = as_text(made)
    outcome = asyncfl(words[0], made.root, *words[1:], "--yes")
    assert outcome.code == 2
    assert expected in outcome.stderr
    assert as_text(made) == before


def test_a_roster_with_more_colluders_in_a_cell_than_noise_was_made_for_is_refused(
    asyncfl: Program, tmp_path: Path
) -> None:
    wanted = NewDeployment(clients=20, malicious_fraction=0.05, parameters={"cell_size": 3, "min_group": 3})
    made = create_deployment(tmp_path / "run", wanted)
    assert made.deployment.parameters.malicious_allowance == 1
    refused = asyncfl("enroll", made.root, "client-20", "--yes")
    assert refused.code == 2
    assert "a roster of 21 clients: this deployment allows for 1 colluders" in refused.stderr
    assert not again(made).rosters
    assert asyncfl("retire", made.root, "client-3", "--yes").code == 0


def test_more_clients_than_an_epoch_of_the_ledger_holds_are_refused(
    asyncfl: Program, copied: DeploymentDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_rosters, "MAX_ROW_ITEMS", 3)
    before = as_text(copied)
    refused = asyncfl("enroll", copied.root, "client-6", "client-7", "--yes")
    assert refused.code == 2
    assert "8 clients" in refused.stderr
    assert "larger cell_size" in refused.stderr
    assert as_text(copied) == before


def test_retiring_twice_is_refused_with_the_roster_that_did_it(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    asyncfl("retire", copied.root, "client-2", "--yes")
    outcome = asyncfl("retire", copied.root, "client-2", "--yes")
    assert outcome.code == 2
    assert "client-2 has retired already, with roster 1 (epoch 8)" in outcome.stderr


def test_nothing_is_signed_without_a_yes(asyncfl: Program, made: DeploymentDirectory) -> None:
    before = as_text(made)
    outcome = asyncfl("enroll", made.root, "client-6")
    assert outcome.code == 2
    assert "add --yes" in outcome.stderr
    assert as_text(made) == before
    assert not made.key_file("client-6").exists()


def test_only_the_operator_changes_rosters(asyncfl: Program, copied: DeploymentDirectory) -> None:
    path = copied.root / "operator.key"
    kept = path.read_text()
    path.unlink()
    outcome = asyncfl("enroll", copied.root, "client-6", "--yes")
    assert outcome.code == 2
    assert "only the operator" in outcome.stderr
    write_key(path, Identity.generate())
    assert "not the operator's" in asyncfl("enroll", copied.root, "client-6", "--yes").stderr
    path.write_text(kept)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is at work" in asyncfl("enroll", copied.root, "client-6", "--yes").stderr
    assert not again(copied).rosters


# the epoch


@pytest.mark.parametrize(
    ("fronts", "expected", "outlying"),
    [
        ([20, 20, 20, 20], 27, ()),
        ([20, 26, 3], 33, ()),
        ([20, 2**31, 20], 27, ("replica-1",)),
        ([1], 8, ()),
    ],
)
def test_the_start_epoch_lies_beyond_every_honest_front(
    made: DeploymentDirectory, fronts: list[int], expected: int, outlying: tuple[str, ...]
) -> None:
    named = dict(zip(ALL, fronts, strict=False))
    assert compute_start_epoch(named, made.deployment, 5) == (expected, outlying)


def test_statements_are_those_of_the_file(asyncfl: Program, copied: DeploymentDirectory) -> None:
    asyncfl("enroll", copied.root, "client-6", "--yes")
    asyncfl("retire", copied.root, "client-1", "--yes")
    deployment = again(copied)
    said = statements_of(deployment)
    assert [statement.number for statement in said] == [1, 2]
    assert [statement.body() for statement in said] == [r.digest for r in deployment.all_rosters[1:]]
