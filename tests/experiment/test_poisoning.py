"""Experiments with malicious clients: what is compared is comparable, and what was done is not done again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.group_rules import clean_probability
from asyncfl.messages import Settings
from asyncfl.model import Layout
from asyncfl.poisoning import make_attack
from asyncfl.rules import Trust
from node.cli import app
from node.experiment.poisoning.cells import run_cells
from node.experiment.poisoning.configuration import Cell, Poisoning, parse_poisoning
from node.experiment.poisoning.course import run_cell
from node.experiment.poisoning.defence import Defence, Holdout, Learning, make_defence
from node.experiment.poisoning.grouping import draw_groups, expected_bad
from node.experiment.poisoning.map_plot import is_map
from node.experiment.poisoning.report import markdown
from node.experiment.poisoning.summary import drops, estimate, lines
from node.experiment.poisoning.trade_plot import draw_trade, is_trade
from node.experiment.poisoning.training import CohortTrainer
from node.experiment.poisoning.world import ConvNet, Everybody, Perceptron, World
from node.training.supervised import SupervisedTask
from tests.experiment.poisoned import NOWHERE, TEXT, cell, course, small

FILES = sorted((Path(__file__).parents[2] / "experiments" / "poisoning").glob("*.toml"))

COMPARED = {"mean", "krum", "median", "trimmed_mean", "centered_clipping", "fltrust", "fedaot"}


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_included_files_are_valid_and_compare_rules_over_three_seeds(file: Path, reduced: bool) -> None:
    found = parse_poisoning(file.read_text(), source=str(file), reduced=reduced)
    assert len(found.seeds) >= 3
    if file.stem in ("cifar10", "mnist", "pneumonia", "unseen") or (
        file.stem in ("adaptive", "map") and not reduced
    ):
        assert set(found.rules) >= COMPARED
    assert found.groups[0] == 1
    assert found.groups[1] > 1
    names = [each.name for each in found.cells()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('rules = ["mode"]', "no rule is called 'mode'; there are mean"),
        ('rules = ["bucketing"]', "no rule is called 'bucketing'"),
        ('attacks = ["flip"]', "no attack on learning is called 'flip'"),
        ("groups = [9]", "a group of 9 needs as many clients, and there are 8"),
        ("malicious = [0.5]", "less than 0.5"),
        ("training = { learning_rate = 0.1, batch_size = 16 }", "training needs local_steps"),
        ("epoch = 3", "unknown key; did you mean 'epochs'"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_with_the_reason(line: str, message: str) -> None:
    key = line.split(" ", maxsplit=1)[0]
    text = "\n".join(each for each in TEXT.splitlines() if not each.startswith(f"{key} ")) + f"\n{line}\n"
    if key == "epoch":
        text = TEXT.replace("name =", f"{line}\nname =")
    with pytest.raises(ConfigurationError, match=message):
        parse_poisoning(text, source="x.toml")


def test_without_attackers_there_is_one_attack_and_no_cell_twice() -> None:
    found = small(attacks=["sign-flip", "mimic"], malicious=[0.0, 0.25], rules=["mean"], groups=[1]).cells()
    assert [(each.attack, each.malicious) for each in found] == [
        ("none", 0.0), ("sign-flip", 0.25), ("mimic", 0.25),
    ]  # fmt: skip
    assert run_cell(small(), found[0], NOWHERE, "cpu")["bad_groups"] == 0


def test_groups_hold_everybody_once_and_are_drawn_anew_each_epoch() -> None:
    drawn = [draw_groups(50, 8, b"s" * 32, epoch) for epoch in (1, 2)]
    for groups in drawn:
        assert sorted(client for group in groups for client in group) == list(range(50))
        assert {len(group) for group in groups} <= {8, 9}
    assert drawn[0] != drawn[1]
    assert draw_groups(50, 8, b"s" * 32, 1) == drawn[0]


def test_the_probability_of_a_clean_group_is_what_the_shuffle_gives() -> None:
    clients, bad, size = 20, 6, 4
    clean = [
        not any(client < bad for client in group)
        for epoch in range(400)
        for group in draw_groups(clients, size, b"t" * 32, epoch)
    ]
    told = clean_probability(clients, size, bad / clients)
    assert told == pytest.approx((14 * 13 * 12 * 11) / (20 * 19 * 18 * 17))
    assert np.mean(clean) == pytest.approx(told, abs=4 * np.sqrt(told * (1 - told) / len(clean)))
    assert expected_bad(clients, bad / clients, 1) == bad
    assert expected_bad(clients, bad / clients, size) == 4  # 5 groups, 0.79 of each.


def test_without_attackers_the_mean_is_the_same_in_the_clear_and_under_groups_of_one_size() -> None:
    models = []
    for group in (1, 2, 4):
        one = course(small(groups=[group]), malicious=0.0, group=group, rule="mean")
        for epoch in (1, 2):
            one.step(epoch, None, make_defence("mean", None))
        models.append(one.model)
    assert torch.allclose(models[0], models[1], atol=1e-5)
    assert torch.allclose(models[0], models[2], atol=1e-5)


def test_rules_and_group_sizes_meet_the_same_attackers_with_the_same_updates_in_the_first_epoch() -> None:
    experiment = small(attacks=["gaussian-noise"])
    opened = []
    for rule in ("mean", "median"):
        one = course(experiment, attack="gaussian-noise", rule=rule)
        one.step(1, make_attack("gaussian-noise"), make_defence(rule, None))
        assert one.opened is not None
        opened.append(one.opened)
        assert one.bad_groups == [2]
    assert torch.equal(*opened)


def test_honest_updates_and_opened_means_are_cut_to_the_clip_and_a_member_may_use_its_groups() -> None:
    experiment = small(clip=0.05, attacks=["scaling"])
    one = course(experiment, attack="scaling", group=2)
    one.step(1, make_attack("scaling"), make_defence("mean", None))
    assert one.opened is not None
    lengths = one.opened.norm(dim=1)
    assert float(lengths.max()) <= 0.05 * (1 + 1e-5)
    bad = [any(client in one.world.malicious for client in group) for group in one.groups]
    assert float(lengths[bad].min()) > 0.049  # Ten times as long before: the whole of the group's.


def test_data_of_attackers_is_poisoned_and_nobody_elses_and_the_holdout_is_nobodys() -> None:
    experiment = small()
    world = World.of(experiment, 0.25, 0, NOWHERE)
    cohort = Everybody(world).under(make_attack("label-flip"), b"s")
    for client, (inputs, labels) in enumerate(world.parts):
        flipped = client in world.malicious
        assert torch.equal(cohort.client(client)[1], 9 - labels if flipped else labels)
        assert torch.equal(cohort.client(client)[0], inputs)
    for number, client in enumerate(world.malicious):
        assert torch.equal(cohort.client(8 + number)[1], world.parts[client][1])
    assert torch.equal(cohort.client(10)[1], world.holdout[1])

    rows = [inputs for inputs, _ in (*world.parts, world.test, world.holdout)]
    images = Counter(image.numpy().tobytes() for part in rows for image in part)
    assert sum(images.values()) == 1797
    assert max(images.values()) == 1  # No image of the digits is twice there, so none is with two parties.


def test_colluders_that_know_only_each_other_send_something_else_than_those_who_know_all() -> None:
    sent = []
    for knowledge in ("all", "colluders"):
        one = course(small(knowledge=knowledge), attack="fedaot-adaptive")
        one.step(1, make_attack("fedaot-adaptive"), make_defence("mean", None))
        assert one.opened is not None
        bad = [any(client in one.world.malicious for client in group) for group in one.groups]
        sent.append(one.opened[bad])
    assert not torch.equal(*sent)


def test_a_rule_is_told_of_no_more_bad_inputs_than_it_stands() -> None:
    assert make_defence("krum", None).stands(10, 3) == 3
    assert make_defence("krum", None).stands(6, 3) == 1
    assert make_defence("krum", None).stands(4, 3) == 0
    assert make_defence("median", None).stands(5, 5) == 2
    assert make_defence("fltrust", None).stands(5, 4) == 4


def test_fedaot_learns_under_other_attacks_first_where_the_file_says_so() -> None:
    experiment = small(rules=["fedaot"], learned={"attacks": ["gaussian-noise"], "epochs": 3}, epochs=1)
    learned = run_cell(experiment, cell(experiment, rule="fedaot"), NOWHERE, "cpu")
    plain = small(rules=["fedaot"], epochs=1)
    fresh = run_cell(plain, cell(plain, rule="fedaot"), NOWHERE, "cpu")
    assert fresh["trust"]["weights"] != learned["trust"]["weights"]


def test_fedaot_by_agreement_never_asks_for_the_holdout_set() -> None:
    def asked(*of: object) -> torch.Tensor:
        raise AssertionError("the hold-out set was used")

    inputs = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    inputs[5] *= -1
    aggregate, weights = make_defence("fedaot-agreement", None).aggregate(inputs, 1, Holdout(asked, asked))
    assert aggregate.isfinite().all()
    assert weights is not None
    assert weights.sum() == pytest.approx(1.0)
    with pytest.raises(AssertionError):
        make_defence("fedaot", None).aggregate(inputs, 1, Holdout(asked, asked))


@pytest.mark.parametrize("rule", ["fedaot-agreement", "fedaot-agreement+reputation"])
def test_fedaot_by_agreement_learns_by_agreement_first_where_the_file_says_so(rule: str) -> None:
    experiment = small(rules=[rule], learned={"attacks": ["gaussian-noise"], "epochs": 3}, epochs=1)
    learned = run_cell(experiment, cell(experiment, rule=rule), NOWHERE, "cpu")
    plain = small(rules=[rule], epochs=1)
    fresh = run_cell(plain, cell(plain, rule=rule), NOWHERE, "cpu")
    assert fresh["trust"]["weights"] != learned["trust"]["weights"]


class Watched(Learning):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(Trust(), by_agreement=False)
        self.gradients: list[torch.Tensor] = []

    def aggregate(
        self, inputs: torch.Tensor, byzantine: int, holdout: Holdout
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.gradients.append(holdout.gradient(torch.zeros(inputs.shape[1])))
        self.before = holdout.reference()
        return super().aggregate(inputs, byzantine, holdout)


def test_the_holdout_gradient_is_that_of_the_models_loss_and_the_reference_goes_down_it() -> None:
    one, watched = course(small()), Watched()
    model = one.model.clone()
    one.step(1, None, watched)
    gradient = watched.gradients[0]
    module = one.world.build()
    one.layout.write(model, module.state_dict())
    inputs, labels = one.world.holdout
    torch.nn.functional.cross_entropy(module(inputs), labels).backward()
    own = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert torch.allclose(gradient, own, atol=1e-6)
    assert float(watched.before @ gradient) < 0


def test_under_a_strong_attack_the_median_keeps_in_the_clear_what_the_mean_loses() -> None:
    experiment = small(attacks=["model-replacement"], epochs=10, clients=12)
    found: dict[str, dict[str, Any]] = {}
    for rule in ("mean", "median"):
        chosen = cell(experiment, attack="model-replacement", malicious=0.25, rule=rule)
        found[rule] = run_cell(experiment, chosen, NOWHERE, "cpu")
    assert found["mean"]["obeyed"] > found["median"]["obeyed"] + 0.3
    assert found["median"]["accuracy"] > 0.5


def test_a_cells_result_is_the_same_again() -> None:
    experiment = small(attacks=["gaussian-noise|mimic"])
    chosen = cell(experiment, attack="gaussian-noise|mimic", rule="median")
    once, again = (run_cell(experiment, chosen, NOWHERE, "cpu") for _ in range(2))
    once.pop("wall_seconds")
    again.pop("wall_seconds")
    assert once == again
    json.dumps(once)


def test_two_workers_find_what_one_finds_and_leave_every_run_behind(tmp_path: Path) -> None:
    experiment, told = small(rules=["mean", "median"], groups=[1]), list[str]()
    alone = run_cells(experiment, tmp_path, None, lambda *_: None)
    shared = run_cells(experiment, tmp_path, tmp_path, lambda facts, _: told.append(facts["rule"]), workers=2)
    assert told == [each["rule"] for each in alone["cells"]]
    for one in (*alone["cells"], *shared["cells"]):
        one.pop("wall_seconds")
        assert one["made_with"]["torch"] == torch.__version__
    assert alone == shared
    assert len(list((tmp_path / "cells").iterdir())) == len(told)


def test_an_interrupted_experiment_goes_on_and_other_settings_begin_anew(tmp_path: Path) -> None:
    experiment, ran = small(), []

    class Interrupted(Exception):
        pass

    def run(experiment: Poisoning, each: Cell, data: Path) -> dict[str, Any]:
        if len(ran) == 3:
            raise Interrupted
        ran.append(each.name)
        return {**each.model_dump(), "accuracy": 0.5}

    def tell(facts: dict[str, Any], there: bool) -> None:
        told.append(there)

    told: list[bool] = []
    with pytest.raises(Interrupted):
        run_cells(experiment, tmp_path, tmp_path, tell, run)
    ran.clear()
    run_cells(experiment, tmp_path, tmp_path, tell, run)
    assert told == [False] * 3 + [True] * 3 + [False]
    assert len(ran) == 1

    ran.clear()
    run_cells(
        small(seeds=[0, 1], rules=["mean"]), tmp_path, tmp_path, tell, run
    )  # Other lists, same settings.
    assert len(ran) == 2
    ran.clear()
    run_cells(small(epochs=5, groups=[1]), tmp_path, tmp_path, tell, run)
    assert len(ran) == 2

    broken = next((tmp_path / "cells").iterdir())
    broken.write_text("{")
    with pytest.raises(StorageError, match=r"not a cell's result.*delete it"):
        run_cells(experiment, tmp_path, tmp_path, tell, lambda *_: {})


def test_means_spreads_and_what_unseen_attacks_cost() -> None:
    cells = [
        {
            "attack": attack,
            "malicious": 0.2,
            "group": 1,
            "rule": "mean",
            "seed": seed,
            "noise_multiplier": 0.0,
        }
        | {"accuracy": accuracy}
        for attack, both in {"a": (0.9, 0.8), "b": (0.7, 0.8), "c": (0.5, 0.7)}.items()
        for seed, accuracy in enumerate(both)
    ]
    result = {"experiment": {"unseen": ["c"]}, "cells": cells}
    first = lines(result)[0].of("mean", "accuracy")
    assert first is not None
    assert (first.mean, first.spread) == pytest.approx((0.85, 0.1 / np.sqrt(2)))
    drop = drops(result)["mean", 1]
    assert (drop.mean, drop.spread) == pytest.approx(((0.3 + 0.1) / 2, 0.2 / np.sqrt(2)))
    assert estimate([None, None]) is None


def test_the_command_writes_results_tables_and_a_picture_and_fits_a_terminal(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(TEXT.replace("sign-flip", "backdoor|sign-flip").replace("epochs = 4", "epochs = 2"))
    words = ["experiment", str(file), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "backdoor|sign-flip" in done.stdout
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(result["cells"]) == 4
    assert all(0 <= each["obeyed"] <= 1 for each in result["cells"])
    assert (tmp_path / "out" / "tables.md").read_text().startswith("| accuracy, % | malicious |")
    assert (tmp_path / "out" / "rules.png").stat().st_size > 1000
    again = CliRunner().invoke(app, words, env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert again.output.count("was there") == 4


def test_a_missing_archive_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    experiment = small(data={"archive": "mnist.npz"})
    with pytest.raises(ConfigurationError, match=r"mnist\.npz: no such file"):
        World.of(experiment, 0.25, 0, tmp_path)


def test_archives_are_sampled_shrunk_and_split(tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    name = ""
    for colour in ((), (3,)):
        arrays = {}
        for part, count in (("train", 90), ("test", 40)):
            arrays[f"x_{part}"] = draw.randint(0, 255, (count, 16, 16, *colour)).astype("uint8")
            arrays[f"y_{part}"] = (np.arange(count) % 2).astype("uint8")
        name = f"{len(colour)}.npz"
        np.savez(tmp_path / name, **arrays)
        data = {"archive": name, "train": 80, "test": 30, "holdout": 10, "shrink": 2}
        world = World.of(small(data=data), 0.25, 1, tmp_path)
        assert [len(labels) for _, labels in world.parts] == [10] * 8
        assert world.parts[0][0].shape == (10, 8, 8, *colour)
        assert world.test[0].shape == (30, 8, 8, *colour)
        assert len(world.holdout[1]) == 10
        assert world.classes == 2
        assert world.build()(world.test[0]).shape == (30, 2)
    with pytest.raises(ConfigurationError, match="x_train has 90 images, and 91 are asked for"):
        World.of(small(data={"archive": name, "train": 90, "holdout": 1}), 0.25, 1, tmp_path)


def test_every_defence_is_one() -> None:
    for rule in ("mean", "krum", "fltrust", "fedaot"):
        assert isinstance(make_defence(rule, None), Defence)


def test_clients_trained_side_by_side_have_the_updates_that_each_has_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 255, (30 + n, 8, 8), generator=draw).to(torch.uint8) for n in range(3)]
    examples = [(each, torch.randint(0, 10, (len(each),), generator=draw)) for each in images]
    settings = Settings(learning_rate=0.1, local_steps=4, batch_size=16)
    for build, convolves in ((lambda: Perceptron(64, 10), False), (lambda: ConvNet(1, 10), True)):
        module = build()
        layout = Layout.of_module(module)
        model = layout.flatten(module.state_dict())
        found = [
            CohortTrainer(build, layout, b"s", torch.device("cpu"), convolves=each)
            for each in (convolves, not convolves)
        ]
        turns, together = (each.train(model, examples, [5, 0, 7], settings, 1) for each in found)
        assert torch.allclose(turns, together, atol=1e-5)
        alone = found[0].train(model, examples[1:2], [0], settings, 1)
        assert torch.allclose(alone[0], together[1], atol=1e-5)
        assert float(together.norm(dim=1).min()) > 0.01


def test_a_client_trains_as_the_product_does_where_batches_divide_its_examples() -> None:
    """One pass over all examples in one batch, where order does not matter, is one gradient step."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 255, (32, 8, 8), generator=draw).to(torch.uint8)
    labels = torch.randint(0, 10, (32,), generator=draw)
    module = Perceptron(64, 10)
    layout = Layout.of_module(module)
    model = layout.flatten(module.state_dict())
    settings = Settings(learning_rate=0.1, local_steps=3, batch_size=32)
    trainer = CohortTrainer(lambda: Perceptron(64, 10), layout, b"s", torch.device("cpu"), convolves=False)
    update = trainer.train(model, [(inputs, labels)], [0], settings, 1)[0]
    task = SupervisedTask(lambda: module, Fixed(inputs, labels))
    task.train(module, 0, settings, 1)
    assert torch.allclose(layout.flatten(module.state_dict()) - model, update, atol=1e-6)


