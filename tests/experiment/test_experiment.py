"""Experiments: what their files may say, what a seed makes of them, and that the included ones run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from asyncfl.privacy.accountant import Mechanism, epsilon
from node.experiment.comparison import compare
from node.experiment.configuration import Distribution, Experiment, Partition, Speeds, read_experiment
from node.experiment.outcome import Outcome, Point, jain
from node.experiment.pace import StepClock, steps_within
from node.experiment.plots import draw_plots
from node.experiment.population import draw, make_speed, make_task, split
from node.experiment.runner import run_experiment, run_one
from node.experiment.scene import Scene

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
SLOW_FILES = {"heterogeneous", "parity-cifar10"}
"""Those like which there is another: heterogeneous-mnist, parity-mnist."""
RUN = '[[run]]\nname = "a"\n'


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(
        {"name": "x", "clients": 4, "epochs": 2, "run": [{"name": "a"}]} | changes
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nepoch = 3\n' + RUN, r"x.toml:2: epoch: unknown key; did you mean 'epochs'"),
        ('name = "x"\n' + RUN, "give either epochs or seconds"),
        ('name = "x"\nepochs = 3\nseconds = 3\n' + RUN, "give either epochs or seconds"),
        ('name = "x"\nepochs = 3\n', "run: this key is missing"),
        ('name = "x"\nepochs = 3\n' + RUN + RUN, "two runs have the same name"),
        ('name = "x"\nepochs = 3\n' + RUN + 'method = "sync"\n', "'asyncfl', 'fedbuff' or 'fedavg'"),
        ('name = "x"\nepochs = 3\n[[drop_out]]\nclients = "0-16"\nat = 3\n' + RUN, "there is no client 16"),
        (
            'name = "x"\nepochs = 3\n[[drop_out]]\nclients = "some"\nat = 3\n' + RUN,
            'numbers such as "0-19, 40"',
        ),
        ('name = "x"\nepochs = 3\n[[dead_replica]]\nreplica = 4\nstart = 0\n' + RUN, "there is no replica 4"),
        ('name = "x"\nepochs = 3\n[partition]\nclasses = [8]\n' + RUN, "classes and clients belong together"),
        (
            'name = "x"\nepochs = 3\n[speeds]\njitter = { kind = "gamma", sigma = 1 }\n' + RUN,
            "gamma takes shape",
        ),
        ('name = "x"\nepochs = 3\n[speeds]\nfactors = [1, 2]\n' + RUN, "must name 16 factors"),
        (
            'name = "x"\nepochs = 3\n' + RUN + "inclusion = false\nwindow = 3\n",
            "without inclusion there is no window",
        ),
        ('name = "x"\nepochs = 3\nreplicas = 3\n' + RUN, "n >= 3t\\+1 is required"),
        (
            'name = "x"\nepochs = 3\n[training]\ndecay = "step"\n' + RUN,
            "run 'a': decay = \"step\" takes decay_e",
        ),
        ('name = "x"\nepochs = 3\n[training]\nsecond = 2\n' + RUN, "did you mean 'seconds'"),
        ('name = "x"\nepochs = 3\nreference = "b"\n' + RUN, "reference 'b' is none of the runs: a"),
        ('name = "x"\nepochs = 3\n' + RUN + "seeds = [1]\n", "run 'a' has seeds that the experiment has not"),
        (
            'name = "x"\nepochs = 3\n' + RUN + 'method = "fedavg"\nclip = 1\n',
            "run 'a': clip is for method 'asyncfl' only",
        ),
        ("name =", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_experiment(file)


def test_reduced_replaces_keys_and_is_refused_where_the_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('name = "x"\nepochs = 30\n' + RUN + "[reduced]\nepochs = 3\n")
    assert (read_experiment(file).epochs, read_experiment(file, reduced=True).epochs) == (30, 3)
    file.write_text('name = "x"\nepochs = 30\n' + RUN)
    with pytest.raises(ConfigurationError, match=r"needs a table \[reduced\]"):
        read_experiment(file, reduced=True)


def test_factors_have_the_stated_distribution() -> None:
    rng = np.random.RandomState(0)
    logs = np.log(draw(Distribution(kind="log-normal", sigma=0.7), 20000, rng))
    assert abs(logs.mean()) < 0.02
    assert abs(logs.std() - 0.7) < 0.02
    gamma = draw(Distribution(kind="gamma", shape=4.0), 20000, rng)
    assert abs(gamma.mean() - 1) < 0.02
    assert abs(gamma.var() - 0.25) < 0.02
    even = np.sort(draw(Distribution(kind="even", ratio=20), 5, rng))
    assert even[-1] / even[0] == pytest.approx(20)
    assert np.ptp(np.diff(np.log(even))) < 1e-9


def test_slowness_persists_and_jitter_does_not() -> None:
    slow = Speeds.model_validate({"seconds": 3.0, "slow": [{"clients": "1-2", "factor": 20}]})
    speed = make_speed(slow, 4, seed=0)
    assert [speed(client, 7) for client in range(4)] == [3.0, 60.0, 60.0, 3.0]
    jitter = make_speed(Speeds(jitter=Distribution(kind="gamma", shape=2.0)), 4, seed=0)
    assert len({jitter(0, epoch) for epoch in range(10)}) == 10
    assert jitter(3, 5) == make_speed(Speeds(jitter=Distribution(kind="gamma", shape=2.0)), 4, seed=0)(3, 5)


def test_chosen_clients_alone_hold_the_chosen_classes() -> None:
    labels = np.arange(200) % 10
    parts = split(labels, 10, Partition(classes=[8, 9], clients=[2, 5]), seed=1)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(200))
    for client, part in enumerate(parts):
        assert (set(labels[part]) <= {8, 9}) == (client in (2, 5))
    assert {label for client in (2, 5) for label in labels[parts[client]]} == {8, 9}


def test_the_split_task_has_all_training_examples_once() -> None:
    task = make_task(experiment(partition={"classes": [3], "clients": [0]}), 0, time.monotonic)
    held = [task.examples.client(client)[1] for client in range(4)]
    assert sum(map(len, held)) == 1437
    assert set(held[0].tolist()) == {3}
    assert all(3 not in labels for labels in held[1:])


def facts(run: str, seed: int, curve: list[tuple[int, float]], **changes: Any) -> dict[str, Any]:
    """Of one run of 4 clients: (uploads, accuracy) at each look."""
    points = [Point(float(uploads), uploads, accuracy, None) for uploads, accuracy in curve]
    outcome = Outcome(run, "asyncfl", seed, [curve[-1][0] // 4] * 4, [0, 1, 2, 3], points, dimension=10)
    return outcome.facts(experiment(accuracies=[0.5, 0.95])) | {"upload_bytes": 40.0} | changes


def test_a_comparison_pairs_seeds_and_reads_accuracies_at_the_same_number_of_uploads() -> None:
    runs = [
        facts("mine", 0, [(0, 0.0), (40, 0.5), (76, 0.86)], upload_bytes=30.0),
        facts("theirs", 0, [(0, 0.1), (40, 0.6), (80, 1.0)]),
        facts("theirs", 1, [(0, 0.1), (80, 0.9)]),
        facts("mine", 1, [(0, 0.1), (80, 0.92)], epsilon=[2.0, 3.0, 1.0, 2.0]),
        facts("mine", 2, [(0, 0.1), (80, 0.2)]),
    ]
    theirs, mine = compare(runs, "theirs")["runs"]
    assert (theirs["run"], theirs["seeds"], theirs["pairs"]) == ("theirs", [0, 1], [])
    assert theirs["difference"] is None
    assert [pair["seed"] for pair in mine["pairs"]] == [0, 1]
    assert [pair["difference"] for pair in mine["pairs"]] == pytest.approx([-14, 2])
    assert (mine["difference"], mine["standard_error"]) == pytest.approx((-6, 8))
    # From 57 to 76 uploads both of the first pair rise by 0.01 an upload: always 0.1 apart.
    assert mine["pairs"][0]["late_difference"] == pytest.approx(-10)
    assert mine["pairs"][1]["late_difference"] == pytest.approx(2 * 0.875)
    assert theirs["epochs_to"]["0.5"] == pytest.approx((32 + 40) / 2 / 4)
    assert mine["epochs_to"] == {"0.5": None, "0.95": None}
    assert (mine["upload_bytes"], mine["float32_bytes"]) == (pytest.approx(110 / 3), 40)
    assert (mine["epsilon"], theirs["epsilon"]) == (3.0, None)


def test_accuracy_is_looked_at_by_uploads_and_bytes_are_those_sent() -> None:
    plan = experiment(epochs=4, evaluate_uploads=8, accuracies=[0.5])
    for method, exact in (("asyncfl", False), ("fedavg", True)):
        outcome = run_one(plan, plan.run[0].model_copy(update={"method": method}), 0)
        looks = [point.uploads for point in outcome.points]
        assert looks[0] == 0
        assert looks[-1] == 16
        if exact:
            assert looks[:3] == [0, 8, 16]
        else:
            assert 8 <= looks[1] < 16
        (size,) = set(outcome.upload_bytes)
        parameters = plan.parameters()
        least = 4 * 4810 if exact else parameters.upload_bytes(4810)
        assert least <= size <= least + (0 if exact else 20_000)
        assert len(outcome.upload_bytes) == 16


def test_noise_has_its_epsilon_and_costs_accuracy() -> None:
    plan = experiment(epochs=3, cell_size=4)
    quiet = run_one(plan, plan.run[0], 0)
    loud = run_one(plan, plan.run[0].model_copy(update={"noise_multiplier": 1.0}), 0)
    assert quiet.epsilon is None
    parameters = plan.parameters(plan.run[0].model_copy(update={"noise_multiplier": 1.0}))
    assert loud.epsilon == [epsilon(Mechanism.of(parameters, 4810), 3, 1e-5)] * 4
    assert loud.points[-1].accuracy < quiet.points[-1].accuracy


def test_an_archive_that_is_not_there_is_named_with_what_makes_it() -> None:
    file = next(file for file in FILES if file.stem == "parity-mnist")
    plan = read_experiment(file)
    with pytest.raises(ConfigurationError, match=r"make_archive\.py FOLDER nowhere/mnist\.npz"):
        run_one(plan.model_copy(update={"task": "npz:nowhere/mnist.npz"}), plan.run[0], 0)


def test_jains_index() -> None:
    assert jain([5, 5, 5]) == 1
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) is None


def test_fedavg_waits_for_the_slowest_and_fedbuff_for_nobody() -> None:
    speeds = {"seconds": 1.0, "slow": [{"clients": [0], "factor": 10}]}
    plan = experiment(epochs=None, seconds=50.0, speeds=speeds, evaluate_every=25.0)
    wait = run_one(plan, plan.run[0].model_copy(update={"method": "fedavg"}), 0)
    assert wait.inclusion == [4, 4, 4, 4]
    assert set(wait.staleness) == {3}
    free = run_one(plan, plan.run[0].model_copy(update={"method": "fedbuff", "buffer": 1}), 0)
    assert free.inclusion == [4, 47, 47, 47]
    assert max(free.staleness) > 25
    assert free.points[-1].accuracy > wait.points[-1].accuracy > 0.3


def budgeted(**changes: Any) -> Experiment:
    """Client 0 is ten times slower: 20 steps of 1 s where the others' take 0.1 s."""
    speeds = {"seconds": 2.0, "slow": [{"clients": [0], "factor": 10}]}
    return experiment(speeds=speeds, **changes)


