"""`asyncfl audit`, `asyncfl model` and `asyncfl rollback` as a person meets them, with nothing running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asyncfl.effects import Put, Table
from asyncfl.errors import ConfigurationError
from asyncfl.exclusions import Exclusion
from asyncfl.messages import Vote
from node import operator_calls
from node.audit_report import load
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.exclusion_file import read_exclusions, write_exclusions
from node.rollback import Known, Wish, compute_cost, plan, sign, undo
from tests.node.ledgers import MadeLedger

GROUPS = [
    (1, ("client-0", "client-1", "client-2")),
    (1, ("client-3", "client-4", "client-5")),
    (2, ("client-0", "client-3", "client-6")),
    (2, ("client-1", "client-4", "client-7")),
    (3, ("client-2", "client-5", "client-7")),
]


@pytest.fixture
def made(tmp_path: Path) -> MadeLedger:
    return MadeLedger(create_deployment(tmp_path / "run", NewDeployment(clients=8)), GROUPS)


def run(*arguments: str | Path, columns: int = 120) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": str(columns)})


def told(*arguments: str | Path) -> dict[str, Any]:
    value = json.loads(run(*arguments).stdout)
    assert isinstance(value, dict)
    return value


# audit


def test_an_audit_says_who_took_part_in_what(made: MadeLedger) -> None:
    done = run("audit", made.files.root)
    assert done.exit_code == 0, done.output
    assert "verified: 5 entries, the models of 5 certified versions" in done.stdout
    facts = told("audit", made.files.root, "--json", "-")
    assert facts["verified"]
    assert facts["clients"]["client-0"] == {"epochs": [1, 2], "counts": 2}
    assert facts["cohorts"] == {"3": 5}
    assert [row["groups"] for row in facts["rows"]] == [[3, 3], [3, 3], [3]]
    assert all(each["recomputed"] for each in facts["versions"])
    assert {len(entry["locked_by"]) for entry in facts["entries"]} == {3}
    one = told("audit", made.files.state("replica-2"), "--json", "-")
    assert list(one["replicas"]) == ["replica-2"]


def test_an_audit_names_what_was_changed_and_where(made: MadeLedger) -> None:
    files, name = made.files, made.items[1]
    record = made.record(1)
    record.locks = (Vote(replica=0, signature=bytes(64)), *record.locks[1:])
    made.write(1, [Put(Table.ITEMS, name, record.encode())])
    blob = made.stores[2].path(made.record(2).item.opened)
    blob.write_bytes(b"\x01" + blob.read_bytes()[1:])
    done = run("audit", files.root, "--json", "-")
    assert done.exit_code == 1
    found = {each["replica"]: each["problem"] for each in json.loads(done.stdout)["problems"]}
    assert found["replica-1"].startswith(f"entry {name.hex()[:12]}: lock")
    assert found["replica-2"].startswith(f"entry {made.items[2].hex()[:12]}: its opened sum")
    assert "replica-0" not in found, "the state of another replica is as it was"


def test_a_state_that_cannot_be_read_is_named(made: MadeLedger) -> None:
    path = made.files.state("replica-3") / "state.sqlite"
    data = bytearray(path.read_bytes())
    where = data.index(made.items[0])
    data[where + 16] ^= 1
    path.write_bytes(data)
    done = run("audit", made.files.root)
    assert done.exit_code == 3
    assert "replica-3" in done.stderr
    assert "verified" in done.stdout


# versions


def test_versions_are_listed_shown_and_compared(made: MadeLedger) -> None:
    root = made.files.root
    versions = told("model", "list", root, "--json", "-")["versions"]
    assert [each["version"] for each in versions] == [name.hex() for name in made.versions]
    assert [each["entries"] for each in versions] == [1, 2, 3, 4, 5]
    assert versions[0]["version"][:8] in run("model", "list", root, columns=80).stdout
    shown = told("model", "show", root, versions[2]["version"][:6], "--json", "-")
    assert shown["clients"]["client-3"] == {"epochs": [1, 2], "counts": 2}
    assert run("model", "show", root, "newest").exit_code == 0
    found = told("model", "diff", root, versions[2]["version"], "newest", "--json", "-")
    assert {each["entry"] for each in found["only_in_second"]} == {name.hex() for name in made.items[3:]}
    assert found["members"]["client-7"] == {"only_in_first": 0, "only_in_second": 2}
    *layers, total = found["layers"]
    assert total["difference_norm"] > 0
    assert total["difference_norm"] ** 2 == pytest.approx(
        sum(each["difference_norm"] ** 2 for each in layers)
    )
    assert run("model", "diff", root, "newest", versions[0]["version"]).exit_code == 0
    assert run("model", "show", root, "0" * 12).exit_code == 2


def test_a_model_that_is_not_on_disk_any_more_is_computed(made: MadeLedger) -> None:
    root = made.files.root
    before = told("model", "diff", root, made.versions[0].hex(), "newest", "--json", "-")
    for store in made.stores:
        for digest in list(store.digests()):
            if store.size(digest) == len(made.files.initial_model()) and digest not in {
                made.record(number).item.opened for number in range(5)
            }:
                store.delete(digest)
    assert told("model", "diff", root, made.versions[0].hex(), "newest", "--json", "-") == before


# rollback: what is signed


def known(made: MadeLedger) -> Known:
    audits = list(load(made.files, ["replica-0"]).audits.values())
    audits[0].read()
    return Known(audits[0].ledger, audits[0].versions)


def test_a_client_is_left_out_with_all_its_groups_and_the_cost_is_said(made: MadeLedger) -> None:
    held = read_exclusions(made.files.root, made.files.deployment)
    statement = plan(made.files.deployment, held, known(made), Wish(clients=["client-7"], reason="poison"))
    cost = compute_cost(made.ledger, Exclusion(), Exclusion.of(statement))
    assert (cost.entries, cost.leaves_out, cost.blamed, cost.others, cost.uploads) == (5, 2, 2, 4, 15)
    assert len(cost.others_names) == 4
    assert cost.share == pytest.approx(4 / 15)


def test_going_back_to_a_version_leaves_out_what_came_later(made: MadeLedger) -> None:
    """Late entries of its own rows one by one; the rows after it as a span, so that late ones of these go too."""
    held = read_exclusions(made.files.root, made.files.deployment)
    statement = plan(made.files.deployment, held, known(made), Wish(to=made.versions[2].hex()[:8]))
    assert [(span.first, span.last) for span in statement.spans] == [(3, 3)]
    assert statement.entries == (made.items[3],)
    out = Exclusion.of(statement)
    counting = [name for name, item in made.ledger.items.items() if not out.excludes(name, item)]
    assert set(counting) == set(made.items[:3])


def test_exclusions_add_up_and_are_taken_back_one_by_one(made: MadeLedger) -> None:
    root, deployment = made.files.root, made.files.deployment
    operator, held = made.files, read_exclusions(root, deployment)
    from node.enrolment import open_as_operator

    operator = open_as_operator(root)[1]

    def signed(statement: Any) -> None:
        held.add(sign(operator, deployment.digest, statement))
        write_exclusions(root, held.held)

    signed(plan(deployment, held, known(made), Wish(clients=["client-7"])))
    signed(
        plan(
            deployment, held, known(made), Wish(entries=[made.items[0].hex()[:8]], to=made.versions[3].hex())
        )
    )
    again = read_exclusions(root, deployment)
    assert again.held == held.held
    assert again.in_force.clients == {deployment.client("client-7").key}
    assert again.in_force.entries == {made.items[0]}
    assert again.in_force.spans == ((3, 3),)
    with pytest.raises(ConfigurationError, match="leaves that out already"):
        plan(deployment, held, known(made), Wish(clients=["client-7"]))
    signed(undo(held, "a mistake"))
    assert (held.in_force.entries, held.in_force.spans) == (frozenset(), ())
    assert held.in_force.clients == {deployment.client("client-7").key}
    signed(undo(held, ""))
    assert held.in_force.spans == ((3, 3),), "taking back what took back"


def test_what_cannot_be_meant_is_refused(made: MadeLedger) -> None:
    deployment, held = made.files.deployment, read_exclusions(made.files.root, made.files.deployment)
    for wish, match in (
        (Wish(entries=["123"]), "8 to 64 hex digits"),
        (Wish(entries=["0" * 8]), "no entry"),
        (Wish(to="0" * 8), "no certified version"),
        (Wish(to=made.versions[-1].hex()), "nothing comes after"),
        (Wish(clients=["client-99"]), "client-99"),
        (Wish(clients=["client-1"], reason="\x1b[2J"), "printable"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            plan(deployment, held, known(made), wish)
    with pytest.raises(ConfigurationError, match="nothing is excluded"):
        undo(held, "")
    future = plan(deployment, held, known(made), Wish(entries=["ab" * 32]))
    assert future.entries == (bytes([0xAB]) * 32,), "an entry that is still to come"


def test_the_command_signs_once_and_says_that_nobody_has_it(
    made: MadeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_calls, "PAUSE_SECONDS", 0.01)
    root = made.files.root
    refused = run("rollback", root, "--exclude-client", "client-7")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert not read_exclusions(root, made.files.deployment).held
    done = run("rollback", root, "--exclude-client", "client-7", "--reason", "poison", "--yes")
    assert done.exit_code == 1
    assert (
        "2 entries more are left out: 2 uploads of client-7, and 4 uploads of 4 other clients, 26.7 %"
        in done.stdout
    )
    assert "0 of 4 replicas have exclusion 1" in done.stderr
    assert read_exclusions(root, made.files.deployment).held[0].reason == "poison"
    assert run("rollback", root, "--exclude-client", "client-7", "--yes").exit_code == 2
    assert run("rollback", root).exit_code == 2
    assert run("rollback", root, "--undo", "--to", "newest").exit_code == 2
    (root / "operator.key").unlink()
    assert run("rollback", root, "--undo", "--yes").exit_code == 2
