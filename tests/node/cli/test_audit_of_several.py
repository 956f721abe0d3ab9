"""An audit over several replicas' states, of which some are behind; and what it keeps in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from torch import Tensor
from typer.testing import CliRunner

from asyncfl import audit as auditing
from asyncfl.effects import Put, Table
from asyncfl.fold import FoldState
from asyncfl.messages import Epochs, ExclusionStatement
from asyncfl.replay import replay
from asyncfl.replica.item_record import Signatures
from asyncfl.rosters import put_roster
from asyncfl.simulation.deployment import sign_roster
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import OPERATOR_KEY_FILE, read_key
from tests.node.ledgers import GROUPS, MadeLedger


def statement(number: int, made: MadeLedger, client: str, *spans: tuple[int, int]) -> ExclusionStatement:
    return ExclusionStatement(
        number=number,
        entries=(),
        clients=(made.files.deployment.client(client).key,),
        spans=tuple(Epochs(first=first, last=last) for first, last in spans),
        reason="poison",
        signature=bytes(64),
    )


def make(root: Path, **parameters: Any) -> MadeLedger:
    return MadeLedger(
        create_deployment(root, NewDeployment(clients=8, parameters=parameters)), GROUPS, correct=50
    )


def told(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "100"})
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def later(made: MadeLedger, client: str, number: int = 1) -> list[Put]:
    """A statement, and the version under it: rows that no replica has yet."""
    before = len(made.rows)
    made.exclude(statement(number, made, client))
    made.certify()
    return made.rows[before:]


@pytest.mark.parametrize("ahead", [0, 3])
def test_the_highest_statement_of_any_state_is_in_force(tmp_path: Path, ahead: int) -> None:
    """Whichever state is read first: here one replica has heard of it, and has a version under it."""
    made = make(tmp_path / "run")
    made.write(ahead, later(made, "client-7"))
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["verified"], facts["problems"]
    assert facts["clients"]["client-7"] == {"epochs": [2, 3], "counts": 0}
    assert [row["counts"] for row in facts["rows"]] == [True, True, False]
    (exclusion,) = facts["exclusions"]
    assert exclusion["state"] == "in force"
    behind = [f"replica-{index}" for index in range(4) if index != ahead]
    assert exclusion["lacking"] == behind
    assert {name for name, said in facts["replicas"].items() if said["exclusion"] == 0} == set(behind)
    shown = CliRunner().invoke(app, ["audit", str(made.files.root)], env={"COLUMNS": "80"}).stdout
    assert f"{', '.join(behind)} had not heard of exclusion 1" in shown


def test_a_statement_that_one_state_has_lost_counts_by_another(tmp_path: Path) -> None:
    """Replica 1 has the second without the first, replica 2 the first alone: together they have both."""
    made = make(tmp_path / "run")
    first, second = later(made, "client-7"), later(made, "client-6", 2)
    made.write(1, second)
    made.write(2, first)
    facts = told("audit", made.files.root, "--json", "-")
    assert [each["number"] for each in facts["exclusions"]] == [1, 2]
    assert facts["clients"]["client-7"]["counts"] == 2
    assert facts["clients"]["client-6"]["counts"] == 0
    problems = [each["problem"] for each in facts["problems"] if each["replica"] == "replica-1"]
    assert any("cannot be judged before exclusion 1 is held" in problem for problem in problems)


def test_a_version_has_the_accuracy_that_was_measured_on_it_and_on_no_other_model(tmp_path: Path) -> None:
    """Row e + 1 measured the model after row e, as it was given out then: with what was excluded only later."""
    made = make(tmp_path / "run", metrics=True)
    before = len(made.rows)
    made.exclude(statement(1, made, "client-7"))
    made.certify()
    for epoch, clients in ((4, GROUPS[0][1]), (5, GROUPS[1][1])):
        made.enter(epoch, clients)
        made.certify()
    for index in range(4):
        made.write(index, made.rows[before:])
    versions = told("model", "list", made.files.root, "--json", "-")["versions"]
    assert [(each["epoch"], each["statement"]) for each in versions] == [
        (1, 0), (1, 0), (2, 0), (2, 0), (3, 0), (3, 1), (4, 1), (5, 1),
    ]  # fmt: skip
    accuracies = [each["accuracy"] for each in versions]
    assert accuracies[0] == accuracies[1] == pytest.approx(0.525, abs=0.004), "row 2, poisoned or not"
    assert accuracies[2] == accuracies[3] == pytest.approx(0.54, abs=0.004), "row 3, which is left out now"
    assert accuracies[4] is None, "row 4 came under the exclusion"
    assert accuracies[5] is None, "row 3, before it, was trained under none"
    assert accuracies[6] == pytest.approx(0.56, abs=0.004)
    assert accuracies[7] is None, "nobody has measured the newest"


def test_the_best_model_is_worked_out_under_the_latest_exclusion(tmp_path: Path) -> None:
    """Replica 0 was down when the operator took something out, and has as many entries as the others."""
    made = make(tmp_path / "run", metrics=True)
    put = later(made, "client-7")
    for index, name in enumerate(made.names):
        made.files.status_file(name).write_text(
            json.dumps({"deployment": made.files.deployment.digest.hex(), "pid": 1, "time": 0})
        )
        if index:
            made.write(index, put)
    ask = ("export", made.files.root, tmp_path / "best.safetensors", "--best", "--rows", "1", "--json")
    facts = told(*ask)
    assert facts["exclusion"] == 1
    made.write(0, put)
    assert told(*ask) == facts
    done = CliRunner().invoke(app, [str(each) for each in ask], env={"COLUMNS": "100"})
    assert "exclusion 1 is in force" in done.stderr


def test_one_damaged_copy_of_an_opened_sum_is_passed_by(tmp_path: Path) -> None:
    made = make(tmp_path / "run", metrics=True)
    said = {"deployment": made.files.deployment.digest.hex(), "pid": 1, "time": 0}
    made.files.status_file(made.names[0]).write_text(json.dumps(said))
    ask = ("export", made.files.root, tmp_path / "best.safetensors", "--best", "--rows", "1", "--json")
    facts = told(*ask)
    opened = made.ledger.items[made.items[0]].opened
    made.stores[0].path(opened).write_bytes(b"something else")
    assert told(*ask) == facts
    for store in made.stores:
        store.path(opened).write_bytes(b"something else")
    done = CliRunner().invoke(app, [str(each) for each in ask], env={"COLUMNS": "100"})
    assert isinstance(done.exception, SystemExit)
    assert "damaged" in done.stderr


def test_an_audit_keeps_no_state_of_the_fold_but_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is as large as the model, or more: of a long training they would not fit into any memory."""
    made = make(tmp_path / "run", reputation=True, rule="median")
    alive: WeakSet[Tensor] = WeakSet()
    most = 0

    def watched(*arguments: Any) -> Iterator[tuple[int, FoldState]]:
        nonlocal most
        for epoch, state in replay(*arguments):
            alive.add(state.total)
            most = max(most, len(alive))
            yield epoch, state

    monkeypatch.setattr(auditing, "replay", watched)
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["verified"]
    assert len(alive) == 0
    assert 0 < most <= 2
    assert [row["rule"] is not None for row in facts["rows"]] == [True] * 3
    assert all("suspicion" in said for said in facts["clients"].values())


