"""An audit of the replicas' states on this machine: what was checked, who took part in what, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from asyncfl.audit import Audit, find_differences, find_unlocked, short
from asyncfl.effects import Table
from asyncfl.errors import AsyncflError, ConfigurationError, InvalidItem, StorageError
from asyncfl.exclusions import Exclusions
from asyncfl.messages import Item
from asyncfl.record import Version
from asyncfl.reputation import Reputation
from asyncfl.rosters import Rosters
from asyncfl.windows import Judgement
from node.deployment_files import DeploymentDirectory
from node.evidence_files import read_evidence
from node.exclusion_file import EXCLUSIONS_FILE
from node.exclusion_report import describe_exclusions, find_unsent
from node.ledger_copy import StateBlobs, read_replica

ALL_TOGETHER: Final = "all together"
"""Where a problem is that shows only between several states."""
MOST_NAMES: Final = 8
"""As many entries are named in a remark."""


@dataclass
class Report:
    """What was found. `unread` are states that could not be read at all."""

    files: DeploymentDirectory
    audits: dict[str, Audit] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    remarks: list[dict[str, str]] = field(default_factory=list)
    """What may be so in an honest deployment, and who relies on it should know."""
    unread: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, replica: str, problems: Iterable[str]) -> None:
        self.problems += [{"replica": replica, "problem": problem} for problem in problems]

    def remark(self, replica: str, remarks: Iterable[str]) -> None:
        self.remarks += [{"replica": replica, "remark": remark} for remark in remarks]

    def rosters(self) -> Rosters:
        """Those of the deployment file and of all states together; what contradicts another is a problem."""
        merged = Rosters(self.files.deployment.federation())
        found = [roster.statement for audit in self.audits.values() for roster in audit.rosters.held]
        for statement in sorted(found, key=lambda statement: statement.number):
            with suppress(InvalidItem):
                merged.add(statement)
        return merged

    def exclusions(self) -> Exclusions:
        """The operator's statements of all states together: one that only some replicas hold counts at all soon."""
        merged = Exclusions(self.files.deployment.federation())
        rows = {
            row for audit in self.audits.values() for row in audit.tables.get(Table.EXCLUSIONS, {}).items()
        }
        for key, value in sorted(rows):
            with suppress(AsyncflError):  # What is wrong with it is said of the state that it is in.
                merged.load({key: value})
        return merged

    def furthest(self) -> Audit | None:
        """The state with the newest version: under the latest exclusion, with most entries."""
        return max(self.audits.values(), key=_progress, default=None)


def _progress(audit: Audit) -> tuple[int, int, int]:
    newest = audit.newest
    if newest is None:
        return 0, 0, len(audit.items)
    return newest.record.certificate.statement, newest.record.certificate.entries, len(audit.items)


def replicas_here(files: DeploymentDirectory, nodes: Iterable[str]) -> list[str]:
    """Of `nodes` the replicas. Raises `ConfigurationError` where there is none."""
    replicas, here = {entry.name for entry in files.deployment.replicas}, list(nodes)
    found = [name for name in here if name in replicas]
    if here and not found:
        raise ConfigurationError(
            f"{here[0]} is a client, and a client keeps no ledger; name {files.root}, or a replica's {files.root}/"
            "state/NAME, where one keeps its state"
        )
    if not found:
        raise ConfigurationError(
            f"no replica of {files.root} keeps its state on this machine; run this where one does, or start one: "
            f"asyncfl up {files.quoted}"
        )
    return found


def load(files: DeploymentDirectory, names: Iterable[str]) -> Report:
    """Read the states of these replicas, which may be running. Nothing is checked yet."""
    report = Report(files)
    here = tuple(names)
    for name in here:
        try:
            tables = read_replica(files, name)
        except StorageError as error:
            report.unread[name] = str(error)
            continue
        federation = files.deployment.federation()
        others = (name, *(other for other in here if other != name))
        report.audits[name] = Audit(
            federation, federation.replica_index[files.deployment.replica(name).key], files.initial_model(),
            tables, StateBlobs(files, others), StateBlobs(files, (name,)),
        )  # fmt: skip
    return report


