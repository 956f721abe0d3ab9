"""One run: a cohort with attackers trains, the opened means of its groups go to a rule, epoch after epoch.

Masks cancel in sums, so there are none here: what a rule sees is what replicas would open. As in the protocol honest
updates are cut to the clip, malicious ones are not, and opened means are cut to it again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asyncfl.digest import digest
from asyncfl.group_rules import clean_probability
from asyncfl.model import flat_from_bytes
from asyncfl.poisoning import Attack, Sight, make_attack
from asyncfl.poisoning.interface import generator
from asyncfl.reputation import shrink_suspects
from asyncfl.rules import Trust
from asyncfl.rules.clipping import clip_factors
from node.experiment.poisoning.attribution import Attribution
from node.experiment.poisoning.configuration import WITH_REPUTATION, Cell, Poisoning
from node.experiment.poisoning.defence import Defence, Holdout, Learning, make_defence
from node.experiment.poisoning.grouping import draw_groups, expected_bad
from node.experiment.poisoning.judge import Judge, Look
from node.experiment.poisoning.training import CohortTrainer
from node.experiment.poisoning.world import Everybody, Labelled, World
from node.training.supervised import SupervisedTask
from node.training.workbench import Workbench

LATE = 0.75
"""Accuracy is the mean over the looks from this part of the epochs on: under attack models swing."""


@dataclass(eq=False)
class Course:
    """A run under way. `groups` and `opened` are of the last epoch."""

    experiment: Poisoning
    cell: Cell
    world: World
    device: str | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    opened: Tensor | None = None
    looks: list[Look] = field(default_factory=list)
    bad_groups: list[int] = field(default_factory=list)
    """With a malicious member, in each epoch."""
    bad_weights: list[float] = field(default_factory=list)
    """Their share of all weights, where the rule has weights."""

    def __post_init__(self) -> None:
        cell = self.cell
        # Draws are the same for every rule and group size, so that runs differ by these alone.
        self._seed = digest(
            "asyncfl/1/poisoning", cell.attack.encode(), f"{cell.malicious},{cell.seed}".encode()
        )
        self._bad = set(self.world.malicious)
        self._weighs = cell.rule.endswith(WITH_REPUTATION)
        rare = self.experiment.partition.clients or ()
        self.attribution = Attribution(len(self.world.parts), self.world.malicious, rare)
        self._carried: dict[Attack, Tensor | None] = {}
        self._examples: dict[Attack | None, list[Labelled]] = {}
        start = Workbench(
            SupervisedTask(self.world.build, Everybody(self.world)), seed=cell.seed, device=self.device
        )
        self.layout = start.layout
        self.device = str(start.device)
        self.model = flat_from_bytes(start.initial, self.layout.dimension)
        self.judge = Judge(self.world.build(), self.layout, start.device)
        convolves = self.experiment.data.model == "conv"
        self._trainer = CohortTrainer(
            self.world.build, self.layout, self._seed, start.device, convolves=convolves
        )

    @property
    def byzantine(self) -> int:
        """How many inputs of a rule are to be expected bad."""
        clients = len(self.world.parts)
        return expected_bad(clients, self.cell.malicious, self.cell.group)

    def step(self, epoch: int, attack: Attack | None, defence: Defence) -> None:
        """One epoch: train, forge, open, aggregate."""
        updates = self._updates(epoch, attack)
        self.groups = draw_groups(len(updates), self.cell.group, self._seed, epoch)
        self.opened = torch.stack([updates[list(group)].mean(0) for group in self.groups])
        self.opened = self._noisy(self._cut(self.opened), epoch)
        stood = defence.stands(len(self.opened), self.byzantine)
        inputs = self.opened
        if self._weighs:
            inputs = shrink_suspects(inputs, self.attribution.weights(self.groups))
        aggregate, weights = defence.aggregate(inputs, stood, self._holdout(epoch))
        self.attribution.learn(self.groups, self.opened)
        self.model = self.model + aggregate
        bad = [bool(self._bad.intersection(group)) for group in self.groups]
        self.bad_groups.append(sum(bad))
        if weights is not None:
            self.bad_weights.append(float(weights[torch.tensor(bad)].sum()))

    def look(self, epoch: int, attack: Attack | None) -> None:
        trigger = None if attack is None else attack.trigger
        classes = self.experiment.classes
        self.looks.append(self.judge.look(epoch, self.model, self.world.test, trigger, classes))

    def _updates(self, epoch: int, attack: Attack | None) -> Tensor:
        """What every client sends, [clients, d]."""
        clients, attackers = len(self.world.parts), self.world.malicious
        updates = self._train(range(clients), epoch, attack)
        honest = [client for client in range(clients) if client not in self._bad]
        updates[honest] = self._cut(updates[honest])
        if attack is None or not attackers:
            return updates
        own, seen = updates[list(attackers)], updates[honest]
        if self.experiment.knowledge == "colluders":
            seen = own
            if attack.poisons and attack.observes:
                seen = self._train(range(clients, clients + len(attackers)), epoch, None)
        numbers, carried = tuple(range(len(attackers))), self._carried.get(attack)
        forged = attack.forge(Sight(own, seen, numbers, clients, self._seed, epoch, carried))
        self._carried[attack] = forged.carried
        updates[list(attackers)] = forged.updates
        return updates

    def _train(self, numbers: Sequence[int], epoch: int, attack: Attack | None) -> Tensor:
        """The updates [n, d] of clients `numbers`; those beyond the clients are `Everybody`'s."""
        if attack not in self._examples:
            examples = Everybody(self.world).under(attack, self._seed)
            total = len(self.world.parts) + len(self.world.malicious) + 1
            self._examples[attack] = [examples.client(number) for number in range(total)]
        chosen = [self._examples[attack][number] for number in numbers]
        settings = self.experiment.training.settings_at(epoch)
        return self._trainer.train(self.model, chosen, numbers, settings, epoch)

    def _cut(self, updates: Tensor) -> Tensor:
        clip = self.experiment.clip
        if clip is None:
            return updates
        factors = clip_factors(torch.linalg.vector_norm(updates, dim=1), clip)
        return updates * factors[:, None]

    def _noisy(self, means: Tensor, epoch: int) -> Tensor:
        """`means` of this epoch's groups with the noise of each group's sum: `noise_multiplier` times the clip."""
        multiplier, clip = self.cell.noise_multiplier, self.experiment.clip
        if not multiplier or clip is None:
            return means
        draw = generator("privacy noise", self._seed, epoch)
        sizes = torch.tensor([len(group) for group in self.groups])
        return means + torch.randn(means.shape, generator=draw) * (multiplier * clip / sizes)[:, None]

    def _holdout(self, epoch: int) -> Holdout:
        number = len(self.world.parts) + len(self.world.malicious)
        return Holdout(
            lambda: self._train([number], epoch, None)[0],
            lambda aggregate: self.judge.gradient(self.model + aggregate.cpu(), self.world.holdout),
        )


