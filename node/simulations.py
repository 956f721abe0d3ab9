"""Many simulated runs, side by side in worker processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

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
    one = partial(run_seed, campaign=campaign)
    numbers = range(campaign.first_seed, campaign.first_seed + campaign.seeds)
    if campaign.workers <= 1 or campaign.seeds == 1:
        yield from map(one, numbers)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    workers = min(campaign.workers, campaign.seeds)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=use_one_thread) as pool:
        yield from pool.map(one, numbers, chunksize=4)


def run_seed(seed: int, campaign: Campaign) -> Outcome:
    """One run."""
    from asyncfl.simulation.scenario import draw
    from asyncfl.simulation.trial import run

    return run(draw(seed, replicas=campaign.replicas, byzantine=campaign.byzantine, attack=campaign.attack))


def use_one_thread() -> None:
    """The workers share the machine's cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
