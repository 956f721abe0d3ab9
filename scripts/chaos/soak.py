"""A soak from start to judgement: the deployment under its plan, then calm, then what is left of it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from rich.console import Console

from chaos import remains
from chaos.deployment import ChaoticDeployment
from chaos.plan import Cast, Kind, draw
from chaos.soak_view import SoakView
from chaos.stage import Stage, Story
from chaos.verdict import Growth, judge, rate
from node.commands.model import newest_model
from node.deployment_files import DeploymentDirectory

SETTLE_SECONDS: Final = 120.0
"""For the honest replicas to agree, once nothing is done to them any more."""
ENTRY_BYTES: Final = 5 << 10
"""Of a replica's memory for each entry, which it remembers for ever: measured, see docs/results/soak.md."""
LEARNT: Final = 0.8
"""Least accuracy at the end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failures`: what did not hold, a sentence each. `settled_s`: from calm to agreement."""

    story: Story
    growths: tuple[Growth, ...]
    failures: tuple[str, ...]
    first_accuracy: float
    accuracy: float
    settled_s: float
    database_bytes_per_entry: float | None
    blob_bytes_per_entry: float | None

    @property
    def entries(self) -> int:
        return max((count for _, count in self.story.entries), default=0)

    @property
    def kills(self) -> int:
        """Processes that were killed and started again."""
        return sum(len(each.names) for _, _, each in self.story.happened if each.kind is Kind.KILL)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "failures": list(self.failures),
            "entries": self.entries,
            "kills": self.kills,
            "misfortunes": len(self.story.happened),
            "first_accuracy": self.first_accuracy,
            "accuracy": self.accuracy,
            "settled_s": round(self.settled_s, 2),
            "database_bytes_per_entry": self.database_bytes_per_entry,
            "blob_bytes_per_entry": self.blob_bytes_per_entry,
            "growths": [asdict(growth) for growth in self.growths],
            "lives": [
                {
                    "name": life.name,
                    "samples": [
                        [round(each.seconds, 1), each.memory, each.descriptors, each.threads, each.entries]
                        for each in life.samples
                    ],
                }
                for life in self.story.lives
            ],
            "stalls": [{"seconds": round(at, 1), "said": said} for said, at in self.story.stalls.items()],
            "happened": [
                {"began": round(began, 1), "ended": round(ended, 1), "what": str(misfortune)}
                for began, ended, misfortune in self.story.happened
            ],
        }


async def run(
    deployment: ChaoticDeployment, cast: Cast, *, seed: int, seconds: float, console: Console
) -> Outcome:
    """Play the plan of `seed` for `seconds`, let the replicas agree, end everything, and judge."""
    stage = Stage(deployment, cast)
    attackers = cast.liars + cast.malicious
    failures: list[str] = []
    await deployment.prepare()
    try:
        for name in deployment.children:
            if name not in attackers:  # these begin with the plan, which says how they attack
                stage.start(name)
        with SoakView(console, stage, seconds) as view:
            await stage.play(draw(seed, seconds, cast), seconds, view.show)
            settled, waiting = await _settle(stage, view)
            if waiting is not None:
                failures.append(
                    f"after {settled:.0f} s of calm the replicas do not agree: waited for {waiting}"
                )
            failures += await _end_replicas(stage)
            view.show()
    finally:
        await asyncio.to_thread(deployment.stop)
        await deployment.close()
    failures += [*stage.story.deaths, *_remains(deployment, attackers)]
    growths = _growths(stage, attackers)
    failures += [failure for growth in growths for failure in growth.failures]
    first, last = await asyncio.to_thread(_accuracies, deployment, cast.honest[0])
    if last < LEARNT:
        failures.append(f"accuracy went from {first:.3f} to {last:.3f} only; {LEARNT} was expected")
    return Outcome(
        stage.story,
        growths,
        tuple(failures),
        first,
        last,
        settled,
        _per_entry(stage, "database"),
        _per_entry(stage, "blobs"),
    )


async def _settle(stage: Stage, view: SoakView) -> tuple[float, str | None]:
    """All links fair and everybody up but the clients: how long until the replicas agreed, or what is missing."""
    deployment, story = stage.deployment, stage.story
    story.say("calm: links are fair, replicas up, clients stop")
    deployment.fabric.heal()
    for name in list(deployment.children):
        if name not in deployment.replicas and deployment.children[name].running:
            await stage.end(name)
    for name in stage.cast.honest:
        if not deployment.children[name].running:
            stage.start(name)
    began = story.seconds
    while (waiting := stage.waiting_for()) is not None and story.seconds - began < SETTLE_SECONDS:
        view.show()
        await asyncio.sleep(0.5)
    stage.measure(disk=True)
    return story.seconds - began, waiting


async def _end_replicas(stage: Stage) -> list[str]:
    failures = []
    for name in stage.deployment.replicas:
        child = stage.deployment.children[name]
        if child.running:
            await stage.end(name)
            if name in stage.cast.honest and child.returncode != 0:
                failures.append(f"{name} ended with {child.returncode}, not 0")
    return failures


def _remains(deployment: ChaoticDeployment, attackers: tuple[str, ...]) -> list[str]:
    """What stayed behind, and what honest processes complained of."""
    found = remains.processes(deployment.root)
    found += remains.listeners(port for _, port in deployment.replicas.values())
    found += remains.files(deployment.root)
    for name in deployment.children:
        if name not in attackers:
            found += remains.complaints(deployment.log(name), name)
    return found


def _growths(stage: Stage, attackers: tuple[str, ...]) -> tuple[Growth, ...]:
    judged = [
        judge(life, ENTRY_BYTES if life.role == "replica" else 0.0, rate(life.samples))
        for life in stage.story.lives
        if life.samples and life.name not in attackers
    ]
    return tuple(growth for growth in judged if growth is not None)


def _per_entry(stage: Stage, what: str) -> float | None:
    """Growth on the disks of the honest replicas, bytes for each entry, from a third of the run to its end."""
    found = []
    for name in stage.cast.honest:
        disks = stage.story.disks[name]
        first, last = disks[len(disks) // 3], disks[-1]
        if last.entries > first.entries:
            found.append((getattr(last, what) - getattr(first, what)) / (last.entries - first.entries))
    return median(found) if found else None


def _accuracies(deployment: ChaoticDeployment, replica: str) -> tuple[float, float]:
    """Of the initial model, and of the newest certified one that `replica` holds."""
    from node.training.loader import load_task
    from node.training.workbench import Workbench

    files = DeploymentDirectory(deployment.root / replica, deployment.operator.deployment)
    entry = files.deployment.task
    clients = len(files.deployment.first_clients)
    task = load_task(entry.factory, clients=clients, seed=entry.seed, options=entry.options)
    workbench = Workbench(task, seed=entry.seed, frozen_buffers=files.deployment.model.frozen_buffers)
    return workbench.evaluate(files.initial_model()), workbench.evaluate(newest_model(files).data)