@pytest.mark.parametrize(
    ("training", "slow", "fast"),
    [
        ({}, (20, 20.0), (20, 2.0)),
        ({"seconds": 3.0}, (3, 3.0), (20, 2.0)),
        ({"seconds": 2.5}, (3, 3.0), (20, 2.0)),
        ({"seconds": 0.5}, (1, 1.0), (5, 0.5)),
        ({"seconds": 1.3}, (2, 2.0), (13, 1.3)),
        ({"seconds": 3.0, "most_steps": 2}, (2, 2.0), (2, 0.2)),
        ({"seconds": 3.0, "changes": [{"epoch": 2, "local_steps": 40}]}, (3, 3.0), (30, 3.0)),
        ({"changes": [{"epoch": 2, "local_steps": 40}]}, (40, 40.0), (40, 4.0)),
    ],
)
def test_a_budget_shortens_a_training_in_steps_and_in_virtual_time_alike(
    training: dict[str, Any], slow: tuple[int, float], fast: tuple[int, float]
) -> None:
    plan = budgeted(run=[{"name": "a", "training": training}])
    scene = Scene.of(plan, plan.run[0], 0)
    trainers = scene.trainers()
    for client, (steps, seconds) in ((0, slow), (1, fast)):
        result = trainers[client].train(scene.workbench.initial, scene.schedule.settings_at(2), 2)
        assert result.steps == steps
        assert scene.pace.seconds(client, 2) == pytest.approx(seconds)


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.1, 2.3])
def test_steps_and_virtual_time_agree_to_the_last_bit_of_any_speed(seconds: float) -> None:
    rng = np.random.default_rng(7)
    for step in (seconds / k * (1 + d) for k in range(1, 40) for d in (-2e-16, 0.0, 2e-16)):
        wanted = Settings(learning_rate=0.1, local_steps=50, batch_size=1, seconds=seconds)
        clock, done = StepClock(), 0
        clock.begin(step)
        started = clock()
        while done < 50:
            done += 1
            if clock() - started >= seconds:
                break
        assert steps_within(50, step, wanted) == done
    assert (
        steps_within(50, float(rng.uniform(1, 2)), Settings(learning_rate=0, local_steps=50, batch_size=1))
        == 50
    )


