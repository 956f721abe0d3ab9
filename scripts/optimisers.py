#!/usr/bin/env python
"""Measure the fold: epochs to an accuracy on digits by server optimiser, time of a row, time to plan a version.

Training runs on virtual time with the real state machines, masking, opening and asynchrony. The clients' local
work is small (5 batches at learning rate 0.05), so that a row moves the model little. A model is judged after
each row of the finished ledger.

    scripts/optimisers.py train --seeds 3 --epochs 40 [--alpha 0.3] [--json FILE]
    scripts/optimisers.py versions --entries 10000
    scripts/optimisers.py fold --dimension 1000000 --repeat 15
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Run as a file, not as a module: the checkout is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from asyncfl.fold import FoldState, apply_total, fold_row
from asyncfl.ledger import Ledger, Link
from asyncfl.masking import decode_sum
from asyncfl.messages import GroupId, Item, Member, Settings
from asyncfl.parameters import Parameters
from asyncfl.replica.gossip import RECENT_ITEMS, RECENT_ROWS
from asyncfl.rows import compute_expected
from asyncfl.simulation import Simulation
from asyncfl.simulation.parity import Federated, federate
from node.training.defaults import task_defaults
from node.training.loader import load_task
from node.training.workbench import Workbench

CLIENTS = 16
SETTINGS = Settings(learning_rate=0.05, local_steps=5, batch_size=16)
ACCURACIES = (0.90, 0.93, 0.95)
RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"server_momentum": 0.9},
    "adam": {},
}


def accuracies(run: Federated, workbench: Workbench) -> list[float]:
    """Held-out accuracy after each row."""
    simulation = run.simulation
    federation = simulation.federation
    ledger = simulation.replica(0).context.ledger
    blobs = simulation.network.nodes[simulation.replica_key(0)].blobs
    state, found, members = FoldState.start(federation), [], []
    for row in ledger.rows():
        items = [ledger.items[name] for name in row.items]
        sums = [
            (decode_sum(blobs.read(i.opened), federation.upload_dimension), len(i.members)) for i in items
        ]
        expected = compute_expected(members, CLIENTS)
        state = fold_row(state, sums, row.epoch, expected, federation)
        members.append(sum(count for _, count in sums))
        found.append(workbench.evaluate(apply_total(workbench.initial, state.total)))
    assert apply_total(workbench.initial, state.total) == run.model, "not the certified model"
    return found


def reached(values: list[float], accuracy: float) -> int | None:
    """Rows until `accuracy` is reached for the first time."""
    return next((number for number, value in enumerate(values, 1) if value >= accuracy), None)


def train(seeds: int, epochs: int, alpha: float | None) -> list[dict[str, Any]]:
    found = []
    for seed in range(seeds):
        options = {} if alpha is None else {"partition": "dirichlet", "alpha": alpha}
        task = load_task("digits", clients=CLIENTS, seed=seed, options=options)
        workbench = Workbench(task, seed=seed, device="cpu")
        for rule, chosen in RULES.items():
            parameters = Parameters.for_clients(
                CLIENTS, clip=task_defaults("digits").clip, server_optimizer=rule, **chosen
            )
            run = federate(
                parameters, workbench.trainers(range(CLIENTS)), initial=workbench.initial,
                weights=workbench.layout.weights, settings=SETTINGS, epochs=epochs, seed=seed,
            )  # fmt: skip
            values = accuracies(run, workbench)
            rows = {f"{accuracy:.0%}": reached(values, accuracy) for accuracy in ACCURACIES}
            found.append({"seed": seed, "optimizer": rule, "epochs_to": rows, "final": values[-1]})
            print(f"seed {seed} {rule:9} epochs to {rows}, final {values[-1]:.3f}", flush=True)
    return found


def fold(dimension: int, repeat: int) -> dict[str, float]:
    """Median milliseconds of one row of 4 opened sums, the optimisers in turn within every repetition."""
    states, federations, times = {}, {}, {rule: [] for rule in RULES}
    initial = bytes(4 * dimension)
    generator = torch.Generator().manual_seed(0)
    sums = [(torch.randint(-9, 10, (dimension,), generator=generator).to(torch.int32), 4) for _ in range(4)]
    for rule, chosen in RULES.items():
        parameters = Parameters.for_clients(CLIENTS, clip=3.2, server_optimizer=rule, **chosen)
        federations[rule] = Simulation(parameters, CLIENTS, initial=initial, weights=dimension).federation
        states[rule] = FoldState.start(federations[rule])
    for _ in range(repeat):
        for rule, federation in federations.items():
            started = time.perf_counter()
            states[rule] = fold_row(states[rule], sums, 1, 16, federation)
            times[rule].append(1000 * (time.perf_counter() - started))
    medians = {rule: statistics.median(values) for rule, values in times.items()}
    for rule, median in medians.items():
        size = sum(
            0 if moment is None else moment.nbytes
            for moment in (states[rule].total, states[rule].first, states[rule].second)
        )
        print(
            f"{rule:9} {median:6.1f} ms a row, {median / medians['sgd']:.2f} x sgd, {size / 1e6:.0f} MB a state"
        )
    return medians


def versions(entries: int, repeat: int) -> None:
    """Median microseconds to name a version and plan its fold after one more entry, and all of it anew."""
    ledger, times = Ledger(bytes(32)), {"changed rows": [], "whole ledger": []}

    def item(number: int) -> Item:
        member = Member(client=number.to_bytes(32, "big"), epoch=1, manifest=bytes(32))
        group = GroupId(epoch=1 + number // 4, cell=number % 4, coordinator=number % 4, part=0)
        return Item(id=group, members=(member,), opened=bytes(32))

    for number in range(entries):
        ledger.add(item(number))
    for number in range(entries, entries + repeat):
        added = item(number)
        started = time.perf_counter()
        ledger.add(added)
        pinned = (ledger.head, ledger.head.recent(RECENT_ROWS, RECENT_ITEMS))
        times["changed rows"].append(1e6 * (time.perf_counter() - started))
        started = time.perf_counter()
        anew = Link(0, ledger.origin)
        for row in ledger.rows():
            anew = anew.after(row, ledger.items)
        times["whole ledger"].append(1e6 * (time.perf_counter() - started))
        assert anew.chain == pinned[0].chain
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:13} {median:9.1f} us")
    print(f"ratio {medians['whole ledger'] / medians['changed rows']:.0f} at {entries} entries")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("--seeds", type=int, default=3)
    training.add_argument("--epochs", type=int, default=40)
    training.add_argument("--alpha", type=float, help="Dirichlet split over classes; default: even")
    training.add_argument("--json", type=Path)
    folding = commands.add_parser("fold")
    folding.add_argument("--dimension", type=int, default=1_000_000)
    folding.add_argument("--repeat", type=int, default=15)
    planning = commands.add_parser("versions")
    planning.add_argument("--entries", type=int, default=10_000)
    planning.add_argument("--repeat", type=int, default=31)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.command == "versions":
        versions(chosen.entries, chosen.repeat)
        return
    if chosen.command == "fold":
        fold(chosen.dimension, chosen.repeat)
        return
    found = train(chosen.seeds, chosen.epochs, chosen.alpha)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