@pytest.mark.parametrize(("smallest", "told_of"), [(3, True), (1, False)])
def test_an_audit_scores_groups_and_no_single_update(tmp_path: Path, smallest: int, told_of: bool) -> None:
    made = make(
        tmp_path / "run",
        reputation=True,
        rule="median",
        min_group=smallest,
        allow_minority_groups=True,
        allow_single_clients=True,
    )
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["verified"], facts["problems"]
    assert ["scores" in row["rule"] for row in facts["rows"]] == [told_of] * 3
    assert ["suspicion" in said for said in facts["clients"].values()] == [told_of] * 8


def test_the_tables_of_statements_are_those_that_are_audited(tmp_path: Path) -> None:
    """A statement that somebody altered on one disk counts by its true copy on another."""
    made = make(tmp_path / "run")
    put = later(made, "client-7")
    made.write(0, [Put(Table.EXCLUSIONS, put[0].key, put[0].value.replace(b"poison", b"advice"))])
    made.write(1, put)
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["clients"]["client-7"]["counts"] == 0
    assert [each["replica"] for each in facts["problems"]] == ["replica-0"]


def roster_row(made: MadeLedger, start: int, **changes: Any) -> Put:
    """The operator's first roster after the one of the deployment file."""
    deployment = made.files.deployment
    members = tuple(sorted(client.key for client in deployment.clients))[:7]
    operator = read_key(made.files.root / OPERATOR_KEY_FILE)
    statement = sign_roster(operator, deployment.digest, 1, start, members).statement
    return put_roster(statement.model_copy(update=changes))


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("what", ["forged", "garbage"])
def test_a_roster_that_does_not_hold_is_named_with_its_replica_whichever_it_is(
    tmp_path: Path, where: int, what: str
) -> None:
    made = make(tmp_path / "run")
    forged = roster_row(made, 9, signature=bytes(64))
    made.write(where, [forged if what == "forged" else Put(Table.ROSTERS, forged.key, b"\x93garbage")])
    made.write(where, [Put(Table.EVIDENCE, b"e" * 32, b"garbage")])
    done = CliRunner().invoke(app, ["audit", str(made.files.root), "--json", "-"], env={"COLUMNS": "100"})
    assert done.exit_code == 1, done.output
    facts = json.loads(done.stdout)
    first, second = facts["problems"]
    assert first["replica"] == second["replica"] == f"replica-{where}"
    said = "the operator did not sign" if what == "forged" else "cannot be read"
    assert said in first["problem"]
    assert second["problem"].startswith("evidence ")
    assert [each["number"] for each in facts["rosters"]] == [0]
    assert all(each["recomputed"] for each in facts["versions"]), "the rest is still checked"


