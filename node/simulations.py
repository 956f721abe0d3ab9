"""Many simulated runs, side by side in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from node.workers import map_in_workers

if TYPE_CHECKING:
    from asyncfl.simulation.trial import Outcome


@dataclass(frozen=True, slots=True)
class Campaign:
    """Which scenarios to run: `seeds` of them from `first_seed` on; `attack` None lets each seed draw its own."""

    seeds: int
    first_seed: int
    replicas: int
    byzantine: int
    attack: str | None
    workers: int


def run_campaign(campaign: Campaign) -> Iterator[Outcome]:
    """Outcomes in the order of their seeds."""
    numbers = range(campaign.first_seed, campaign.first_seed + campaign.seeds)
    return map_in_workers(partial(run_seed, campaign=campaign), numbers, campaign.workers, chunk=4)


def run_seed(seed: int, campaign: Campaign) -> Outcome:
    """One run."""
    from asyncfl.simulation.scenario import draw
    from asyncfl.simulation.trial import run

    return run(draw(seed, replicas=campaign.replicas, byzantine=campaign.byzantine, attack=campaign.attack))
