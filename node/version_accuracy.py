"""How accurate a certified version was, by what clients measured on their own test data.

The members of a row measured the model that they were given, which is the one after the rows before, as it was then.
When the operator has taken entries out since, or put them back, the version of the same rows is another model, which
those members never saw. So a measurement is told of a version only where the last row of the version and the next one
came into the model under the version's own exclusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from asyncfl.audit import Audit
from asyncfl.errors import StorageError
from asyncfl.masking import decode_sum
from asyncfl.messages import Item
from asyncfl.record import Version
from asyncfl.rows import row_statistics, sum_row
from asyncfl.statistics import compute_accuracy
from node.audit_report import Report


def measure_versions(report: Report) -> dict[bytes, float | None]:
    """By name of every certified version: the accuracy that the next row's members measured; None where nobody did."""
    rows: dict[int, dict[bytes, Item]] = {}
    for audit in report.audits.values():
        for digest, record in audit.items.items():
            rows.setdefault(record.item.id.epoch, {})[digest] = record.item
    came = _find_statements(report)
    following = dict(zip([0, *sorted(rows)], sorted(rows), strict=False))
    measured: dict[int, float | None] = {}
    found: dict[bytes, float | None] = {}
    for version in _by_time(report):
        certificate, link = version.record.certificate, version.link
        epoch = None if link is None else following.get(link.epoch)
        found[certificate.version] = None
        if link is None or epoch is None:
            continue
        last = () if link.row is None else link.row.items
        if all(came.get(digest) == certificate.statement for digest in (*last, *rows[epoch])):
            if epoch not in measured:
                measured[epoch] = _measure(epoch, rows[epoch], report.audits)
            found[certificate.version] = measured[epoch]
    return found


def _by_time(report: Report) -> list[Version]:
    versions = [version for audit in report.audits.values() for version in audit.versions]
    return sorted(versions, key=lambda version: version.record.at)


def _find_statements(report: Report) -> dict[bytes, int]:
    """By entry: the number of the exclusion under which the first certified version with it was made."""
    found: dict[bytes, int] = {}
    known: set[bytes] = set()
    for version in _by_time(report):
        for link in () if version.link is None else version.link.back():
            if link.chain in known:
                break
            known.add(link.chain)
            for digest in () if link.row is None else link.row.items:
                found.setdefault(digest, version.record.certificate.statement)
    return found


def _measure(epoch: int, items: Mapping[bytes, Item], audits: Mapping[str, Audit]) -> float | None:
    """Of a row; None where a sum is not here, which an audit names."""
    audit = next(iter(audits.values()))
    federation = audit.federation

    def sums() -> Iterator[tuple[Tensor, int]]:
        for item in items.values():
            yield decode_sum(audit.sums.read(item.opened), federation.upload_dimension), len(item.members)

    try:
        return compute_accuracy([row_statistics(epoch, sum_row(sums(), federation), federation)])
    except StorageError:
        return None