def test_without_inclusion_nobody_waits_for_a_slow_client() -> None:
    speeds = {"seconds": 1.0, "slow": [{"clients": [0], "factor": 8}]}
    runs = [{"name": "on"}, {"name": "off", "inclusion": False}]
    plan = experiment(clients=6, epochs=None, seconds=24.0, evaluate_every=24.0, speeds=speeds, run=runs)
    on, off = (run_one(plan, run, 0) for run in plan.run)
    assert on.largest_difference <= 2 + 3
    assert off.largest_difference > 6
    assert min(off.inclusion[1:]) > 2 * max(on.inclusion[1:])


def test_epsilon_is_told_of_every_client_and_follows_its_uploads() -> None:
    drop_out = [{"clients": [3], "at": 3.0}]
    plan = experiment(
        clients=6,
        epochs=4,
        speeds={"seconds": 1.0},
        drop_out=drop_out,
        run=[{"name": "a", "noise_multiplier": 1.0}],
    )
    facts = run_one(plan, plan.run[0], 0).facts(plan)
    mechanism = Mechanism.of(plan.parameters(plan.run[0]), facts["dimension"])
    assert facts["present_throughout"] == [0, 1, 2, 4, 5]
    for client in facts["present_throughout"]:
        assert facts["epsilon"][client] == pytest.approx(epsilon(mechanism, 4, plan.delta))
    assert facts["epsilon"][3] in [pytest.approx(epsilon(mechanism, n, plan.delta)) for n in (1, 2, 3)]
    assert facts["epsilon_spread"] == 0 <= facts["late_epsilon_spread"] < 0.6
    quiet = run_one(plan, plan.run[0].model_copy(update={"noise_multiplier": 0.0}), 0).facts(plan)
    assert quiet["epsilon"] is quiet["epsilon_spread"] is quiet["late_epsilon_spread"] is None


