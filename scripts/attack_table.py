"""Every attacker against a small deployment: what honest clients lose by it. Writes docs/results/attacks.md.

    python scripts/attack_table.py --seeds 3 --output docs/results/attacks.md

n = 4 replicas, t = 1, 12 clients in cells of 3, 3 epochs, no other misfortune; the same seeds for every attack. A
replica does it, or two of the clients; pairs of replicas collude at n = 7, t = 2, with 21 clients. What is trained
is a classifier of the digits that scikit-learn ships, small enough for the simulator: softmax on nine principal
components, 100 coordinates, which start at zero.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import cross_entropy

from asyncfl.adversary import ATTACKERS, Attacker
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import Outcome, run
from node.training.digits import digits

CLIENTS, EPOCHS = 12, 3
PAIRS = (
    ("frame-up", "frame-up"), ("differencing", "signs-conflicts"), ("disjoint-groupings", "waits-for-restarts"),
    ("random-sums", "invented-items"), ("forged-models", "steals-uploads"), ("false-taken-over", "refuses-locks"),
    ("drop-updates", "biased-inclusion"), ("drop-updates", "never-locks"), ("models-of-nothing", "slow"),
    ("minority-of-its-cell", "stored-lies"),
)  # fmt: skip
"""Every attack of the worst pairs in the tests, and those that cost most alone."""
DRAIN = 60.0
"""Virtual seconds that uploads are given to be opened after the last client is done."""
HELD_OUT = 90
"""Digits of each class to measure with: 900 of the 1797."""
CLASSES, COMPONENTS = 10, 9
STEPS, LEARNING_RATE = 5, 0.2
"""Of a local training: after three epochs of everybody the model is still on its way, so that lost uploads show."""

HEAD = f"""# Attacks: what honest clients lose

`python scripts/attack_table.py --seeds {{seeds}} --output docs/results/attacks.md`: {{seeds}} simulated runs for
each attack, `n = 4`, `t = 1`, {CLIENTS} clients in four cells of 3, {EPOCHS} epochs, the same seeds throughout, no
other misfortune. The attacker is replica 0, or clients 0 and 6; with `copied-shares` replica 0 tells them what it
sees. Pairs of colluders attack `n = 7`, `t = 2` and 21 clients in seven cells. *entries/s* are opened groups for
each virtual second until the last honest client is done (trainings take 0.2 to 2 s); *opened* are uploads of honest
clients in the ledger {DRAIN:g} s later, of those that they made (each costs privacy budget, opened or not);
*violations* are breaches of S1 to S4 among honest nodes, *stalled* runs in which somebody waits for ever;
*accuracy* is that of the newest model that an honest replica holds certified at the end, in per cent, mean over the
runs and standard deviation: softmax on nine principal components of the digits (100 coordinates), {STEPS} steps at
rate {LEARNING_RATE:g} a training, 900 test images. It is still rising after {EPOCHS} epochs: uploads that are lost
show in it, and values that were injected would. A replica coordinates a quarter of the cells here: attacks that
lose their own cells cost these, and some that come late ([lost cells](lost-cells.md)). Attacks on the transport are
measured [at the sockets](transport.md).
"""


class Data:
    """The digits, as features: the first nine principal components of all training images, and a one."""

    def __init__(self, clients: int) -> None:
        examples = digits(clients=clients, held_out=HELD_OUT).examples
        parts = [examples.client(index) for index in range(clients)]
        components = PCA(COMPONENTS).fit(torch.cat([inputs for inputs, _ in parts]).numpy())

        def features(inputs: Tensor) -> Tensor:
            found = torch.from_numpy(components.transform(inputs.numpy())).float()
            return torch.cat([found, torch.ones(len(found), 1)], dim=1)

        self.parts = [(features(inputs), labels) for inputs, labels in parts]
        self.test = features(examples.test()[0]), examples.test()[1]

    def accuracy(self, model: bytes) -> float:
        """On the test images, in per cent."""
        inputs, labels = self.test
        return 100 * (inputs @ weights_of(model)).argmax(1).eq(labels).float().mean().item()


@dataclass(frozen=True)
class Trainer:
    """Gradient descent on all of one client's examples. Implements `asyncfl.client.jobs.Trainer`."""

    inputs: Tensor
    labels: Tensor

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        received = weights_of(model)
        weights = received.clone().requires_grad_()
        for _ in range(STEPS):
            loss = cross_entropy(self.inputs @ weights, self.labels)
            (gradient,) = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                weights -= LEARNING_RATE * gradient
        update = (weights.detach() - received).flatten()
        return TrainingResult(update, len(self.labels), loss.item(), 0.0)