def test_rosters_of_all_states_are_told_and_two_of_one_number_are_a_problem(tmp_path: Path) -> None:
    made = make(tmp_path / "run")
    made.write(3, [roster_row(made, 9)])
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["verified"], facts["problems"]
    assert [each["start_epoch"] for each in facts["rosters"]] == [1, 9]
    made.write(2, [roster_row(made, 11)])
    (problem,) = told("audit", made.files.root, "--json", "-")["problems"]
    assert problem == {
        "replica": "all together",
        "problem": "roster 1: the operator signed two; replica-2 and replica-3 hold one each",
    }


def test_entries_without_locks_are_counted_and_shown(tmp_path: Path) -> None:
    """MadeLedger's entries are attested by replicas 0 and 1: the others took them as certified."""
    made = make(tmp_path / "run")
    bare = []
    for number in (1, 2):
        record = made.record(number)
        record.locks = Signatures()
        bare.append(Put(Table.ITEMS, made.items[number], record.encode()))
    made.write(3, bare)
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["verified"], facts["problems"]
    assert [said["locked"] for said in facts["replicas"].values()] == [5, 5, 5, 3]
    (remark,) = facts["remarks"]
    assert remark["replica"] == "replica-3"
    assert remark["remark"].startswith("2 of 5 entries without locks")
    shown = CliRunner().invoke(app, ["audit", str(made.files.root)], env={"COLUMNS": "80"}).stdout
    assert "note: replica-3: 2 of 5 entries without locks" in shown
    alone = told("audit", made.files.state("replica-3"), "--json", "-")
    assert alone["verified"], "the locks are where the entries were opened"
    assert {"replica": "all together"}.items() <= alone["remarks"][1].items()
    names = ", ".join(sorted(made.items[number].hex()[:12] for number in (1, 2)))
    assert alone["remarks"][1]["remark"] == f"no state here has the locks of {names}"
    for index in range(3):
        made.write(index, bare)
    facts = told("audit", made.files.root, "--json", "-")
    assert not facts["verified"]
    assert {each["replica"] for each in facts["problems"]} == {"replica-0", "replica-1", "all together"}
    assert "no state has its locks, though 2 or more" in facts["problems"][-1]["problem"]


def test_a_version_is_shown_with_its_entries_members_and_settings(tmp_path: Path) -> None:
    """At 80 columns, a line for each epoch; what the last exclusion leaves out is told from what counts."""
    options = {"rule": "median", "reputation": True, "weighting": "examples"}
    made = make(tmp_path / "run", **options, bad_groups=0.25)
    for index in range(4):
        made.write(index, later(made, "client-7", 1) if index == 0 else made.rows)
    done = CliRunner().invoke(app, ["model", "show", str(made.files.root), "newest"], env={"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines if "certified " not in line) <= 80
    told = " ".join(done.stdout.split())
    for part in (
        "rule median", "up to 25% of the groups may be bad", "clients have a reputation",
        "weighted by examples, at most 1000", "clip ", "noise off", "4 replicas, 1 may lie",
    ):  # fmt: skip
        assert part in told
    rows = [line.split(maxsplit=3) for line in lines if line.split()[:1] in (["1"], ["2"], ["3"])]
    assert [row[:3] for row in rows] == [["1", "2", "2"], ["2", "2", "1"], ["3", "1", "0"]]
    assert f"1 2 2 {', '.join(f'client-{number}' for number in range(6))} 2 2 1 client-0," in told
    assert rows[2][3].rstrip() == "client-2, client-5, client-7"
    shown = CliRunner().invoke(app, ["audit", str(made.files.root)], env={"COLUMNS": "80"}).stdout
    assert "rule median; up to 25% of the groups may be bad; clients have a reputation" in shown
    plain = make(tmp_path / "plain")
    shown = CliRunner().invoke(app, ["audit", str(plain.files.root)], env={"COLUMNS": "80"}).stdout
    assert "rule mean; server sgd" in shown
