"""`asyncfl rollback` and the replicas: which number is next, who has the statement, what others signed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from asyncfl.messages import ExclusionStatement
from node import audit_report, operator_calls
from node.deployment_files import DeploymentDirectory
from node.enrolment import open_as_operator
from node.exclusion_file import EXCLUSIONS_FILE, read_exclusions
from node.rollback import sign

from .conftest import Outcome, Program
from .replicas import Script, running

ALL = [f"replica-{i}" for i in range(4)]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_calls, "STRAGGLER_SECONDS", 1.0)
    monkeypatch.setattr(operator_calls, "PAUSE_SECONDS", 0.01)


def signed(files: DeploymentDirectory, number: int, client: str, reason: str = "") -> ExclusionStatement:
    """As another machine with the operator's key signs it."""
    unsigned = ExclusionStatement(
        number=number,
        entries=(),
        clients=(files.deployment.client(client).key,),
        spans=(),
        reason=reason,
        signature=bytes(64),
    )
    return sign(open_as_operator(files.root)[1], files.deployment.digest, unsigned)


def rival(files: DeploymentDirectory, mine: ExclusionStatement, *, counts: bool) -> ExclusionStatement:
    """Another of the same number that counts beside `mine`, or does not."""
    return next(
        other
        for attempt in count()
        if ((other := signed(files, mine.number, "client-4", f"try {attempt}")).body() < mine.body())
        == counts
    )


def facts_of(outcome: Outcome) -> dict[str, Any]:
    value = json.loads(outcome.stdout)
    assert isinstance(value, dict)
    return value


def numbers(files: DeploymentDirectory) -> list[tuple[int, str]]:
    return [
        (each["number"], each["reason"])
        for each in json.loads((files.root / EXCLUSIONS_FILE).read_text())["statements"]
    ]


