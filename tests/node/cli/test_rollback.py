"""`asyncfl audit`, `asyncfl model` and `asyncfl rollback` as a person meets them, with nothing running."""

from __future__ import annotations

import json
from dataclasses import replace
from errno import EACCES
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from asyncfl.effects import Put, Table
from asyncfl.errors import ConfigurationError
from asyncfl.exclusions import Exclusion, Exclusions, put_exclusion
from asyncfl.messages import ExclusionStatement
from node import operator_calls
from node.audit_report import load
from node.cli import app
from node.commands import supervise
from node.deployment_creation import NewDeployment, create_deployment
from node.enrolment import open_as_operator
from node.exclusion_file import EXCLUSIONS_FILE, read_exclusions, write_exclusions
from node.exclusion_history import Content
from node.rollback import Known, Wish, compute_cost, compute_under_way, plan, sign
from tests.node.ledgers import GROUPS, MadeLedger


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
    record.locks[0] = bytes(64)
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
    assert "not verified: the state of replica-3 cannot be read\n" in done.stdout
    listed = run("model", "list", made.files.root)
    assert listed.exit_code == 0, "three other states have it all"
    assert "left aside" in listed.stderr
    assert "replica-3" in listed.stderr


def test_a_state_whose_database_is_gone_is_not_passed_over(made: MadeLedger) -> None:
    """Its opened sums are still there: it has run here."""
    root, gone = made.files.root, made.files.state("replica-3")
    (gone / "state.sqlite").unlink()
    for where in (root, gone):
        done = run("audit", where)
        assert done.exit_code == 3
        assert "the state file is gone" in done.stderr
        assert "not verified: the state of replica-3 cannot be read" in done.stdout
    for name in made.names[:3]:
        (made.files.state(name) / "state.sqlite").unlink()
    history = run("rollback", root, "--list")
    assert history.exit_code == 3, "nothing is known of what was left out"
    assert "nothing was ever left out" not in history.stdout


