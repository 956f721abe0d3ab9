#!/usr/bin/env python
"""Processor time of every aggregation rule against the number of inputs n and of coordinates d, on one thread.

    scripts/rule_costs.py [--inputs 10 100 1000] [--dimensions 10000 100000] [--rules ...] [--most 1e8] [--json FILE]

Median of `--repeat` runs; what has more than `--most` numbers n * d is left out. Inputs are normal, a tenth bad. Behind
each time is how many times the mean's of the same run it is: that says more where a machine has other work.
FedAOT weighs and learns, with a gradient that costs nothing; the second table says where its time goes, per input.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # Run as a file, not as a module: the checkout is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from asyncfl.rules import RULES, FedAOT, FLTrust, Rule, make_rule
from asyncfl.rules.arithmetic import FAST, Arithmetic
from asyncfl.rules.fedaot import mix
from asyncfl.rules.fedaot_features import measure as measure_features


def rule_of(name: str, dimension: int) -> Rule:
    """The rule with its defaults."""
    return FLTrust(reference=torch.ones(dimension)) if name == "fltrust" else make_rule(name)


def inputs_of(count: int, dimension: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(0))


def warm_fedaot(updates: Tensor) -> FedAOT:
    """With references, as after its first epoch."""
    rule = FedAOT()
    return replace(rule, trust=rule.step(updates, 0, torch.ones_like).trust)


def milliseconds(call: Callable[[], object], repeat: int) -> float:
    """Median processor time of `call`, after one that does not count."""
    call()
    times = []
    for _ in range(repeat):
        started = time.process_time()
        call()
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times)


def measure(name: str, inputs: int, dimension: int, repeat: int) -> float | None:
    """Milliseconds of processor time; None where the rule does not take so many."""
    rule, bad = rule_of(name, dimension), inputs // 10
    if rule.least_inputs(bad) > inputs:
        return None
    updates = inputs_of(inputs, dimension)
    if name == "fedaot":
        learning = warm_fedaot(updates)
        return milliseconds(lambda: learning.step(updates, bad, torch.ones_like), repeat)
    return milliseconds(lambda: rule(updates, bad), repeat)


class Timed(Arithmetic):
    """Adds up the time that FedAOT spends in each kind of arithmetic."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("lengths", "inner products", "mean direction", "exp, log, tanh"), 0.0)

    def _timed(self, kind: str, compute: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        started, result = time.process_time(), compute(*arguments)
        self.spent[kind] += 1000 * (time.process_time() - started)
        return result

    def lengths(self, updates: Tensor) -> Tensor:
        return self._timed("lengths", FAST.lengths, updates)

    def products(self, updates: Tensor, others: Tensor) -> Tensor:
        return self._timed("inner products", FAST.products, updates, others)

    def weighted_sum(self, updates: Tensor, weights: Tensor) -> Tensor:
        return self._timed("mean direction", FAST.weighted_sum, updates, weights)

    def exp(self, values: Tensor) -> Tensor:
        return self._timed("exp, log, tanh", FAST.exp, values)

    def log(self, values: Tensor) -> Tensor:
        return self._timed("exp, log, tanh", FAST.log, values)

    def tanh(self, values: Tensor) -> Tensor:
        return self._timed("exp, log, tanh", FAST.tanh, values)


def breakdown(inputs: int, dimension: int, repeat: int) -> dict[str, float]:
    """Milliseconds per input of FedAOT's parts, and of all of it."""
    updates = inputs_of(inputs, dimension)
    rule, timed = warm_fedaot(updates), Timed()
    counted = replace(rule, arithmetic=timed)
    for _ in range(repeat):
        counted.step(updates, 0, torch.ones_like)
    parts = {kind: spent / repeat for kind, spent in timed.spent.items()}
    total = milliseconds(lambda: rule.step(updates, 0, torch.ones_like), repeat)
    cohort = measure_features(updates, rule.trust.past, rule.trust.gradient, 1, FAST)
    shares = torch.full((inputs,), 1 / inputs, dtype=torch.float64)
    parts["checks"] = milliseconds(lambda: rule.admit(updates, 0), repeat)
    parts["weighted sum of the inputs"] = milliseconds(lambda: mix(updates, shares, cohort), repeat)
    parts["median of a sample, and the rest"] = max(0.0, total - sum(parts.values()))
    return {part: spent / inputs for part, spent in {**parts, "all of it": total}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--most", type=float, default=1e8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [(n, d) for d in options.dimensions for n in options.inputs if n * d <= options.most]
    print("| rule, ms | " + " | ".join(f"n = {n}, d = {d:,}" for n, d in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    found: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(["mean", *options.rules]):
        found[name] = [measure(name, n, d, options.repeat) for n, d in sizes]
        cells = [cell(ms, mean) for ms, mean in zip(found[name], found["mean"], strict=True)]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
    parts = [breakdown(n, d, options.repeat) for n, d in sizes] if "fedaot" in options.rules else []
    if parts:
        print("\n| FedAOT, ms per input | " + " | ".join(f"n = {n}, d = {d:,}" for n, d in sizes) + " |")
        print("| --- |" + " --- |" * len(sizes))
    for part in parts[0] if parts else ():
        print(f"| {part} | " + " | ".join(f"{one[part]:.3f}" for one in parts) + " |")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"\nMost memory: {most} MiB, of which {max(n * d for n, d in sizes) // (1 << 18)} are the largest inputs."
    )
    if options.json is not None:
        result = {"sizes": sizes, "milliseconds": found, "fedaot": parts, "most_mib": most}
        options.json.write_text(json.dumps(result, indent=1))


def cell(ms: float | None, mean: float | None) -> str:
    if ms is None or mean is None:
        return "-"
    return (f"{ms:.1f}" if ms < 100 else f"{ms:.0f}") + f" ({ms / mean:.1f})"


if __name__ == "__main__":
    main()
