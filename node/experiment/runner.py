"""Every run of an experiment with every seed, and the facts that come out of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch

from node.experiment.baselines import run_fedavg, run_fedbuff
from node.experiment.comparison import compare
from node.experiment.configuration import Experiment, Run
from node.experiment.federated import run_asyncfl
from node.experiment.outcome import Outcome
from node.experiment.scene import Scene

_METHODS: Final[dict[str, Callable[[Scene], None]]] = {
    "asyncfl": run_asyncfl,
    "fedbuff": run_fedbuff,
    "fedavg": run_fedavg,
}


def run_experiment(experiment: Experiment, on_run: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The result, as plain JSON values. `on_run` is called with the facts of each run as it ends.

    The same file gives the same course of events again. Masks and noise are drawn anew: asyncfl's accuracies
    differ by an example now and then. `wall_seconds` and `processor_seconds` are the machine's.
    """
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    for seed in experiment.seeds:
        for run in experiment.run:
            if run.seeds is not None and seed not in run.seeds:
                continue
            facts = run_one(experiment, run, seed).facts(experiment)
            runs.append(facts)
            on_run(facts)
    window = experiment.parameters().window
    result: dict[str, Any] = {
        "experiment": experiment.model_dump(exclude_none=True),
        "window": window,
        "runs": runs,
    }
    if experiment.reference is not None:
        result["comparison"] = compare(runs, experiment.reference)
    return result


def run_one(experiment: Experiment, run: Run, seed: int) -> Outcome:
    """One run with one seed. Raises `ConfigurationError` when the task refuses."""
    started, worked = time.perf_counter(), time.process_time()
    scene = Scene.of(experiment, run, seed)
    _METHODS[run.method](scene)
    scene.outcome.wall_seconds = time.perf_counter() - started
    scene.outcome.processor_seconds = time.process_time() - worked
    return scene.outcome