def check(report: Report, say: Callable[[str], None]) -> None:
    """Check everything, and gather the facts. `say` is told which state is being checked."""
    models: dict[bytes, bytes] = {}
    for name, audit in report.audits.items():
        say(f"checking {name}")
        audit.models = models
        audit.run()
        report.add(name, audit.problems)
        report.remark(name, audit.remarks)
    report.add(ALL_TOGETHER, find_differences(report.audits))
    _check_locks(report)
    if (unsent := find_unsent(report)) is not None:
        report.remark(EXCLUSIONS_FILE, [unsent])
    pieces, _ = read_evidence(report.files, list(report.audits))
    for piece in pieces:
        if piece.objection is not None and piece.judged:
            report.add(piece.held_by[0], [f"evidence {piece.digest[:12]}: {piece.objection}"])
    report.facts = _facts(report)
    report.facts["evidence"] = [{**asdict(piece), "verified": piece.objection is None} for piece in pieces]


def _check_locks(report: Report) -> None:
    """Entries for which no state here has the locks: one whose state is not here may have them, or must have had."""
    certifiers = report.files.deployment.parameters.certifiers
    unlocked = find_unlocked(report.audits, certifiers)
    report.add(
        ALL_TOGETHER,
        [
            f"entry {short(each.entry)}: no state has its locks, though {certifiers} or more of these replicas "
            "attest it"
            for each in unlocked
            if each.lost
        ],
    )
    elsewhere = [short(each.entry) for each in unlocked if not each.lost]
    if elsewhere:
        more = f" and {len(elsewhere) - MOST_NAMES} more" if len(elsewhere) > MOST_NAMES else ""
        shown = ", ".join(elsewhere[:MOST_NAMES])
        report.remark(ALL_TOGETHER, [f"no state here has the locks of {shown}{more}"])


def _facts(report: Report) -> dict[str, Any]:
    deployment, names = report.files.deployment, report.files.deployment.names
    furthest, exclusions = report.furthest(), report.exclusions()
    entries = _entries(report, exclusions)
    replayed = Replayed() if furthest is None else _replay(furthest, report)
    clients = describe_clients(entries)
    _add_suspicion(clients, replayed.reputation, report.files)
    return {
        "deployment": deployment.digest.hex(),
        "name": deployment.name,
        "verified": not report.problems and not report.unread,
        "problems": report.problems,
        "remarks": report.remarks,
        "unread": report.unread,
        "settings": deployment.parameters.model_dump(),
        "replicas": {
            name: {
                "entries": len(audit.items),
                "locked": len(audit.locked),
                "versions": len(audit.versions),
                "signatures": audit.signatures,
                "version": audit.versions[-1].record.certificate.version.hex() if audit.versions else None,
                "exclusion": audit.exclusions.in_force.number,
            }
            for name, audit in report.audits.items()
        },
        "entries": entries,
        "cohorts": {
            str(size): count
            for size, count in sorted(Counter(len(entry["members"]) for entry in entries).items())
        },
        "clients": clients,
        "rows": _rows(entries, replayed, with_scores=deployment.parameters.min_group > 1),
        "versions": describe_versions(report),
        "exclusions": describe_exclusions(report),
        "rosters": _rosters(report.rosters(), names),
    }


def _entries(report: Report, exclusions: Exclusions) -> list[dict[str, Any]]:
    """Every entry of any state. Nothing about a single upload but whose it is, and of which epoch."""
    found: dict[bytes, dict[str, Any]] = {}
    names, in_force = report.files.deployment.names, exclusions.in_force
    for name, audit in report.audits.items():
        for digest, record in audit.items.items():
            entry = found.get(digest)
            if entry is None:
                entry = found[digest] = {
                    "entry": digest.hex(),
                    **describe_group(record.item, names),
                    "counts": not in_force.excludes(digest, record.item),
                    "attested_by": [],
                    "locked_by": [],
                    "held_by": [],
                }
            for key, signers in (("attested_by", record.votes), ("locked_by", record.locks)):
                told = {_replica(report.files, signer) for signer in signers}
                entry[key] = sorted({*entry[key], *told})
            entry["held_by"].append(name)
    return sorted(
        found.values(), key=lambda entry: (entry["epoch"], entry["cell"], entry["coordinator"], entry["part"])
    )


def describe_group(item: Item, names: Mapping[bytes, str]) -> dict[str, Any]:
    """Which group an entry is, and whose uploads are in it."""
    return {
        "epoch": item.id.epoch,
        "cell": item.id.cell,
        "coordinator": item.id.coordinator,
        "part": item.id.part,
        "members": [
            {"client": names.get(member.client, member.client.hex()), "epoch": member.epoch}
            for member in item.members
        ],
    }


