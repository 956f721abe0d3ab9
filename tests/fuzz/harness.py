"""Runs inputs of any kind through a decoder and judges what it does with them.

An input may be taken or refused, with an error that the target documents. Anything else is a finding: another
exception, more memory than the input's length justifies, or more time than anybody could wait for.

Memory is seen twice: the process's high-water mark after every input, and, while `tracemalloc` is on (which makes
everything eight times slower), each allocation of Python's.
"""

from __future__ import annotations

import re
import resource
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

SECONDS = 1.0
"""Processor time that no input may need: its peer would be cut off by then, or the terminal thought dead."""
RESIDENT_BYTES = 32 << 20
"""How far one input may push the process's high-water mark: libraries fetch less for themselves."""


@dataclass(frozen=True)
class Target:
    """What is fed: `run` takes an input, or refuses it with one of `refusals`.

    Memory: at most `slack + factor * len(input)` bytes above what was in use before. `form` says what the inputs
    are, so how they are mutated: "bytes", "msgpack" or "toml".
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[Exception], ...]
    form: str = "bytes"
    factor: int = 64
    slack: int = 1 << 19
    largest: int = 1 << 16


@dataclass(frozen=True)
class Verdict:
    """What came of one input. `finding` is None where all is well; `outcome` tells kinds of results apart."""

    outcome: str
    finding: str | None
    peak: int
    seconds: float


def judge(target: Target, data: bytes) -> Verdict:
    """Run one input; with `tracemalloc` on, its allocations count too."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    resident = _high_water()
    started, finding = time.thread_time(), None
    try:
        target.run(data)
        outcome = "taken"
    except target.refusals as error:
        outcome = f"{type(error).__name__}: {_pattern(str(error))}"
    except Exception as error:
        outcome = finding = f"crash: {type(error).__name__}: {_pattern(str(error))}"
    seconds = time.thread_time() - started
    peak = tracemalloc.get_traced_memory()[1] - before
    if finding is None and peak > target.slack + target.factor * len(data):
        finding = f"memory: {peak} bytes for an input of {len(data)}"
    if finding is None and (grown := _high_water() - resident) > RESIDENT_BYTES:
        finding = f"memory: the process grew by {grown} bytes for an input of {len(data)}"
    if finding is None and seconds > SECONDS:
        finding = f"time: {seconds:.1f} s for an input of {len(data)}"
    return Verdict(outcome, finding, peak, seconds)


def _high_water() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pattern(text: str) -> str:
    """A message without what is particular to one input."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[0-9a-f]{8,}|\d+", "#", text)[:120]


@dataclass
class Report:
    """What a run over one target came to."""

    target: str
    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    largest_peak: int = 0
    slowest: float = 0.0
    outcomes: set[str] = field(default_factory=set)
    findings: dict[str, bytes] = field(default_factory=dict)
    """The first input of each kind of finding."""

    def add(self, data: bytes, verdict: Verdict) -> bool:
        """Count one input; True if nothing like its outcome was seen before."""
        self.inputs += 1
        self.taken += verdict.outcome == "taken"
        self.largest_peak = max(self.largest_peak, verdict.peak)
        self.slowest = max(self.slowest, verdict.seconds)
        if verdict.finding is not None:
            self.findings.setdefault(_pattern(verdict.finding), data)
        is_new = verdict.outcome not in self.outcomes
        self.outcomes.add(verdict.outcome)
        return is_new
