"""Everything that one run starts from, equal for every method: data, initial model, speeds, judge."""

from __future__ import annotations

from dataclasses import dataclass

from asyncfl.schedule import Schedule
from node.experiment.configuration import Experiment, Run
from node.experiment.outcome import Judge, Outcome
from node.experiment.pace import Pace, PacedTrainer, StepClock
from node.experiment.population import make_speed, make_task
from node.training.workbench import Workbench


@dataclass(frozen=True)
class Scene:
    """One run with one seed; the method fills `outcome`."""

    experiment: Experiment
    run: Run
    seed: int
    workbench: Workbench
    schedule: Schedule
    pace: Pace
    clock: StepClock
    judge: Judge
    outcome: Outcome

    @classmethod
    def of(cls, experiment: Experiment, run: Run, seed: int) -> Scene:
        """Raises `ConfigurationError` when the task refuses."""
        clock, schedule = StepClock(), experiment.schedule(run)
        task = make_task(experiment, seed, clock)
        examples = [len(task.examples.client(client)[1]) for client in range(experiment.clients)]
        speed = make_speed(run.speeds or experiment.speeds, experiment.clients, seed)
        workbench = Workbench(task, seed=seed, device="cpu")
        return cls(
            experiment,
            run,
            seed,
            workbench,
            schedule,
            Pace(speed, schedule, examples),
            clock,
            Judge(task, workbench, experiment.classes),
            Outcome(
                run.name,
                run.method,
                seed,
                [0] * experiment.clients,
                experiment.present_throughout(),
                dimension=workbench.layout.dimension,
            ),
        )

    def trainers(self) -> dict[int, PacedTrainer]:
        trainers = self.workbench.trainers(range(self.experiment.clients))
        return {
            client: PacedTrainer(trainer, client, self.pace, self.clock)
            for client, trainer in trainers.items()
        }