def test_the_next_number_is_the_replicas_where_the_file_is_lost(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    """More than a replica gives at once, and all that is left out stays left out."""
    held = tuple(signed(copied, number, f"client-{number % 2}", f"no {number}") for number in range(1, 12))
    with running(copied, tmp_path, {name: Script(exclusions=held) for name in ALL}) as replicas:
        outcome = asyncfl("rollback", copied.root, "--exclude-client", "client-3", "--yes", "--json")
        assert outcome.code == 0, outcome.stderr
        assert "signed elsewhere with this key" in outcome.stderr
        facts = facts_of(outcome)
        assert facts["number"] == 12
        assert facts["taken_over"] == list(range(1, 12))
        assert facts["clients"] == ["client-1", "client-3"]
        assert facts["leaves_out"]["clients"] == ["client-3"]
        assert {replica.exclusions.highest for replica in replicas.values()} == {12}
    assert [number for number, _ in numbers(copied)] == list(range(1, 13))


@pytest.mark.parametrize("counts", [True, False])
def test_two_of_one_number_are_told_and_the_next_replaces_both(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path, counts: bool
) -> None:
    """One is in the file and reached nobody; the replicas hold another."""
    assert asyncfl("rollback", copied.root, "--exclude-client", "client-3", "--yes").code == 1
    (mine,) = read_exclusions(copied.root, copied.deployment).exclusions.held
    other = rival(copied, mine, counts=counts)
    with running(copied, tmp_path, {name: Script(exclusions=(other,)) for name in ALL}) as replicas:
        outcome = asyncfl("rollback", copied.root, "--exclude-client", "client-1", "--yes")
        assert outcome.code == 0, outcome.stderr
        assert "two exclusions have number 1" in outcome.stderr
        kept = "client-4" if counts else "client-3"
        assert f"the one that leaves out {kept}" in outcome.stderr
        assert "4 of 4 replicas have exclusion 2" in outcome.stdout
        expected = {copied.deployment.client(name).key for name in ("client-1", kept)}
        assert all(replica.exclusions.in_force.clients == expected for replica in replicas.values())
        assert all(replica.exclusions.doubles for replica in replicas.values()), "each knows of both"
    assert sorted(number for number, _ in numbers(copied)) == [1, 1, 2]


@pytest.mark.parametrize("counts", [True, False])
def test_a_statement_that_another_one_of_its_number_beats_is_not_reported_as_done(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path, counts: bool
) -> None:
    """Two machines sign at the same moment: the other's reaches the replicas between this one's calls."""
    mine = signed(copied, 1, "client-3", "mine")
    other = rival(copied, mine, counts=counts)
    ask = ("rollback", copied.root, "--exclude-client", "client-3", "--reason", "mine", "--yes")
    with running(copied, tmp_path, {name: Script(rival=other) for name in ALL}) as replicas:
        outcome = asyncfl(*ask, "--json")
        facts = facts_of(outcome)
        assert facts["number"] == 1
        if not counts:
            assert outcome.code == 0, outcome.stderr
            assert facts["have_it"] == 4
            return
        assert outcome.code == 1
        assert "not in force" in outcome.stderr
        assert "leaves out client-4" in outcome.stderr
        assert (facts["have_it"], facts["instead"], facts["state"]) == (0, 1, "does not count")
        for replica in replicas.values():
            replica.script.rival = None
        again = facts_of(asyncfl(*ask, "--json"))
        assert (again["number"], again["have_it"]) == (2, 4)
        assert again["clients"] == ["client-3", "client-4"]


def test_a_later_statement_that_was_signed_meanwhile_is_not_taken_for_this_one(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    first, second = signed(copied, 1, "client-1"), signed(copied, 2, "client-4", "elsewhere")
    assert asyncfl("rollback", copied.root, "--exclude-client", "client-1", "--yes").code == 1
    with running(copied, tmp_path, {name: Script(exclusions=(first, second)) for name in ALL}):
        outcome = asyncfl("rollback", copied.root, "--resend")
    assert outcome.code == 0, outcome.stderr
    assert "4 of 4 replicas have exclusion 2" in outcome.stdout, "what is sent again is the newest of all"
    assert numbers(copied)[-1] == (2, "elsewhere")


def test_going_back_reaches_as_far_as_the_replicas_are(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    """Nothing of the ledger is on the operator's machine; one replica lies about its front."""
    fronts = {name: Script(front=front) for name, front in zip(ALL, (20, 22, 21, 10**6), strict=True)}
    with running(copied, tmp_path, fronts):
        outcome = asyncfl("rollback", copied.root, "--to", "initial", "--yes", "--json")
    assert outcome.code == 0, outcome.stderr
    assert facts_of(outcome)["spans"] == [[1, 22 + copied.deployment.parameters.window]]


def test_going_back_reaches_what_came_while_the_states_were_read(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes seconds, in which training goes on: uploads of those epochs are from what goes, too."""
    with running(copied, tmp_path, {name: Script(front=20) for name in ALL}) as replicas:
        read = audit_report.load

        def slowly(files: DeploymentDirectory, names: Iterable[str]) -> audit_report.Report:
            for replica in replicas.values():
                replica.script.front = 25
            return read(files, names)

        monkeypatch.setattr(audit_report, "load", slowly)
        outcome = asyncfl("rollback", copied.root, "--to", "initial", "--yes", "--json")
    assert outcome.code == 0, outcome.stderr
    assert facts_of(outcome)["spans"] == [[1, 25 + copied.deployment.parameters.window]]


def test_too_few_replicas_are_said_before_anything_is_signed(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    with running(copied, tmp_path, {"replica-0": Script()}):
        outcome = asyncfl("rollback", copied.root, "--to", "initial", "--wait", "1")
        assert outcome.code == 2, "nothing comes after it, as far as is known"
        outcome = asyncfl("rollback", copied.root, "--exclude-client", "client-3", "--wait", "1")
        assert outcome.code == 2
        assert "1 of 4 replicas answered: whether another exclusion was signed elsewhere" in outcome.stderr
        assert not (copied.root / EXCLUSIONS_FILE).exists()
        outcome = asyncfl("rollback", copied.root, "--exclude-client", "client-3", "--wait", "1", "--yes")
    assert outcome.code == 1
    assert "1 of 4 replicas have exclusion 1, 3 are needed" in outcome.stderr
    assert numbers(copied) == [(1, "")]


def test_the_last_clients_are_not_left_out_without_a_word(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    named = [word for number in range(6) for word in ("--exclude-client", f"client-{number}")]
    outcome = asyncfl("rollback", copied.root, *named, "--yes")
    assert "0 clients are left" in outcome.stdout
    assert "training stops" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--exclude-client", "client-33"), "did you mean client-3"),
        (("--include-client", "nobody"), "no client is called"),
        (("--exclude-entry", "xyz"), "8 to 64 hex digits"),
        (("--to", "newest"), "8 to 64 hex digits"),
        (("--undo", "--to", "initial"), "one of the four"),
    ],
)
def test_a_slip_of_the_pen_is_refused_before_anybody_is_called(
    asyncfl: Program,
    copied: DeploymentDirectory,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    match: str,
) -> None:
    monkeypatch.setattr(operator_calls.Caller, "call", lambda *_, **__: pytest.fail("replicas were called"))
    outcome = asyncfl("rollback", copied.root, *words, "--yes")
    assert outcome.code == 2
    assert match in outcome.stderr