def weights_of(model: bytes) -> Tensor:
    """Canonical bytes as a matrix, float32 [features, classes]."""
    return torch.frombuffer(bytearray(model), dtype=torch.float32).view(-1, CLASSES)


@dataclass
class Trained:
    """A run, attended: its clients train on real data, and its model is measured at the end."""

    data: Data
    scenario: Scenario

    def attend(self, simulation: Simulation) -> None:
        self.simulation = simulation
        simulation.trainer = lambda number: Trainer(*self.data.parts[number])

    @cached_property
    def outcome(self) -> Outcome:
        return run(self.scenario, drain=DRAIN, attend=self.attend)

    @cached_property
    def accuracy(self) -> float:
        """Of the certified model with the most entries that an honest replica holds; in per cent."""
        hostile = {attack.node for attack in self.scenario.attacks}
        best: tuple[int, bytes] = (-1, b"")
        for index, identity in enumerate(self.simulation.replica_ids):
            node = self.simulation.network.nodes[identity.public]
            latest = None if node.name in hostile else self.simulation.replica(index).models.latest
            if latest is not None:
                best = max(best, (latest.entries, node.blobs.read(latest.model)))
        return self.data.accuracy(best[1])


@dataclass(frozen=True)
class Line:
    """What came of all runs of one attack."""

    name: str
    runs: tuple[Trained, ...]

    def __str__(self) -> str:
        outcomes = [trained.outcome for trained in self.runs]
        entries = sum(outcome.entries for outcome in outcomes)
        seconds = sum(outcome.seconds for outcome in outcomes)
        included = sum(outcome.included for outcome in outcomes)
        sent = sum(outcome.sent for outcome in outcomes)
        violations = sum(bool(outcome.violations) for outcome in outcomes)
        stalled = sum(outcome.stalled is not None for outcome in outcomes)
        accuracies = [trained.accuracy for trained in self.runs]
        spread = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        return (
            f"| {self.name} | {entries / seconds:.2f} | {included}/{sent} ({included / max(1, sent):.0%}) | "
            f"{sent - included} | {mean(accuracies):.1f}{spread} | {violations} | {stalled} |"
        )


def alone(attacker: Attacker) -> tuple[Attack, ...]:
    """Replica 0, or clients 0 and 6 and the replica that they need."""
    if attacker.role == "replica":
        return (Attack("replica-0", attacker.name),)
    helpers = () if attacker.beside is None else (Attack("replica-0", attacker.beside),)
    return (Attack("client-0", attacker.name), Attack("client-6", attacker.name), *helpers)


def sections() -> dict[str, list[tuple[str, Scenario]]]:
    """Scenarios of seed 0, by heading and by row."""
    nobody = Scenario(0, 4, 1, CLIENTS, epochs=EPOCHS)
    found: dict[str, list[tuple[str, Scenario]]] = {}
    for role in ("replica", "client"):
        rows = [
            (f"`{name}`", replace(nobody, attacks=alone(attacker)))
            for name, attacker in sorted(ATTACKERS.items())
            if attacker.role == role and attacker.least_byzantine <= 1
        ]
        found[f"Of a {role}"] = [("none", nobody), *rows]
    of_seven = Scenario(0, 7, 2, 21, epochs=EPOCHS)
    pairs = [
        (" and ".join(f"`{name}`" for name in pair), replace(
            of_seven, attacks=tuple(Attack(f"replica-{j}", name) for j, name in enumerate(pair))
        ))
        for pair in PAIRS
    ]  # fmt: skip
    found["Of two colluding replicas of seven"] = [("none", of_seven), *pairs]
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--output", type=Path, required=True)
    chosen = arguments.parse_args()
    lines = [HEAD.format(seeds=chosen.seeds)]
    data = {clients: Data(clients) for clients in (CLIENTS, 21)}
    for heading, rows in sections().items():
        lines += [
            f"## {heading}\n",
            "| attack | entries/s | opened | wasted | accuracy | violations | stalled |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, scenario in rows:
            seeds = range(1, chosen.seeds + 1)
            runs = tuple(Trained(data[scenario.clients], replace(scenario, seed=seed)) for seed in seeds)
            lines.append(str(Line(name, runs)))
            print(lines[-1], flush=True)
        lines.append("")
    chosen.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
