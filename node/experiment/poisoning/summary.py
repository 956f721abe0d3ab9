"""What came out, over the seeds: mean and spread of each rule against each attack; what unseen attacks cost more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any

from node.experiment.poisoning.configuration import NOBODY


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean and sample standard deviation (None of one) over the seeds; in [0, 1], or points."""

    mean: float
    spread: float | None

    def percent(self) -> str:
        """As in a table: `81.2 ± 0.4`."""
        return f"{100 * self.mean:.1f}" + ("" if self.spread is None else f" ± {100 * self.spread:.1f}")


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """None where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    if len(known) == 1:
        return Estimate(mean, None)
    return Estimate(mean, sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1)))


@dataclass(frozen=True, slots=True)
class Line:
    """One attack at one fraction, group size and noise. `rules`: the cells of each rule, by its name."""

    attack: str
    malicious: float
    group: int
    noise: float
    rules: dict[str, list[dict[str, Any]]]

    @property
    def label(self) -> str:
        """The attack, and the noise where there is any."""
        return f"{self.attack}, noise {self.noise:g}" if self.noise else self.attack

    def of(self, rule: str, measure: str) -> Estimate | None:
        return estimate(cell[measure] for cell in self.rules[rule])


def lines(result: dict[str, Any]) -> list[Line]:
    """In the order of the file, seeds put together."""
    found: dict[tuple[str, float, int, float], dict[str, list[dict[str, Any]]]] = {}
    for cell in result["cells"]:
        key = (cell["attack"], cell["malicious"], cell["group"], cell["noise_multiplier"])
        found.setdefault(key, {}).setdefault(cell["rule"], []).append(cell)
    return [Line(*key, rules) for key, rules in found.items()]


def drops(result: dict[str, Any]) -> dict[tuple[str, int], Estimate]:
    """By rule and group size: mean accuracy under `attacks` less that under `unseen`, seed by seed."""
    experiment = result["experiment"]
    unseen = set(experiment.get("unseen", ()))
    found: dict[tuple[str, int], dict[int, tuple[list[float], list[float]]]] = {}
    for cell in result["cells"]:
        if cell["attack"] == NOBODY:
            continue
        seeds = found.setdefault((cell["rule"], cell["group"]), {})
        seeds.setdefault(cell["seed"], ([], []))[cell["attack"] in unseen].append(cell["accuracy"])
    estimates = {}
    for key, seeds in found.items():
        both = [
            sum(seen) / len(seen) - sum(other) / len(other)
            for seen, other in seeds.values()
            if seen and other
        ]
        drop = estimate(both)
        if drop is not None:
            estimates[key] = drop
    return estimates