@pytest.mark.slow
def test_balance_holds_what_is_said_of_it() -> None:
    plan = read_experiment(next(file for file in FILES if file.stem == "balance"))
    facts = run_one(plan, plan.run[0], 0).facts(plan)
    window = plan.parameters(plan.run[0]).window
    assert facts["largest_difference"] <= window + 3
    assert facts["epsilon_spread"] <= 0.05
    assert facts["jain_present_throughout"] > 0.999


def test_with_a_budget_a_slow_client_takes_part_as_often_as_the_others_do() -> None:
    runs = [
        {"name": f"{method} {budget}", "method": method, "training": {"seconds": budget}}
        for method in ("asyncfl", "fedavg")
        for budget in (0.0, 2.0)
    ]
    plan = budgeted(epochs=None, seconds=45.0, evaluate_every=45.0, run=runs)
    counts = {run.name: run_one(plan, run, 0).inclusion for run in plan.run}
    for method in ("asyncfl", "fedavg"):
        without, within = counts[f"{method} 0.0"], counts[f"{method} 2.0"]
        assert within[0] >= 3 * without[0], counts
        assert within[0] >= 0.8 * within[1], counts
    assert counts["fedavg 2.0"][1] >= 4 * counts["fedavg 0.0"][1], "no barrier any more"


