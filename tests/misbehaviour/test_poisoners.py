"""Clients that poison learning, around a real trainer and as real processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from asyncfl.adversary import ATTACKERS
from asyncfl.errors import ConfigurationError
from asyncfl.masking import decode_sum
from asyncfl.messages import Settings
from asyncfl.poisoning import ATTACKS, make_attack
from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS
from asyncfl_misbehaviour.misconduct import Misconduct
from asyncfl_misbehaviour.poisoners import PoisonedTrainer, Shared
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.ledger_copy import StoredSums, read_ledger
from node.supervisor.children import Child
from node.training.loader import load_task
from node.training.poisoned import poison
from node.training.supervised import SupervisedTask
from node.training.task import LocalTraining
from node.training.workbench import Trainer, Workbench

EXTRA = Path(__file__).parents[2] / "misbehaviour"
SETTINGS = Settings(learning_rate=0.3, local_steps=5, batch_size=16)
CLIENTS = 4


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(load_task("digits", clients=CLIENTS), seed=3, device="cpu")


def poisoners(bench: Workbench, name: str, *numbers: int) -> list[PoisonedTrainer]:
    """Attackers that are the clients of these numbers, and collude."""
    shared = Shared()
    return [
        PoisonedTrainer(
            Trainer(bench, number),
            make_attack(name),
            shared,
            number=number,
            clients=CLIENTS,
            weights=bench.layout.weights,
            seed=b"s",
        )
        for number in numbers
    ]


def honest(bench: Workbench, client: int) -> Tensor:
    return bench.train(bench.initial, SETTINGS, client, 1).update


def test_names_of_attacks_on_protocol_transport_and_learning_are_all_different() -> None:
    assert not ATTACKERS.keys() & ATTACKS.keys()
    assert not TRANSPORT_ATTACKS.keys() & ATTACKS.keys()


def test_a_flipped_sign_is_minus_the_honest_update_with_all_steps_done(bench: Workbench) -> None:
    (liar,) = poisoners(bench, "sign-flip", 1)
    told = liar.train(bench.initial, SETTINGS, 1)
    assert torch.equal(told.update, -honest(bench, 1))
    assert told.steps == told.planned == 5


def test_flipped_labels_are_learned_and_the_honest_workbench_stays_as_it_is(bench: Workbench) -> None:
    before = honest(bench, 1)
    (liar,) = poisoners(bench, "label-flip", 1)
    update = liar.train(bench.initial, SETTINGS, 1).update
    assert float(torch.nn.functional.cosine_similarity(update, before, dim=0)) < 0.5
    assert torch.equal(honest(bench, 1), before)
    assert isinstance(bench.task, SupervisedTask)
    poisoned = poison(bench, make_attack("label-flip"), 1, 0, b"s").task
    assert isinstance(poisoned, SupervisedTask)
    assert torch.equal(poisoned.examples.client(1)[1], 9 - bench.task.examples.client(1)[1])
    assert torch.equal(poisoned.examples.client(2)[1], bench.task.examples.client(2)[1])


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_sends_a_finite_update_alone_and_with_colluders_from_the_first_epoch_on(
    bench: Workbench, name: str
) -> None:
    together = poisoners(bench, name, 0, 1, 2)
    for trainer in (*poisoners(bench, name, 1), *together, *together):
        told = trainer.train(bench.initial, SETTINGS, 1)
        assert told.update.shape == honest(bench, 1).shape
        assert bool(torch.isfinite(told.update).all())
        assert bool(told.update.any())


def test_colluders_go_by_what_each_other_has_trained(bench: Workbench) -> None:
    first, second = poisoners(bench, "a-little-is-enough", 0, 2)
    first.train(bench.initial, SETTINGS, 1)
    sent = second.train(bench.initial, SETTINGS, 1).update
    both = torch.stack([honest(bench, 0), honest(bench, 2)])
    assert torch.allclose(sent, make_attack("a-little-is-enough").forge(
        cast(Any, SimpleNamespace(own=both, seen=both, direction=both.mean(0), clients=CLIENTS))
    ).updates[0])  # fmt: skip
    alone = poisoners(bench, "a-little-is-enough", 2)[0].train(bench.initial, SETTINGS, 1).update
    assert torch.equal(alone, honest(bench, 2))


def test_one_that_poisons_data_and_observes_shows_the_others_its_untouched_update(bench: Workbench) -> None:
    shared = Shared()
    liar = PoisonedTrainer(
        Trainer(bench, 1), make_attack("fedaot-adaptive"), shared,
        number=0, clients=CLIENTS, weights=bench.layout.weights, seed=b"s",
    )  # fmt: skip
    liar.train(bench.initial, SETTINGS, 1)
    assert torch.equal(shared.honest[0], honest(bench, 1))
    assert not torch.equal(shared.own[0], honest(bench, 1))


class Opaque:
    """A task whose examples nobody knows."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train(self, module: nn.Module, client_index: int, settings: Settings, epoch: int) -> LocalTraining:
        raise AssertionError

    def evaluate(self, module: nn.Module) -> float:
        raise AssertionError


