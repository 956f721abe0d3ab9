"""Certified versions on this machine: found by the first digits of their names, computed again, and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from asyncfl.audit import Audit
from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.exclusions import Exclusion
from asyncfl.fold import FoldCache, FoldJob
from asyncfl.ledger import Link
from asyncfl.messages import Certificate
from asyncfl.record import Version
from node.audit_report import Report, describe_group, load, replicas_here
from node.deployment_files import DeploymentDirectory
from node.training.files import read_model

SHORTEST = 4
"""Hex digits by which a version may be named here: nothing is signed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A certified version, and the state that it was found in."""

    version: Version
    audit: Audit

    @property
    def certificate(self) -> Certificate:
        return self.version.record.certificate

    @property
    def link(self) -> Link:
        """Raises `StorageError` where entries are missing."""
        if self.version.link is None:
            raise StorageError(
                f"the entries of version {self.certificate.version.hex()[:12]} are not all here"
            )
        return self.version.link

    @property
    def exclusion(self) -> Exclusion:
        """Raises `StorageError` where the statement is missing."""
        found = self.audit.find_exclusion(self.version.record.exclusion)
        if found is None:
            raise StorageError(
                f"exclusion {self.certificate.statement}, under which version {self.certificate.version.hex()[:12]} "
                "was computed, is not here"
            )
        return found

    @property
    def counted(self) -> Link:
        """What counts of it."""
        self.audit.ledger.exclude(self.exclusion)
        return self.audit.ledger.counted(self.link)

    def model(self) -> bytes:
        """Its canonical bytes: from disk where they still are, as they were, else computed from the entries."""
        with suppress(StorageError):
            return self.audit.sums.read(self.certificate.model)
        federation, counted = self.audit.federation, self.counted
        roster_size = len(federation.rosters[0].members)
        return FoldJob(federation, self.audit.initial, counted, roster_size, FoldCache()).model(
            self.audit.sums
        )


def open_versions(files: DeploymentDirectory, nodes: list[str]) -> Report:
    """The states of the replicas among `nodes`, read but not checked.

    Raises `ConfigurationError` where there is none, `StorageError` where none can be read.
    """
    report = load(files, replicas_here(files, nodes))
    if not report.audits:
        raise StorageError("; ".join(report.unread.values()))
    for audit in report.audits.values():
        audit.read()
    return report


def find_version(report: Report, prefix: str) -> Found:
    """The one certified version whose name begins so; `newest` is the newest. Raises `ConfigurationError`."""
    found = {
        version.record.certificate.version: Found(version, audit)
        for audit in report.audits.values()
        for version in audit.versions
    }
    if prefix == "newest" and found:
        # Of several replicas' newest the one under the latest statement, with most entries.
        return max(found.values(), key=lambda each: (each.certificate.statement, each.certificate.entries))
    matching = [each for name, each in found.items() if name.hex().startswith(prefix.lower())]
    if len(prefix) < SHORTEST:
        raise ConfigurationError(
            f"{prefix!r} is too short; give {SHORTEST} digits or more of a version that asyncfl model list shows, or "
            "`newest`"
        )
    if len(matching) != 1:
        how = "no certified version" if not matching else f"{len(matching)} certified versions"
        raise ConfigurationError(
            f"{prefix!r} begins {how} of the replicas here; give the digits of one that asyncfl model list shows, or "
            "`newest`"
        )
    return matching[0]


def describe_difference(files: DeploymentDirectory, one: Found, other: Found) -> dict[str, Any]:
    """Entries, members and weights that differ between two versions."""
    names = files.deployment.names
    counting = {"first": _counting(one), "second": _counting(other)}
    items = {**one.audit.ledger.items, **other.audit.ledger.items}
    only = {
        "first": sorted(counting["first"] - counting["second"]),
        "second": sorted(counting["second"] - counting["first"]),
    }
    members = {
        side: Counter(
            names.get(member.client, member.client.hex())
            for digest in digests
            for member in items[digest].members
        )
        for side, digests in only.items()
    }
    return {
        "first": one.certificate.version.hex(),
        "second": other.certificate.version.hex(),
        "statements": [one.certificate.statement, other.certificate.statement],
        "only_in_first": [
            {"entry": digest.hex(), **describe_group(items[digest], names)} for digest in only["first"]
        ],
        "only_in_second": [
            {"entry": digest.hex(), **describe_group(items[digest], names)} for digest in only["second"]
        ],
        "in_both": len(counting["first"] & counting["second"]),
        "members": {
            name: {"only_in_first": members["first"][name], "only_in_second": members["second"][name]}
            for name in sorted({*members["first"], *members["second"]})
        },
        "layers": _layers(files, one.model(), other.model()),
    }


def _counting(found: Found) -> set[bytes]:
    return {name for link in found.counted.back() if link.row is not None for name in link.row.items}


def _layers(files: DeploymentDirectory, one: bytes, other: bytes) -> list[Mapping[str, Any]]:
    """By tensor of the model: L2 norm in both versions, and of the difference."""
    layout, _ = read_model(files.model_file)
    first, second = (torch.frombuffer(bytearray(data), dtype=torch.float32).double() for data in (one, other))
    rows, at = [], 0
    for entry in layout.entries:
        part = slice(at, at + entry.size)
        at += entry.size
        rows.append(
            {
                "layer": entry.name,
                "coordinates": entry.size,
                "first_norm": float(first[part].norm()),
                "second_norm": float(second[part].norm()),
                "difference_norm": float((first[part] - second[part]).norm()),
            }
        )
    total = {
        "layer": "all together",
        "coordinates": at,
        "first_norm": float(first.norm()),
        "second_norm": float(second.norm()),
        "difference_norm": float((first - second).norm()),
    }
    return [*rows, total]