def test_who_drops_out_or_joins_late_takes_part_in_its_time_only() -> None:
    events = {"drop_out": [{"clients": [0], "at": 4.5}], "late_join": [{"clients": [1], "at": 4.5}]}
    plan = experiment(epochs=None, seconds=11.0, speeds={"seconds": 1.0}, **events)
    for method, early, late in (("fedavg", 4, 5), ("fedbuff", 4, 6)):
        outcome = run_one(plan, plan.run[0].model_copy(update={"method": method, "buffer": 1}), 0)
        assert outcome.inclusion == [early, late, 10, 10]
        assert outcome.present == [2, 3]
        assert outcome.largest_difference <= 1
    outcome = run_one(experiment(clients=6, epochs=3, speeds={"seconds": 1.0}, **events), plan.run[0], 0)
    assert outcome.finished
    assert outcome.inclusion[0] < outcome.inclusion[2] == 3


def test_a_seed_gives_the_same_run_again() -> None:
    plan = experiment(epochs=2)
    first, again = (run_one(plan, plan.run[0], 3) for _ in range(2))
    assert first.points == again.points
    assert first.staleness == again.staleness
    assert first.inclusion == again.inclusion == [2, 2, 2, 2]
    assert run_one(plan, plan.run[0], 4).points != first.points


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=pytest.mark.slow if file.stem in SLOW_FILES else (), id=file.stem)
        for file in FILES
    ],
)
def test_an_included_experiment_runs_reduced(file: Path, tmp_path: Path) -> None:
    full, plan = read_experiment(file), read_experiment(file, reduced=True)
    assert full.name == file.stem
    told: list[dict[str, Any]] = []
    result = run_experiment(plan, told.append)
    assert [run["run"] for run in told] == [run.name for run in plan.run]
    for run in result["runs"]:
        assert run["uploads"]["included"] == sum(run["inclusion"]) <= run["uploads"]["sent"]
        assert run["finished"]
        if run["method"] == "asyncfl":
            assert run["best_accuracy"] > 0.3
            assert run["staleness"]["max"] > 0
    if file.stem == "balance":
        assert result["runs"][0]["largest_difference"] <= result["window"] + 3
        noisy = result["runs"][0]
        assert noisy["epsilon_spread"] <= 0.05
        assert {client for client in range(16) if noisy["epsilon"][client] < max(noisy["epsilon"])} == {
            4,
            7,
            9,
            14,
        }
    if plan.reference is not None:
        reference, *others = result["comparison"]["runs"]
        assert (reference["run"], reference["difference"]) == (plan.reference, None)
        assert {run["run"] for run in others} == {run.name for run in plan.run} - {plan.reference}
        for run in others:
            assert [pair["seed"] for pair in run["pairs"]] == plan.seeds
    assert (tmp_path / "comparison.png" in draw_plots(result, tmp_path)) == (plan.reference is not None)
    assert (tmp_path / "target.png").exists() == (plan.target_accuracy is not None)
    assert (tmp_path / "epsilon.png").exists() == any(run["epsilon"] for run in result["runs"])
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
