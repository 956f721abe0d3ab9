#!/usr/bin/env python
"""Processor time of every aggregation rule against the number of inputs n and of coordinates d, on one thread.

    scripts/rule_costs.py [--inputs 10 100 1000] [--dimensions 10000 100000] [--most 1e8] [--json FILE]

Median of `--repeat` runs; what has more than `--most` numbers n * d is left out. Inputs are normal, a tenth bad.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # Run as a file, not as a module: the checkout is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from asyncfl.rules import RULES, FLTrust, Rule, make_rule

MOST_BULYAN = 100
"""Its time grows with the cube of n."""


def rule_of(name: str, dimension: int) -> Rule:
    """The rule with its defaults."""
    return FLTrust(reference=torch.ones(dimension)) if name == "fltrust" else make_rule(name)


def measure(name: str, inputs: int, dimension: int, repeat: int) -> float | None:
    """Milliseconds of processor time; None where the rule does not take so many, or is not tried."""
    if name == "bulyan" and inputs > MOST_BULYAN:
        return None
    draw = torch.Generator().manual_seed(0)
    updates = torch.randn(inputs, dimension, generator=draw)
    rule, bad = rule_of(name, dimension), inputs // 10
    if rule.least_inputs(bad) > inputs:
        return None
    rule(updates, bad)
    times = []
    for _ in range(repeat):
        started = time.process_time()
        rule(updates, bad)
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--most", type=float, default=1e8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [(n, d) for d in options.dimensions for n in options.inputs if n * d <= options.most]
    print("| rule, ms | " + " | ".join(f"n = {n}, d = {d:,}" for n, d in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    found = {}
    for name in RULES:
        found[name] = [measure(name, n, d, options.repeat) for n, d in sizes]
        cells = ["-" if ms is None else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}" for ms in found[name]]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"sizes": sizes, "milliseconds": found}, indent=1))


if __name__ == "__main__":
    main()
