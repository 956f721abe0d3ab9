#!/usr/bin/env python
"""Processor time of every aggregation rule against the number of inputs n and of coordinates d, on one thread.

    scripts/rule_costs.py [--inputs 10 100 1000] [--dimensions 10000 100000] [--rules ...] [--most 1e8] [--json FILE]
    scripts/rule_costs.py --peaks [--inputs 1000] [--dimensions 100000] [--rules ...]

Median of `--repeat` runs; what has more than `--most` numbers n * d is left out. Inputs are normal, a tenth bad. Behind
each time is how many times the mean's of the same run it is: that says more where a machine has other work.
FedAOT weighs and learns, with a gradient that costs nothing; the second table says where its time goes, per input,
the third likewise in exact arithmetic, without a gradient, as at replicas.

With `--peaks`: the most memory of each rule instead, in a fresh process each, beyond what that had with the inputs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
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
from asyncfl.rules.arithmetic import EXACT, FAST, Arithmetic
from asyncfl.rules.fedaot import Gradient, mix
from asyncfl.rules.fedaot_features import measure as measure_features


def rule_of(name: str, dimension: int) -> Rule:
    """The rule with its defaults."""
    return FLTrust(reference=torch.ones(dimension)) if name == "fltrust" else make_rule(name)


def inputs_of(count: int, dimension: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(0))


def gradient_of(arithmetic: Arithmetic) -> Gradient | None:
    """Replicas have none."""
    return torch.ones_like if arithmetic is FAST else None


def warm_fedaot(updates: Tensor, arithmetic: Arithmetic = FAST) -> FedAOT:
    """With references, as after its first epoch."""
    rule = FedAOT(arithmetic=arithmetic)
    return replace(rule, trust=rule.step(updates, 0, gradient_of(arithmetic)).trust)


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

    def __init__(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self.spent = dict.fromkeys(("lengths", "inner products", "mean direction", "exp, log, tanh"), 0.0)

    def _timed(self, kind: str, compute: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        started, result = time.process_time(), compute(*arguments)
        self.spent[kind] += 1000 * (time.process_time() - started)
        return result

    def lengths(self, updates: Tensor) -> Tensor:
        return self._timed("lengths", self._arithmetic.lengths, updates)

    def products(self, updates: Tensor, others: Tensor) -> Tensor:
        return self._timed("inner products", self._arithmetic.products, updates, others)

    def weighted_sum(self, updates: Tensor, weights: Tensor) -> Tensor:
        return self._timed("mean direction", self._arithmetic.weighted_sum, updates, weights)

    def exp(self, values: Tensor) -> Tensor:
        return self._timed("exp, log, tanh", self._arithmetic.exp, values)

    def log(self, values: Tensor) -> Tensor:
        return self._timed("exp, log, tanh", self._arithmetic.log, values)

    def tanh(self, values: Tensor) -> Tensor:
        return self._timed("exp, log, tanh", self._arithmetic.tanh, values)


def breakdown(inputs: int, dimension: int, repeat: int, arithmetic: Arithmetic) -> dict[str, float]:
    """Milliseconds per input of FedAOT's parts, and of all of it."""
    updates, gradient = inputs_of(inputs, dimension), gradient_of(arithmetic)
    rule, timed = warm_fedaot(updates, arithmetic), Timed(arithmetic)
    counted = replace(rule, arithmetic=timed)
    for _ in range(repeat):
        counted.step(updates, 0, gradient)
    parts = {kind: spent / repeat for kind, spent in timed.spent.items()}
    total = milliseconds(lambda: rule.step(updates, 0, gradient), repeat)
    cohort = measure_features(updates, rule.trust.past, rule.trust.gradient, 1, arithmetic)
    shares = torch.full((inputs,), 1 / inputs, dtype=torch.float64)
    parts["checks"] = milliseconds(lambda: rule.admit(updates, 0), repeat)
    parts["weighted sum of the inputs"] = milliseconds(lambda: mix(updates, shares, cohort), repeat)
    parts["median of a sample, and the rest"] = max(0.0, total - sum(parts.values()))
    return {part: spent / inputs for part, spent in {**parts, "all of it": total}.items()}


def most_memory() -> int:
    """MiB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def peak(name: str, inputs: int, dimension: int) -> int | None:
    """MiB that the rule takes beyond the inputs; of this process, which must not have done anything else."""
    rule, bad = rule_of(name, dimension), inputs // 10
    if rule.least_inputs(bad) > inputs:
        return None
    few = inputs_of(max(10, rule.least_inputs(1)), dimension)
    rule(few, 1)  # What is loaded at the first use is not the rule's.
    updates = torch.empty(inputs, dimension).normal_(generator=torch.Generator().manual_seed(0))
    before = most_memory()
    rule(updates, bad)
    return most_memory() - before


def print_peaks(names: list[str], inputs: int, dimension: int) -> None:
    print(f"| rule | MiB beyond the inputs' {inputs * dimension >> 18}, n = {inputs}, d = {dimension:,} |")
    print("| --- | --- |")
    for name in names:
        words = [
            sys.executable,
            __file__,
            "--peak-of",
            name,
            "--inputs",
            str(inputs),
            "--dimensions",
            str(dimension),
        ]
        found = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        print(f"| `{name}` | {found} |", flush=True)


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
    parser.add_argument("--peaks", action="store_true")
    parser.add_argument("--peak-of", choices=list(RULES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        print(peak(options.peak_of, options.inputs[0], options.dimensions[0]))
        return
    if options.peaks:
        print_peaks(options.rules, options.inputs[-1], options.dimensions[-1])
        return
    sizes = [(n, d) for d in options.dimensions for n in options.inputs if n * d <= options.most]
    print("| rule, ms | " + " | ".join(f"n = {n}, d = {d:,}" for n, d in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    found: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(["mean", *options.rules]):
        found[name] = [measure(name, n, d, options.repeat) for n, d in sizes]
        cells = [cell(ms, mean) for ms, mean in zip(found[name], found["mean"], strict=True)]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
    learned: dict[str, list[dict[str, float]]] = {}
    for kind, arithmetic in (("fast", FAST), ("exact", EXACT)) if "fedaot" in options.rules else ():
        learned[kind] = parts = [breakdown(n, d, options.repeat, arithmetic) for n, d in sizes]
        print(
            f"\n| FedAOT, {kind}, ms per input | "
            + " | ".join(f"n = {n}, d = {d:,}" for n, d in sizes)
            + " |"
        )
        print("| --- |" + " --- |" * len(sizes))
        for part in parts[0]:
            print(f"| {part} | " + " | ".join(f"{one[part]:.3f}" for one in parts) + " |")
    most = most_memory()
    print(
        f"\nMost memory: {most} MiB, of which {max(n * d for n, d in sizes) // (1 << 18)} are the largest inputs."
    )
    if options.json is not None:
        result = {"sizes": sizes, "milliseconds": found, "fedaot": learned, "most_mib": most}
        options.json.write_text(json.dumps(result, indent=1))


def cell(ms: float | None, mean: float | None) -> str:
    if ms is None or mean is None:
        return "-"
    return (f"{ms:.1f}" if ms < 100 else f"{ms:.0f}") + f" ({ms / mean:.1f})"


if __name__ == "__main__":
    main()