def test_a_state_without_permission_is_named_and_the_others_are_checked(
    made: MadeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of replica 1 nothing can be looked at, of replica 2 no blob."""
    shut = (made.files.state("replica-1"), made.files.state("replica-2") / "blobs")
    allowed = Path.stat

    def stat(path: Path, **how: Any) -> Any:
        if any(path.is_relative_to(folder) and path != folder for folder in shut):
            raise PermissionError(EACCES, "Permission denied", str(path))
        return allowed(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    done = run("audit", made.files.root, "--json", "-")
    assert done.exit_code == 3
    assert "replica-1/state.sqlite: Permission denied" in done.stderr
    facts = json.loads(done.stdout)
    assert list(facts["unread"]) == ["replica-1"]
    assert len(facts["entries"]) == len(made.items)
    assert {each["replica"] for each in facts["problems"]} == {"replica-2"}


def test_the_state_of_a_client_is_refused_as_such(made: MadeLedger) -> None:
    state = made.files.state("client-1")
    state.mkdir(parents=True)
    (state / "status.json").write_text("{}")
    done = run("audit", state)
    assert done.exit_code == 2
    assert "client-1 is a client, and a client keeps no ledger" in done.stderr


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
    held = Exclusions(made.federation)
    statement = plan(made.files.deployment, held, known(made), Wish(clients=["client-7"], reason="poison"))
    cost = compute_cost(made.ledger, Exclusion(), Exclusion.of(statement))
    assert (cost.entries, cost.leaves_out, cost.blamed, cost.others, cost.uploads) == (5, 2, 2, 4, 15)
    assert len(cost.others_names) == 4
    assert cost.share == pytest.approx(4 / 15)


def test_going_back_to_a_version_leaves_out_what_came_later(made: MadeLedger) -> None:
    """Late entries of its own rows one by one; the rows after it as a span, so that late ones of these go too."""
    held = Exclusions(made.federation)
    statement = plan(made.files.deployment, held, known(made), Wish(to=made.versions[2].hex()[:8]))
    assert [(span.first, span.last) for span in statement.spans] == [(3, 3)]
    assert statement.entries == (made.items[3],)
    out = Exclusion.of(statement)
    counting = [name for name, item in made.ledger.items.items() if not out.excludes(name, item)]
    assert set(counting) == set(made.items[:3])


class Operator:
    """Signs one wish after the other, with the file in between."""

    def __init__(self, made: MadeLedger) -> None:
        self.files, self.known = made.files, known(made)
        self.identity = open_as_operator(made.files.root)[1]

    @property
    def held(self) -> Exclusions:
        return read_exclusions(self.files.root, self.files.deployment).exclusions

    def plan(self, **wish: Any) -> ExclusionStatement:
        return plan(self.files.deployment, self.held, self.known, Wish(**wish))

    def sign(self, **wish: Any) -> Content:
        signed = sign(self.identity, self.files.deployment.digest, self.plan(**wish))
        file = read_exclusions(self.files.root, self.files.deployment)
        file.exclusions.add(signed)
        file.times[signed.body()] = 1_700_000_000.0 + signed.number
        write_exclusions(self.files.root, file)
        return Content.of(self.held.held[-1])

    def client(self, name: str) -> bytes:
        return self.files.deployment.client(name).key

    def reach(self, made: MadeLedger, *, replicas: int = 4) -> None:
        """What is signed comes to these replicas' states, as if they had run."""
        for index in range(replicas):
            made.write(index, [put_exclusion(statement) for statement in self.held.held])


def test_taking_back_walks_back_through_all_exclusions(made: MadeLedger) -> None:
    """Never to and fro between the last two: what was taken back is passed by."""
    operator = Operator(made)
    first = operator.sign(clients=["client-7"])
    second = operator.sign(entries=[made.items[0].hex()[:8]], clients=["client-7"], to=made.versions[3].hex())
    assert second == Content(frozenset({made.items[0]}), first.clients, ((3, 3),))
    with pytest.raises(ConfigurationError, match="leaves that out already"):
        operator.plan(clients=["client-7"])
    third = operator.sign(clients=["client-2"])
    assert operator.sign(undo=True) == second
    assert operator.sign(undo=True) == first
    other = operator.sign(clients=["client-1"])
    assert other.clients == {operator.client("client-1"), operator.client("client-7")}
    assert operator.sign(undo=True) == first
    assert operator.sign(undo=True) == Content()
    with pytest.raises(ConfigurationError, match="nothing to take back"):
        operator.plan(undo=True)
    assert operator.held.highest == 8
    assert operator.sign(clients=["client-2"]) != third
    assert operator.sign(undo=True) == Content()


def test_one_of_several_exclusions_is_taken_back_alone(made: MadeLedger) -> None:
    operator = Operator(made)
    item = made.items[0]
    operator.sign(clients=["client-7"], entries=[item.hex()[:8]])
    both = operator.sign(clients=["client-3"])
    left = operator.sign(back_clients=["client-7"])
    assert left == Content(frozenset({item}), frozenset({operator.client("client-3")}))
    assert operator.sign(undo=True) == both, "that is a change like others"
    assert operator.sign(back_entries=[item.hex()[:8]], back_clients=["client-7"]).entries == frozenset()
    for wish, match in (
        ({"back_clients": ["client-7"]}, r"not left out \(left out: client-3\)"),
        ({"back_entries": [item.hex()]}, "no entry is left out by this name"),
        ({"back_entries": [made.items[2].hex()]}, "with a client of its"),
        ({"clients": ["client-3"], "back_clients": ["client-3"]}, "left out and put back"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            operator.plan(**wish)


def test_the_history_says_what_each_exclusion_changed_and_what_has_become_of_it(made: MadeLedger) -> None:
    operator = Operator(made)
    operator.sign(clients=["client-7"], reason="poison")
    operator.sign(clients=["client-3", "client-2"])
    operator.sign(back_clients=["client-7"])
    operator.sign(back_clients=["client-2"])
    operator.sign(to=made.versions[1].hex())
    operator.sign(undo=True)
    operator.reach(made, replicas=1)
    told = json.loads(run("rollback", made.files.root, "--list", "--json").stdout)["exclusions"]
    assert [(each["number"], each["state"], each["taken_back_by"], each["takes_back"]) for each in told] == [
        (1, "taken back", 3, []),
        (2, "partly in force", None, []),
        (3, "in force", None, []),
        (4, "in force", None, []),
        (5, "taken back", 6, []),
        (6, "takes back", None, [5]),
    ]
    assert told[1]["leaves_out"]["clients"] == ["client-2", "client-3"]
    assert told[1]["clients"] == ["client-2", "client-3", "client-7"]
    assert told[2]["puts_back"]["clients"] == ["client-7"]
    assert told[4]["leaves_out"]["spans"] == told[5]["puts_back"]["spans"] == [[2, 3]]
    assert [each["signed_at"] for each in told] == [1_700_000_000.0 + number for number in range(1, 7)]
    assert told[0]["lacking"] == [f"replica-{index}" for index in range(1, 4)]
    (made.files.root / "operator.key").unlink()
    shown = run("rollback", made.files.root, "--list", columns=80)
    assert shown.exit_code == 0
    assert "leaves out client-7 (poison)" in shown.stdout
    assert "left out now: client-3" in shown.stdout
    assert max(map(len, shown.stdout.splitlines()[:-1])) <= 80


spans = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), max_size=4).map(
    lambda pairs: Content().plus(Content(spans=tuple((first, first + more) for first, more in pairs)))
)


def epochs(content: Content) -> set[int]:
    return {epoch for first, last in content.spans for epoch in range(first, last + 1)}


@given(spans, spans)
def test_spans_are_sets_of_epochs(one: Content, other: Content) -> None:
    assert epochs(one.plus(other)) == epochs(one) | epochs(other)
    assert epochs(one.minus(other)) == epochs(one) - epochs(other)
    for each in (one.plus(other), one.minus(other)):
        assert all(before[1] + 1 < after[0] for before, after in pairwise(each.spans))


def test_going_back_leaves_out_what_is_under_way_as_well(made: MadeLedger) -> None:
    """A copy of the ledger may be old, and training goes on: up to front + window, as t + 1 replicas say."""
    deployment, held = made.files.deployment, Exclusions(made.federation)
    window = deployment.parameters.window
    assert compute_under_way([7, 9, 8], deployment) == 8 + window
    assert compute_under_way([7, 10**6, 7], deployment) == 7 + window, "a liar moves it nowhere"
    assert compute_under_way([7], deployment) is None, "one alone may be a liar"
    running = replace(known(made), under_way=9)
    statement = plan(deployment, held, running, Wish(to=made.versions[2].hex()[:8]))
    assert [(span.first, span.last) for span in statement.spans] == [(3, 9)]
    newest = plan(deployment, held, running, Wish(to=made.versions[-1].hex()))
    assert [(span.first, span.last) for span in newest.spans] == [(4, 9)]
    behind = replace(known(made), under_way=2)
    statement = plan(deployment, held, behind, Wish(to=made.versions[2].hex()[:8]))
    assert [(span.first, span.last) for span in statement.spans] == [(3, 3)], "what is here counts, too"
    everything = plan(deployment, held, running, Wish(to="initial"))
    assert [(span.first, span.last) for span in everything.spans] == [(1, 9)]
    assert everything.entries == ()


def test_what_cannot_be_meant_is_refused(made: MadeLedger) -> None:
    deployment, held = made.files.deployment, Exclusions(made.federation)
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
    with pytest.raises(ConfigurationError, match="nothing to take back"):
        plan(deployment, held, known(made), Wish(undo=True))
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
    assert not read_exclusions(root, made.files.deployment).exclusions.held
    done = run("rollback", root, "--exclude-client", "client-7", "--reason", "poison", "--yes")
    assert done.exit_code == 1
    assert (
        "2 entries more are left out: 2 uploads of client-7, and 4 uploads of 4 other clients, 26.7 %"
        in done.stdout
    )
    assert "0 of 4 replicas have exclusion 1" in done.stderr
    assert read_exclusions(root, made.files.deployment).exclusions.held[0].reason == "poison"
    again = run("rollback", root, "--exclude-client", "client-6", "--yes").stdout
    assert "1 entries more are left out: 1 uploads of client-6, and 2 uploads" in again, "of nobody else's"
    assert run("rollback", root, "--exclude-client", "client-7", "--yes").exit_code == 2
    assert run("rollback", root).exit_code == 2
    assert run("rollback", root, "--undo", "--to", "newest").exit_code == 2
    (root / "operator.key").unlink()
    assert run("rollback", root, "--undo", "--yes").exit_code == 2


@pytest.mark.parametrize("left", [0, 1])
def test_what_the_states_here_have_is_known_where_the_file_is_lost_or_old(
    made: MadeLedger, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """No replica runs: a number that one has on disk is not signed again."""
    monkeypatch.setattr(operator_calls, "PAUSE_SECONDS", 0.01)
    root, operator = made.files.root, Operator(made)
    path = root / EXCLUSIONS_FILE
    operator.sign(clients=["client-3"])
    old = path.read_bytes()
    operator.sign(clients=["client-7"])
    operator.reach(made, replicas=1)
    path.unlink()
    if left:
        path.write_bytes(old)
    done = run("rollback", root, "--exclude-client", "client-5", "--yes", "--json")
    facts = json.loads(done.stdout)
    assert (facts["number"], facts["taken_over"]) == (3, [1, 2][left:])
    assert facts["clients"] == ["client-3", "client-5", "client-7"]
    assert "of the replicas' states here" in done.stderr
    path.unlink()
    taken_back = run("rollback", root, "--undo", "--yes", "--json")
    assert json.loads(taken_back.stdout)["clients"] == ["client-3"], "3 came to nobody"
    path.unlink()
    again = run("rollback", root, "--resend", "--json")
    assert json.loads(again.stdout)["number"] == 2


def test_what_no_replica_here_has_is_not_in_force(made: MadeLedger) -> None:
    root, operator = made.files.root, Operator(made)
    operator.sign(clients=["client-7"])
    operator.reach(made, replicas=4)
    operator.sign(clients=["client-3"])
    first, second = told("rollback", root, "--list", "--json")["exclusions"]
    assert (first["state"], second["state"]) == ("in force", "signed")
    shown = run("rollback", root, "--list").stdout
    assert "signed, 0 of 4 replicas here have it" in shown
    assert "left out now: client-7\n" in shown
    assert f"asyncfl rollback {root} --resend" in shown.replace("\n", " ")
    operator.sign(undo=True)
    first, second, third = told("rollback", root, "--list", "--json")["exclusions"]
    assert [each["state"] for each in (first, second, third)] == ["in force", "signed", "signed"]
    operator.reach(made, replicas=1)
    shown = run("rollback", root, "--list").stdout
    assert "0 of 4" not in shown
    assert "--resend" not in shown


def test_an_audit_warns_of_an_exclusion_that_no_replica_has(made: MadeLedger) -> None:
    root, operator = made.files.root, Operator(made)
    assert "--resend" not in run("audit", root).stdout
    operator.sign(clients=["client-3"])
    done = run("audit", root)
    assert done.exit_code == 0
    assert "exclusion 1 is signed, and 0 of 4 replicas here have it" in done.stdout
    assert f"asyncfl rollback {root} --resend" in done.stdout
    (remark,) = told("audit", root, "--json", "-")["remarks"]
    assert "exclusion 1 is signed" in remark["remark"]
    operator.reach(made, replicas=1)
    assert "--resend" not in run("audit", root).stdout
    (root / EXCLUSIONS_FILE).write_text("{")
    done = run("audit", root)
    assert done.exit_code == 0, "it is no part of any state"
    assert "not the operator's exclusions" in done.stdout


def test_up_warns_of_an_exclusion_that_no_replica_has(
    made: MadeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it runs them, and after: none of them can take it from another."""
    files, operator = made.files, Operator(made)
    ran: list[int] = []

    def learn(*_: Any, **__: Any) -> Any:
        said = {"deployment": files.deployment.digest.hex(), "exclusion": len(ran)}
        files.status_file("replica-1").write_text(json.dumps(said))
        ran.append(1)
        return Mock(failures=[])

    monkeypatch.setattr(supervise, "watched_run", learn)
    monkeypatch.setattr(supervise, "write_results", Mock())
    operator.sign(clients=["client-3"])
    remedy = (
        "0 of 4 replicas here have it: it is not in force; with the replicas running: "
        f"asyncfl rollback {files.root} --resend"
    )
    assert run("up", files.root).stderr.count(remedy) == 2
    assert run("up", files.root).stderr.count(remedy) == 1, "somebody sent it meanwhile"
    assert remedy not in run("up", files.root).stderr
    (files.root / EXCLUSIONS_FILE).write_text("{")
    damaged = run("up", files.root)
    assert damaged.exit_code == 0, "training needs no such file"
    assert "not the operator's exclusions" in damaged.stderr
