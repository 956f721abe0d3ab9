#!/usr/bin/env python
"""Measure what masking, grouping and asynchrony cost in accuracy: asyncfl against plain FedAvg, on digits.

Every seed is a pair: the same split, initial model and local training settings, the same number of client
updates. asyncfl runs in process on virtual time, with the real state machines, masking and opening; FedAvg
is `node.training.baseline`. With each pair, FedAvg also runs a second time with other random numbers, to
show how far two runs differ by chance.

    scripts/parity.py --seeds 5 --epochs 40 [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":  # Run as a file, not as a module: the checkout is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from asyncfl.parameters import Parameters
from asyncfl.simulation.parity import Federated, federate
from node.training.baseline import fedavg_baseline
from node.training.defaults import task_defaults
from node.training.loader import load_task
from node.training.workbench import Workbench

CLIENTS = 16
REPLICAS = 4
TASK = "digits"
OTHER_SEED = 10_000
"""Added to a seed for the second FedAvg run: other initial weights and batches, the same split."""


@dataclass(frozen=True)
class Pair:
    """One seed. Accuracies in [0, 1]."""

    seed: int
    asyncfl: float
    fedavg: float
    fedavg_again: float
    updates: int
    """In the federated model; FedAvg's is made of `epochs * clients`."""
    entries: int
    seconds: float

    @property
    def difference(self) -> float:
        """Percentage points, asyncfl minus FedAvg."""
        return 100 * (self.asyncfl - self.fedavg)

    @property
    def chance(self) -> float:
        """Percentage points, FedAvg again minus FedAvg."""
        return 100 * (self.fedavg_again - self.fedavg)


def train_federated(seed: int, epochs: int, *, preset: str = "standard") -> tuple[Federated, Workbench]:
    """The federated half of a pair; the workbench evaluates its model."""
    task = load_task(TASK, clients=CLIENTS, seed=seed)
    workbench = Workbench(task, seed=seed, device="cpu")
    defaults = task_defaults(TASK)
    parameters = Parameters.for_clients(
        CLIENTS, replicas=REPLICAS, preset=preset, clip=defaults.clip, buffer_clip=defaults.buffer_clip
    )
    run = federate(
        parameters,
        workbench.trainers(range(CLIENTS)),
        initial=workbench.initial,
        weights=workbench.layout.weights,
        schedule=defaults.schedule,
        epochs=epochs,
        seed=seed,
    )
    return run, workbench


def compare(seed: int, epochs: int, *, preset: str = "standard") -> Pair:
    """Train both sides of one pair, and FedAvg once more."""
    started = time.perf_counter()
    run, workbench = train_federated(seed, epochs, preset=preset)
    schedule = task_defaults(TASK).schedule
    plain, again = (
        fedavg_baseline(workbench.task, CLIENTS, epochs, schedule, chosen, evaluate_every=epochs)["accuracy"]
        for chosen in (seed, seed + OTHER_SEED)
    )
    return Pair(
        seed,
        workbench.evaluate(run.model),
        plain,
        again,
        run.included,
        run.entries,
        time.perf_counter() - started,
    )


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean and its standard error (infinite for a single value)."""
    numbers = list(values)
    if len(numbers) < 2:
        return numbers[0], math.inf
    return statistics.mean(numbers), statistics.stdev(numbers) / math.sqrt(len(numbers))


def main() -> None:
    parser = argparse.ArgumentParser(description="asyncfl against plain FedAvg on digits, on virtual time.")
    parser.add_argument("--seeds", type=int, default=5, help="how many pairs, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--preset", choices=["standard", "tiny"], default="standard", help="ring dimensions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.seeds < 1 or options.epochs < 1:
        parser.error("--seeds and --epochs must be at least 1")
    torch.set_num_threads(1)

    print(f"{REPLICAS} replicas, {CLIENTS} clients, {options.epochs} epochs, preset {options.preset}")
    print("seed  asyncfl   FedAvg  FedAvg'  difference    chance  updates  seconds")
    pairs: list[Pair] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        pair = compare(seed, options.epochs, preset=options.preset)
        pairs.append(pair)
        print(
            f"{seed:4d}  {pair.asyncfl:7.4f}  {pair.fedavg:7.4f}  {pair.fedavg_again:7.4f}  "
            f"{pair.difference:+7.2f} pp  {pair.chance:+5.2f} pp  {pair.updates:7d}  {pair.seconds:7.1f}",
            flush=True,
        )
    mean, error = mean_and_error(pair.difference for pair in pairs)
    chance, chance_error = mean_and_error(pair.chance for pair in pairs)
    single = math.sqrt(statistics.mean(pair.chance**2 for pair in pairs))
    print(f"mean difference         {mean:+.2f} +- {error:.2f} pp (standard error)")
    print(
        f"FedAvg against itself   {chance:+.2f} +- {chance_error:.2f} pp; in one run {single:.2f} pp (r.m.s.)"
    )
    if options.json:
        figures = {
            "task": TASK,
            "replicas": REPLICAS,
            "clients": CLIENTS,
            "epochs": options.epochs,
            "preset": options.preset,
            "pairs": [{**asdict(pair), "difference_pp": pair.difference} for pair in pairs],
            "mean_difference_pp": mean,
            "standard_error_pp": error,
            "chance_rms_pp": single,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
