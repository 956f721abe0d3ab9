"""What has become of the operator's exclusions at the replicas that keep their states on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncfl.errors import ConfigurationError
from node.deployment_files import DeploymentDirectory
from node.exclusion_file import Signed, read_exclusions
from node.exclusion_history import describe_history, read_history
from node.supervisor.watch import read_status

if TYPE_CHECKING:
    from node.audit_report import Report


def describe_exclusions(report: Report, signed: Signed | None = None) -> list[dict[str, Any]]:
    """The operator's statements, all that any state holds or that the operator has `signed` here.

    With each goes which of the states lack it. One that all of them lack is `signed` and no more: it changes nothing.
    """
    exclusions, known = report.exclusions(), report.exclusions()
    for statement in () if signed is None else signed.exclusions.statements(0):
        exclusions.add(statement)
    told = describe_history(
        exclusions,
        report.files.deployment.names,
        signed={} if signed is None else signed.times,
        certified=_certified_times(report),
    )
    held = {
        name: {statement.body().hex() for statement in audit.exclusions.held}
        for name, audit in report.audits.items()
    }
    now = {change.statement.body().hex(): change for change in read_history(known)}
    for each in told:
        if (change := now.get(each["digest"])) is not None:
            each["state"], each["taken_back_by"] = change.state, change.taken_back_by
        elif held and each["state"] != "does not count":
            each["state"], each["taken_back_by"] = "signed", None
        counts = each["state"] != "does not count"
        each["lacking"] = [name for name in held if counts and each["digest"] not in held[name]]
    return told


def _certified_times(report: Report) -> dict[bytes, float]:
    """By digest of an exclusion: when the first version under it was certified."""
    times: dict[bytes, float] = {}
    for audit in report.audits.values():
        for version in audit.versions:
            record = version.record
            times[record.exclusion] = min(record.at, times.get(record.exclusion, record.at))
    return times


def explain_unsent(number: int, replicas: int, root: Path) -> str:
    """That none of so many replicas here has the newest exclusion, and the remedy."""
    return (
        f"exclusion {number} is signed, and 0 of {replicas} replicas here have it: it is not in force; with the "
        f"replicas running: asyncfl rollback {root} --resend"
    )


def find_unsent(report: Report) -> str | None:
    """Why the newest statement of exclusions.json changes nothing: no state that was read has it."""
    files = report.files
    try:
        held = read_exclusions(files.root, files.deployment).exclusions.held
    except ConfigurationError as error:
        return str(error)
    known = report.exclusions()
    if not held or not report.audits or held[-1] in (*known.held, *known.doubles.values()):
        return None
    return explain_unsent(held[-1].number, len(report.audits), files.root)


def find_unsent_by_status(files: DeploymentDirectory) -> str | None:
    """The same by what the replicas last wrote to their status files, which takes no time."""
    try:
        number = read_exclusions(files.root, files.deployment).exclusions.highest
    except ConfigurationError as error:
        return str(error)
    names = [entry.name for entry in files.deployment.replicas]
    if any(read_status(files, name).get("exclusion", 0) >= number for name in names):
        return None
    return explain_unsent(number, len(names), files.root)