def run_cell(experiment: Poisoning, cell: Cell, directory: Path, device: str | None = None) -> dict[str, Any]:
    """The facts of one run, as plain JSON values. `directory` holds the archive. Raises `ConfigurationError`."""
    started = time.perf_counter()
    world = World.of(experiment, cell.malicious, cell.seed, directory)
    course = Course(experiment, cell, world, device)
    attack = make_attack(cell.attack) if world.malicious else None
    defence = make_defence(cell.rule.removesuffix(WITH_REPUTATION), _learned(experiment, cell, world, device))
    for epoch in range(1, experiment.epochs + 1):
        course.step(epoch, attack, defence)
        if epoch % experiment.evaluate_every == 0 or epoch == experiment.epochs:
            course.look(epoch, attack)
    return facts(course, defence) | {"wall_seconds": round(time.perf_counter() - started, 1)}


def _learned(experiment: Poisoning, cell: Cell, world: World, device: str | None) -> Trust | None:
    """What FedAOT has learned under other attacks, from the same clients."""
    defence = make_defence(cell.rule.removesuffix(WITH_REPUTATION), None)
    if experiment.learned is None or not isinstance(defence, Learning):
        return None
    course = Course(experiment, cell, world, device)
    attacks = [make_attack(name) for name in experiment.learned.attacks]
    for epoch in range(1, experiment.learned.epochs + 1):
        course.step(epoch, attacks[epoch % len(attacks)] if world.malicious else None, defence)
    return defence.learned()


def facts(course: Course, defence: Defence) -> dict[str, Any]:
    """Plain values of a run that has ended."""
    cell, world, epochs = course.cell, course.world, course.experiment.epochs
    late = [look for look in course.looks if look.epoch > LATE * epochs]

    def mean(name: str) -> float | None:
        values = [getattr(look, name) for look in late]
        return None if None in values else sum(values) / len(values)

    inputs = len(course.groups)
    found: dict[str, Any] = {
        **cell.model_dump(),
        "accuracy": mean("accuracy"),
        "balanced": mean("balanced"),
        "obeyed": mean("obeyed"),
        "on_classes": mean("on_classes"),
        "inputs": inputs,
        "byzantine": course.byzantine,
        "byzantine_stood": defence.stands(inputs, course.byzantine),
        "clean_probability": clean_probability(len(world.parts), cell.group, cell.malicious),
        "bad_groups": sum(course.bad_groups) / len(course.bad_groups),
        "bad_weight": sum(course.bad_weights) / len(course.bad_weights) if course.bad_weights else None,
        "attribution": course.attribution.facts(LATE),
        "dimension": course.layout.dimension,
        "device": course.device,
        "looks": [asdict(look) for look in course.looks],
    }
    if isinstance(defence, Learning):
        trust = defence.trust
        found["trust"] = {"weights": list(trust.weights), "temperature": trust.temperature}
    return found
