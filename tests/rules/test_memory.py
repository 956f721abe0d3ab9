"""Rules that average some of their inputs do not copy these whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "rule_costs.py"
LIMITS = {"multi_krum": 0.5, "norm_rejection": 0.5, "bucketing": 1.5}
"""In sizes of the inputs. The means of buckets are half as many, and twice as wide."""


def test_what_rules_take_beyond_their_inputs_is_bounded() -> None:
    words = [sys.executable, str(SCRIPT), "--peaks", "--inputs", "400", "--dimensions", "100000"]
    told = subprocess.run([*words, "--rules", *LIMITS], check=True, capture_output=True, text=True).stdout
    found = {row.split("`")[1]: int(row.split("|")[2]) for row in told.splitlines() if "`" in row}
    assert found.keys() == LIMITS.keys()
    for name, limit in LIMITS.items():
        assert found[name] < limit * 152, name