class Fixed:
    """One client's examples."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.own = inputs, labels

    def client(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.own

    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.own

    def prepare(self, clients: Collection[int]) -> None: ...


def test_noise_is_that_of_each_groups_sum() -> None:
    both = small(clip=2.0, noise_multiplier=[0.0, 0.5])
    quiet, noisy = (course(both, group=4, noise_multiplier=z) for z in (0.0, 0.5))
    for one in (quiet, noisy):
        one.step(1, None, make_defence("mean", None))
    assert quiet.opened is not None
    assert noisy.opened is not None
    noise = (noisy.opened - quiet.opened).flatten()
    assert float(noise.std()) == pytest.approx(0.5 * 2.0 / 4, rel=0.05)
    with pytest.raises(ConfigurationError, match="noise_multiplier needs a clip"):
        parse_poisoning(TEXT.replace("epochs", "noise_multiplier = 1.0\nepochs"), source="x")
    with pytest.raises(ValidationError, match="one noise_multiplier"):
        small(clip=1.0, noise_multiplier=[0, 1], unseen=["mimic"])


def test_levels_of_noise_are_compared_cell_by_cell_and_in_a_picture(tmp_path: Path) -> None:
    experiment = small(
        groups=[1, 2, 4],
        malicious=[0.0, 0.25],
        epochs=2,
        clip=1.0,
        noise_multiplier=[0.0, 1.0],
        rules=["mean"],
    )
    names = [each.name for each in experiment.cells()]
    assert len(set(names)) == len(names) == 2 * 3 * 2
    result = run_cells(experiment, tmp_path, None, lambda *_: None)
    assert {line.label for line in lines(result)} == {
        "none",
        "none, noise 1",
        "sign-flip",
        "sign-flip, noise 1",
    }
    assert {len(line.rules["mean"]) for line in lines(result)} == {1}
    assert "| sign-flip, noise 1 | 25 % | 4 |" in markdown(result)
    assert is_trade(result)
    assert not is_map(result)
    assert draw_trade(result, tmp_path).stat().st_size > 1000
    assert not is_trade({"experiment": small(groups=[1, 2, 4]).model_dump()})
