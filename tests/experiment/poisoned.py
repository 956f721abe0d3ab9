"""Small experiments with malicious clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.experiment.poisoning.configuration import Cell, Poisoning, parse_poisoning
from node.experiment.poisoning.course import Course
from node.experiment.poisoning.world import World

NOWHERE = Path("nowhere")
TEXT = """
kind = "poisoning"
name = "small"
clients = 8
epochs = 4
seeds = [0]
attacks = ["sign-flip"]
malicious = [0.25]
groups = [1, 2]
rules = ["mean", "median"]
evaluate_every = 2
data.model = "perceptron"
training = { learning_rate = 0.1, local_steps = 3, batch_size = 16 }
"""


def small(**changes: Any) -> Poisoning:
    return Poisoning.model_validate(parse_poisoning(TEXT, source="x").model_dump() | changes)


def cell(experiment: Poisoning, **changes: Any) -> Cell:
    first = experiment.cells()[0]
    return first.model_copy(update=changes)


def course(experiment: Poisoning, **changes: Any) -> Course:
    chosen = cell(experiment, **changes)
    world = World.of(experiment, chosen.malicious, chosen.seed, NOWHERE)
    return Course(experiment, chosen, world, "cpu")