def describe_clients(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By client: the epochs of its uploads that are in the ledger, and how many of them count."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for member in entry["members"]:
            client = found.setdefault(member["client"], {"epochs": [], "counts": 0})
            client["epochs"].append(member["epoch"])
            client["counts"] += entry["counts"]
    return {name: {**found[name], "epochs": sorted(found[name]["epochs"])} for name in sorted(found)}


@dataclass
class Replayed:
    """What is kept of the fold's states, row by row, each of which is as large as the model."""

    judgements: dict[int, Judgement | None] = field(default_factory=dict)
    """By epoch, of the rows that count."""
    reputation: Reputation[bytes] | None = None
    """After the last of them."""


def _replay(audit: Audit, report: Report) -> Replayed:
    """The rows of the newest version, as far as they can be computed; a sum that is missing is a problem."""
    replayed = Replayed()
    try:
        for epoch, state in audit.replay():
            replayed.judgements[epoch] = state.judgement
            replayed.reputation = state.reputation
    except StorageError as error:
        report.add(ALL_TOGETHER, [f"the rows of the newest version cannot be computed: {error}"])
    return replayed


def _add_suspicion(
    clients: dict[str, dict[str, Any]], reputation: Reputation[bytes] | None, files: DeploymentDirectory
) -> None:
    """What the reputation says of each client, where the deployment keeps one: it follows from sums of groups alone.

    With groups of one there is nothing but single updates to tell of, and nothing is told.
    """
    if reputation is None or files.deployment.parameters.min_group == 1:
        return
    keys = {name: key for key, name in files.deployment.names.items()}
    for name, said in clients.items():
        key = keys.get(name) or bytes.fromhex(name)
        mean, deviation = reputation.suspicion(key)
        said["suspicion"] = {"mean": mean, "deviation": deviation, "weight": reputation.weight(key)}


def _rows(
    entries: Iterable[Mapping[str, Any]], replayed: Replayed, *, with_scores: bool
) -> list[dict[str, Any]]:
    """By epoch: groups, members, and what the rule saw of them, where it sees any.

    The scores of groups of one would tell of single updates.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in entries:
        epoch = entry["epoch"]
        judgement = replayed.judgements.get(epoch)
        rule = None if judgement is None else asdict(judgement)
        if rule is not None and not with_scores:
            del rule["scores"], rule["weights"]
        row = rows.setdefault(epoch, {"epoch": epoch, "groups": [], "counts": False, "rule": rule})
        row["groups"] = sorted([*row["groups"], len(entry["members"])])
        row["counts"] = row["counts"] or entry["counts"]
    return [rows[epoch] for epoch in sorted(rows)]


def describe_versions(report: Report) -> list[dict[str, Any]]:
    """Every certified version of any state, in the order in which they were certified."""
    found: dict[bytes, dict[str, Any]] = {}
    for name, audit in report.audits.items():
        for version in audit.versions:
            certificate = version.record.certificate
            known = found.setdefault(certificate.version, _describe_version(version, report))
            known["certified_by"] = sorted(
                {
                    *known["certified_by"],
                    *(_replica(report.files, vote.replica) for vote in certificate.votes),
                }
            )
            known["at"] = min(known["at"], version.record.at)
            known["held_by"].append(name)
    return sorted(found.values(), key=lambda each: (each["at"], each["entries"]))


def _replica(files: DeploymentDirectory, index: int) -> str:
    """The name of a replica; a state may name one that there is not."""
    replicas = files.deployment.replicas
    return replicas[index].name if index < len(replicas) else f"replica {index}, which there is not"


def _describe_version(version: Version, report: Report) -> dict[str, Any]:
    certificate = version.record.certificate
    computed = next(
        (
            audit.models[certificate.version]
            for audit in report.audits.values()
            if certificate.version in audit.models
        ),
        None,
    )
    return {
        "version": certificate.version.hex(),
        "at": version.record.at,
        "entries": certificate.entries,
        "epoch": None if version.link is None else version.link.epoch,
        "statement": certificate.statement,
        "model": certificate.model.hex(),
        "recomputed": computed == certificate.model,
        "certified_by": [],
        "held_by": [],
    }


def _rosters(rosters: Rosters, names: Mapping[bytes, str]) -> list[dict[str, Any]]:
    return [
        {
            "number": roster.number,
            "start_epoch": roster.start_epoch,
            "members": [names.get(key, key.hex()) for key in roster.members],
        }
        for roster in rosters.held
    ]


def told_time(seconds: float) -> str:
    """As people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
