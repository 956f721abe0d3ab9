"""`asyncfl rollback --to VERSION` gives the model of that version again, bit for bit, whatever was left out since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyncfl.errors import ConfigurationError
from asyncfl.exclusions import Exclusions
from asyncfl.messages import Epochs, ExclusionStatement
from node import operator_calls
from node.audit_report import Report, load
from node.cli import app
from node.deployment_creation import NewDeployment, create_deployment
from node.exclusion_file import read_exclusions, write_exclusions
from node.rollback import Known, Wish, plan
from node.versions import find_version, open_versions
from tests.node.ledgers import GROUPS, MadeLedger


@pytest.fixture
def made(tmp_path: Path) -> MadeLedger:
    return MadeLedger(create_deployment(tmp_path / "run", NewDeployment(clients=8)), GROUPS)


def exclude(made: MadeLedger, number: int, *clients: str, spans: tuple[Epochs, ...] = ()) -> None:
    """The operator's next exclusion, and the version under it."""
    keys = tuple(sorted(made.files.deployment.client(name).key for name in clients))
    made.exclude(
        ExclusionStatement(
            number=number, entries=(), clients=keys, spans=spans, reason="", signature=bytes(64)
        )
    )
    made.certify()


def save(made: MadeLedger) -> Report:
    for index in range(4):
        made.write(index, made.rows)
    return open_versions(made.files, made.names)


def read(made: MadeLedger) -> tuple[Exclusions, Known]:
    save(made)
    report = load(made.files, ["replica-0"])
    (audit,) = report.audits.values()
    audit.read()
    return report.exclusions(), Known(audit.ledger, audit.versions)


def undone(made: MadeLedger) -> None:
    exclude(made, 1, "client-0")
    exclude(made, 2)


def replaced(made: MadeLedger) -> None:
    exclude(made, 1, "client-0", spans=(Epochs(first=1, last=1),))
    exclude(made, 2, "client-7", "client-3")


def never(made: MadeLedger) -> None:
    """What was left out only later counted in the version."""
    exclude(made, 1, "client-7")


@pytest.mark.parametrize(
    ("history", "number", "later"),
    [
        (undone, 0, True), (undone, 1, False), (undone, 1, True), (replaced, 1, False), (replaced, 1, True),
        (replaced, 2, True), (never, 0, False), (never, 0, True), (never, 1, True),
    ],
)  # fmt: skip
def test_going_back_gives_the_model_of_the_version_again(
    made: MadeLedger, history: Callable[[MadeLedger], None], number: int, later: bool
) -> None:
    """Of the last version under exclusion `number`; `later` entries came since, one of them in an old row."""
    history(made)
    held, known = read(made)
    target = next(
        each.record.certificate
        for each in reversed(known.versions)
        if each.record.certificate.statement == number
    )
    if later:
        made.enter(1, ("client-6", "client-7"))
        made.enter(4, ("client-3", "client-4", "client-5"))
        made.certify()
        held, known = read(made)
    wish = Wish(to=target.version.hex())
    made.exclude(plan(made.files.deployment, held, known, wish))
    made.certify()
    report = save(made)
    again = find_version(report, "newest")
    assert again.certificate.statement == held.highest + 1
    assert again.certificate.model == target.model
    assert again.model() == find_version(report, target.version.hex()).model()


def test_there_is_nothing_to_go_back_from_where_the_newest_version_is_meant(made: MadeLedger) -> None:
    """By its own name, or by that of an older one with the same entries of which the same are left out."""
    before = made.versions[-1]
    undone(made)
    held, known = read(made)
    for version in (before, made.versions[-1]):
        with pytest.raises(ConfigurationError, match="nothing comes after"):
            plan(made.files.deployment, held, known, Wish(to=version.hex()))


def test_going_back_to_the_beginning_puts_nothing_back(made: MadeLedger) -> None:
    """The model is the initial one in any case, and epochs to come count."""
    exclude(made, 1, "client-7")
    held, known = read(made)
    statement = plan(made.files.deployment, held, known, Wish(to="initial"))
    assert statement.clients == (made.files.deployment.client("client-7").key,)
    assert [(span.first, span.last) for span in statement.spans] == [(1, 3)]


def test_an_exclusion_that_is_not_here_is_said(made: MadeLedger) -> None:
    exclude(made, 1, "client-0")
    under = made.versions[-1].hex()
    _, known = read(made)
    with pytest.raises(ConfigurationError, match=r"computed under exclusion 1 .* start the replicas"):
        plan(made.files.deployment, Exclusions(made.federation), known, Wish(to=under))


def test_a_client_that_is_put_back_by_it_is_told_before_anything_is_signed(
    made: MadeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_calls, "PAUSE_SECONDS", 0.01)
    before = made.versions[3].hex()
    exclude(made, 1, "client-7")
    held, known = read(made)
    signed = read_exclusions(made.files.root, made.files.deployment)
    signed.exclusions.add(held.held[0])
    signed.times[held.held[0].body()] = 1_700_000_000.0
    write_exclusions(made.files.root, signed)
    words = ["rollback", str(made.files.root), "--to", before, "--wait", "1"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    assert done.exit_code == 2, "nobody said yes"
    assert "exclusion 2 leaves out epoch 3, and puts back client-7" in done.stdout
    assert "client-7 counts in that version, and so in epochs to come" in done.stdout
    kept = plan(
        made.files.deployment, held, replace(known, under_way=5), Wish(to=before, clients=["client-7"])
    )
    assert kept.clients == held.held[0].clients