def test_a_task_without_examples_is_refused_with_what_to_take_instead() -> None:
    opaque = Workbench(Opaque(), seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match=r"the task is a Opaque; .* take an attack on"):
        poison(opaque, make_attack("label-flip"), 0, 0, b"s")
    assert poisoners(opaque, "sign-flip", 0)


def test_attacks_on_learning_are_put_together_by_signs_and_only_clients_do_them() -> None:
    with pytest.raises(
        ConfigurationError, match=r"as 'label-flip\+scaling' \(all of them\) or 'label-flip\|scal"
    ):
        Misconduct.of("label-flip,scaling", "client")
    with pytest.raises(ConfigurationError, match="an attack of a client, not of a replica"):
        Misconduct.of("label-flip", "replica")
    with pytest.raises(ConfigurationError, match="no attack on learning is called 'label-flop'"):
        Misconduct.of("label-flop", "client")
    assert (
        Misconduct.of("label-flip+scaling,two-uploads", "client").label == "label-flip+scaling, two-uploads"
    )


@pytest.fixture
def drill(tmp_path: Path) -> DeploymentDirectory:
    """One replica and three clients whose updates are opened one by one, so that each can be looked at."""
    single = {"cell_size": 1, "min_group": 1, "max_group": 1, "allow_single_clients": True}
    wanted = NewDeployment(
        replicas=1, byzantine=0, clients=3, parameters=single, allow_misbehaviour=True,
        training=SETTINGS.model_dump(include={"learning_rate", "local_steps", "batch_size"}),
    )  # fmt: skip
    return create_deployment(tmp_path / "run", wanted)


@pytest.fixture
def children(drill: DeploymentDirectory, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Child]]:
    """The nodes as processes: client-1 flips labels, client-2 signs. Both are two thirds of the roster: epoch 1 waits
    for them."""
    path = os.pathsep.join(filter(None, [str(EXTRA), str(EXTRA.parent), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    started = {}
    for name, role, more in (
        ("replica-0", "aggregator", []),
        ("client-1", "client", ["--misbehave", "label-flip"]),
        ("client-2", "client", ["--misbehave", "sign-flip"]),
    ):
        words = ["node", "--role", role, "--deployment", str(drill.root), "--name", name, *more]
        child = Child(name, [sys.executable, "-m", "node.cli", *words], drill.root / f"{name}.log")
        child.start()
        started[name] = child
    yield started
    for child in reversed(started.values()):
        child.kill()


@pytest.mark.timeout(300)
def test_real_clients_send_what_their_attacks_make_and_say_what_they_are(
    drill: DeploymentDirectory, children: dict[str, Child]
) -> None:
    deployment = drill.deployment
    ends = monotonic() + 240
    while not (drill.state("replica-0") / "state.sqlite").exists() or len(first_epoch(drill)) < 2:
        assert monotonic() < ends, "\n".join(child.last_words(20) for child in children.values())
        assert all(child.running for child in children.values()), children["client-1"].last_words(20)
        sleep(0.2)
    opened = first_epoch(drill)
    task = load_task("digits", clients=3, seed=deployment.task.seed, options=deployment.task.options)
    bench = Workbench(task, seed=deployment.task.seed, device="cpu")
    likeness = {
        name: float(torch.nn.functional.cosine_similarity(opened[name], honest(bench, index), dim=0))
        for name, index in (("client-1", 1), ("client-2", 2))
    }
    assert likeness["client-2"] < -0.999
    assert likeness["client-1"] < 0.5
    assert "misbehaves on purpose: label-flip" in (drill.root / "client-1.log").read_text()


def first_epoch(drill: DeploymentDirectory) -> dict[str, Tensor]:
    """The opened update of each client in epoch 1, by name, in units of the quantiser."""
    federation, names = drill.deployment.federation(), {c.key: c.name for c in drill.deployment.clients}
    found = {}
    for item in read_ledger(drill, "replica-0").items.values():
        for member in item.members:
            if member.epoch == 1:
                opened = decode_sum(StoredSums(drill).read(item.opened), federation.upload_dimension)
                found[names[member.client]] = opened[: federation.weights].float()
    return found
