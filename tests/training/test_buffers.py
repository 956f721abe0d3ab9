"""Floating buffers: a clip of their own, and frozen where there is noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from asyncfl.deployment import Deployment
from asyncfl.fold import FoldState, apply_total, compute_contribution
from asyncfl.masking.quantise import quantise
from asyncfl.messages import Settings
from asyncfl.model import Layout, flat_from_bytes
from asyncfl.parameters import Parameters, Segment
from asyncfl.rows import sum_row
from asyncfl.simulation import Simulation
from node.cli import app
from node.deployment_files import DeploymentDirectory
from node.training.digits import digits
from node.training.supervised import SupervisedTask
from node.training.workbench import Workbench

CLIENTS = 8
SETTINGS = Settings(learning_rate=0.1, local_steps=20, batch_size=16)
GENTLE = Settings(learning_rate=0.003, local_steps=200, batch_size=16)
"""For frozen statistics: nothing scales the grey values down."""


class GreyValues:
    """The digits as they are, grey values 0 to 16: what BatchNorm is there for."""

    def __init__(self) -> None:
        self._centred = digits(clients=CLIENTS).examples

    def prepare(self, clients: object) -> None: ...

    def client(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels = self._centred.client(index)
        return 8 * (inputs + 0.6), labels

    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels = self._centred.test()
        return 8 * (inputs + 0.6), labels


class Net(nn.Module):
    """BatchNorm, a half-precision buffer of its own, a frozen layer and an adapter beside it, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 32).requires_grad_(False)
        self.adapter = nn.Linear(64, 32, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(32, 10)
        self.register_buffer("gain", torch.full((32,), 1.5, dtype=torch.float16))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.base(inputs) + self.adapter(inputs.double()).float()
        return self.head(self.drop(torch.relu(self.norm(hidden * self.gain.float()))))


def batchnorm_network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def factory(*, clients: int, seed: int) -> SupervisedTask:
    return SupervisedTask(batchnorm_network, GreyValues())


def plain_factory(*, clients: int, seed: int) -> SupervisedTask:
    return SupervisedTask(lambda: nn.Linear(64, 10), GreyValues())


def bench(build: object = Net, *, frozen_buffers: bool = True) -> Workbench:
    task = SupervisedTask(build, GreyValues())  # type: ignore[arg-type]
    return Workbench(task, seed=0, device="cpu", frozen_buffers=frozen_buffers)


def accuracy_after(rows: int, *, joint: bool) -> float:
    """Rows of all clients, quantised, added and folded as a replica does, with a clip of 1 on the weights."""
    workbench = bench(batchnorm_network, frozen_buffers=False)
    parameters = Parameters.for_clients(CLIENTS, clip=1.0, buffer_clip=100.0)
    federation = Simulation(
        parameters, CLIENTS, initial=workbench.initial, weights=workbench.layout.weights
    ).federation
    if joint:
        federation = replace(federation)
        whole = Segment(0, federation.dimension, parameters.clip, parameters.scale)
        federation.__dict__["segments"] = (whole,)
    trainers, model = workbench.trainers(range(CLIENTS)), workbench.initial
    state = FoldState.start(federation)
    for epoch in range(1, rows + 1):
        updates = (trainers[client].train(model, SETTINGS, epoch).update for client in range(CLIENTS))
        images = [quantise(update, federation.segments, federation.dimension) for update in updates]
        opened = torch.stack(images).sum(dim=0).to(torch.int32)
        state = state.after(
            compute_contribution(sum_row([(opened, CLIENTS)], federation), float(CLIENTS), federation),
            federation,
        )
        model = apply_total(workbench.initial, state.total)
    return workbench.evaluate(model)


def test_one_joint_clip_over_weights_and_statistics_destroys_a_batchnorm_network() -> None:
    """Statistics move by 50 in a row, weights by 1.8: a joint clip of 1 leaves nothing of the weights.

    Measured after 6 rows: 95 % with clips of their own, 17 % with the joint one.
    """
    assert accuracy_after(6, joint=False) > 0.9
    assert accuracy_after(6, joint=True) < 0.3


def test_frozen_buffers_do_not_travel_and_stay_as_initialised() -> None:
    """With float16 buffers, a float64 adapter and a frozen base: only adapter, norm's weights and head travel."""
    work = bench()
    names = {entry.name for entry in work.layout.entries}
    trained = {"norm.weight", "norm.bias", "adapter.weight", "adapter.bias", "head.weight", "head.bias"}
    assert names == trained
    assert work.layout.buffers == 0
    before = work.state(work.initial)
    result = work.train(work.initial, GENTLE, 0, 1)
    assert result.update.shape == (work.layout.dimension,)
    assert result.update.norm() > 0
    after = work._module.state_dict()
    for name in before.keys() - trained:
        assert torch.equal(before[name], after[name]), name
    assert {"norm.running_mean", "norm.num_batches_tracked", "gain", "base.weight"} <= before.keys() - trained


def test_modules_with_frozen_buffers_compute_as_in_evaluation_whatever_the_task_sets() -> None:
    """A task's own `module.train()` must not bring back the batch's statistics; dropout still trains."""
    work = bench()
    work._load(work.initial)
    module, seen = work._module, {}
    module.norm.register_forward_hook(lambda m, *_: seen.update(norm=m.training))
    module.drop.register_forward_hook(lambda m, *_: seen.update(drop=m.training))
    module.train()
    module(GreyValues().client(0)[0])
    assert seen == {"norm": False, "drop": True}


def test_without_freezing_all_floating_buffers_travel_and_are_trained() -> None:
    work = bench(frozen_buffers=False)
    buffers = {entry.name: entry.dtype for entry in work.layout.entries if entry.kind == "buffer"}
    assert buffers == {"norm.running_mean": "float32", "norm.running_var": "float32", "gain": "float16"}
    update = work.train(work.initial, SETTINGS, 0, 1).update
    assert update[work.layout.weights :].norm() > 0


def test_a_frozen_batchnorm_network_still_learns() -> None:
    work = bench(batchnorm_network)
    update = work.train(work.initial, GENTLE, 0, 1).update
    trained = flat_from_bytes(work.initial) + update
    assert work.evaluate(work.initial) < 0.3
    assert work.evaluate(trained.numpy().tobytes()) > 0.7


def test_a_layout_with_frozen_buffers_may_hold_buffers_that_could_not_travel() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    assert Layout.of_module(module, frozen_buffers=True).dimension == 6


NOISE = ("--parameter", "noise_multiplier=0.1", "--parameter", "allow_small_private_groups=true")


@pytest.mark.parametrize(
    ("task", "options", "buffers", "frozen"),
    [
        ("factory", (), 128, False),
        ("factory", NOISE, 0, True),
        ("factory", (*NOISE, "--buffers", "train"), 128, False),
        ("factory", ("--buffers", "freeze"), 0, True),
        ("plain_factory", NOISE, 0, False),
    ],
)
def test_init_freezes_buffers_under_noise_and_says_so(
    *, tmp_path: Path, task: str, options: tuple[str, ...], buffers: int, frozen: bool
) -> None:
    root = tmp_path / "run"
    arguments = ["init", str(root), "--clients", str(CLIENTS), "--task", f"{__name__}:{task}", *options]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    model = DeploymentDirectory.load(root).deployment.model
    assert (model.buffers, model.frozen_buffers) == (buffers, frozen)
    text = " ".join(made.output.split())
    assert ("GroupNorm" in text, "stay as initialised" in text) == (frozen, frozen)
    assert ("clip of their own" in text) == (buffers > 0)
    assert len(DeploymentDirectory.load(root).initial_model()) == 4 * (model.weights + model.buffers)


def test_frozen_buffers_are_part_of_the_deployments_digest(tmp_path: Path) -> None:
    root = tmp_path / "run"
    made = CliRunner().invoke(app, ["init", str(root), "--clients", "8", "--json"])
    assert json.loads(made.stdout)["frozen_buffers"] is False
    deployment = DeploymentDirectory.load(root).deployment
    changed = deployment.model_copy(
        update={"model": deployment.model.model_copy(update={"frozen_buffers": True})}
    )
    assert Deployment.model_validate(changed.model_dump()).digest != deployment.digest
