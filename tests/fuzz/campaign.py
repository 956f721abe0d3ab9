"""A seeded run of mutated inputs over one target, guided by which outcomes are new."""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path
from typing import Final

from tests.fuzz.harness import Report, Target, Verdict, judge
from tests.fuzz.mutation import MUTATIONS

CORPUS: Final = Path(__file__).parent / "corpus"
"""A folder of inputs for each target: those that once broke something, by name, and what coverage-guided runs kept."""
TRACED: Final = 16
"""Of how many inputs one is traced."""
POOL: Final = 2000
"""Inputs that mutation starts from, at most."""


def corpus(target: Target) -> list[bytes]:
    """The stored inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*"))]


def run(target: Target, inputs: int, seed: int, *, seconds: float = float("inf")) -> Report:
    """Every seed and stored input as it is, then mutations, until `inputs` have run or time is over.

    The same seed gives the same inputs. An input whose outcome is new joins those that are mutated.
    """
    rng = random.Random(f"{seed} {target.name}")
    mutate = MUTATIONS[target.form]
    pool = [*target.seeds(), *corpus(target)]
    whole = len(pool)
    report, started = Report(target.name), time.perf_counter()
    for data in pool[:inputs]:
        judge(target, data)  # what is only imported or cached on first use is not the input's
        report.add(data, _traced(target, data))
    while report.inputs < inputs and time.perf_counter() - started < seconds:
        # Half of them from what is whole: the pool fills with what was refused in a new way.
        base = rng.choice(pool[:whole] if rng.random() < 0.5 else pool)
        data = mutate(rng, base, pool)[: target.largest]
        verdict = _traced(target, data) if report.inputs % TRACED == 0 else judge(target, data)
        if report.add(data, verdict) and len(pool) < POOL:
            pool.append(data)
    report.seconds = time.perf_counter() - started
    return report


def _traced(target: Target, data: bytes) -> Verdict:
    tracemalloc.start()
    try:
        return judge(target, data)
    finally:
        tracemalloc.stop()
