"""Everything that one run starts from, equal for every method: data, initial model, speeds, judge."""

from __future__ import annotations

from dataclasses import dataclass

from node.experiment.configuration import Experiment, Run
from node.experiment.outcome import Judge, Outcome
from node.experiment.population import Speed, make_speed, make_task
from node.training.workbench import Trainer, Workbench


@dataclass(frozen=True)
class Scene:
    """One run with one seed; the method fills `outcome`."""

    experiment: Experiment
    run: Run
    seed: int
    workbench: Workbench
    speed: Speed
    judge: Judge
    outcome: Outcome

    @classmethod
    def of(cls, experiment: Experiment, run: Run, seed: int) -> Scene:
        """Raises `ConfigurationError` when the task refuses."""
        task = make_task(experiment, seed)
        workbench = Workbench(task, seed=seed, device="cpu")
        return cls(
            experiment,
            run,
            seed,
            workbench,
            make_speed(run.speeds or experiment.speeds, experiment.clients, seed),
            Judge(task, workbench, experiment.classes),
            Outcome(run.name, run.method, seed, [0] * experiment.clients, experiment.present_throughout()),
        )

    def trainers(self) -> dict[int, Trainer]:
        return self.workbench.trainers(range(self.experiment.clients))
