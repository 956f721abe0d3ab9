"""What is counted has its singular, and a version's name that is too short is called so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asyncfl.errors import ConfigurationError
from node.commands.audit import _show_rows
from node.versions import find_version


def row(epoch: int, byzantine: int, groups: int) -> dict[str, Any]:
    return {"epoch": epoch, "groups": [4], "rule": {"groups": groups, "byzantine": byzantine}}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [row(1, 1, 0)],
            ["1 row (", "up to 1 bad one allowed", "; 1 row had too few groups for it and counts zero"],
        ),
        (
            [row(1, 2, 0), row(2, 2, 0)],
            ["2 rows (", "up to 2 bad ones", "; 2 rows had too few groups for it and count zero"],
        ),
    ],
)
def test_an_audit_counts_one_as_one(
    rows: list[dict[str, Any]], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _show_rows({"rows": rows, "cohorts": {4: len(rows)}})
    shown = capsys.readouterr().out
    for words in said:
        assert words in shown


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("0e4", "'0e4' is too short; give 4 digits or more"),
        ("0e41", "'0e41' begins 2 certified versions"),
        ("0e43", "'0e43' begins no certified version"),
    ],
)
def test_why_a_version_is_not_found(prefix: str, said: str) -> None:
    names = [bytes.fromhex(text + "00" * 29) for text in ("0e4100", "0e4101")]
    versions = [
        SimpleNamespace(record=SimpleNamespace(certificate=SimpleNamespace(version=name))) for name in names
    ]
    report: Any = SimpleNamespace(audits={Path("a"): SimpleNamespace(versions=versions)})
    with pytest.raises(ConfigurationError, match=said):
        find_version(report, prefix)
