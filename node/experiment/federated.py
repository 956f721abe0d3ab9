"""asyncfl itself in an experiment: the real state machines, masks and openings on a virtual-time network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from asyncfl.client import Client
from asyncfl.client.context import State
from asyncfl.client.jobs import Trainer
from asyncfl.digest import content_digest
from asyncfl.effects import Table
from asyncfl.messages import Message, Ready, Settings, Upload, encode_message
from asyncfl.model import TrainingResult
from asyncfl.privacy.accountant import Mechanism, epsilon
from asyncfl.replica import Replica
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import Node
from asyncfl.simulation.randomness import Seeded
from node.experiment.configuration import Experiment
from node.experiment.outcome import LATE
from node.experiment.scene import Scene

OBSERVE_SECONDS: Final = 0.1
QUIET_SECONDS: Final = 15.0
"""A run by epochs is over when all clients rest and no ledger has grown for so long."""
SLOWEST_EPOCHS: Final = 20
"""A run by epochs is given up after so many times what the slowest client needs for all of its trainings."""


@dataclass(frozen=True)
class _Witness:
    """Passes a training on, and notes how many uploads the model it starts from contains."""

    trainer: Trainer
    client: int
    watch: _Watch

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        contained = self.watch.contained.get(content_digest(model))
        if contained is not None:
            self.watch.bases[self.client, epoch] = contained
        return self.trainer.train(model, settings, epoch)


class _Watch:
    """Looks at the running replicas ten times a (virtual) second."""

    def __init__(self, scene: Scene) -> None:
        self.experiment, self.judge, self.outcome = scene.experiment, scene.judge, scene.outcome
        self.contained: dict[bytes, int] = {}
        """Uploads in each model, by its digest."""
        self.bases: dict[tuple[int, int], int] = {}
        self.over = False
        self._seen: set[tuple[bytes, int]] = set()
        self._grown_at = 0.0
        self._judge_at = scene.experiment.evaluate_every
        self._judge_uploads = scene.experiment.evaluate_uploads or 0
        self._measured: set[bytes] = set()
        self.events: list[tuple[float, list[int]]] = []
        """At each look at accuracy, the time and how many privacy events each client has on disk."""

    def start(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.contained[content_digest(simulation.initial)] = 0
        self.number = {identity.public: i for i, identity in enumerate(simulation.client_ids)}
        self.outcome.points.append(self.judge.point(0.0, 0, simulation.initial))
        self.look()

    def look(self) -> None:
        network = self.simulation.network
        replicas = self.simulation.running_replicas()
        for replica in replicas:
            self._note_models(replica)
        if replicas:
            self._note_uploads(max(replicas, key=lambda replica: replica.context.ledger.entries))
            if self._is_judgement_due():
                self.judge_now()
        if self.experiment.epochs is not None and network.now - self._grown_at > QUIET_SECONDS:
            self.over = self.over or self._is_at_rest(replicas)
        network.after(OBSERVE_SECONDS, self.look)

    def _note_models(self, replica: Replica) -> None:
        for record in replica.models.records.values():
            if record.model and record.model not in self.contained:
                self.contained[record.model] = record.head.memberships

    def _note_uploads(self, replica: Replica) -> None:
        included = replica.context.ledger.included
        if len(included) <= len(self._seen):
            return
        new = included.keys() - self._seen
        self._seen |= new
        self._grown_at = self.simulation.network.now
        self.outcome.include([self.number[client] for client, _ in new])
        for client, epoch in new:
            base = self.bases.pop((self.number[client], epoch), None)
            if base is not None:
                self.outcome.staleness.append(len(self._seen) - base - 1)

    def measure(self, source: Node, target: Node, message: Message) -> Message:
        """Note what an upload costs on the wire, each once: its UPLOAD message, and the vector that is pulled."""
        if isinstance(message, Upload) and message.manifest.digest() not in self._measured:
            self._measured.add(message.manifest.digest())
            vector = source.blobs.read(message.manifest.core.upload)
            self.outcome.upload_bytes.append(len(encode_message(message)) + len(vector))
        return message

    def measure_without_inclusion(self, source: Node, target: Node, message: Message) -> Message:
        """Nobody waits for its last upload to be in the model: READY keeps silent about it."""
        message = self.measure(source, target, message)
        return message.model_copy(update={"uploaded": 0}) if isinstance(message, Ready) else message

    def _is_judgement_due(self) -> bool:
        step = self.experiment.evaluate_uploads
        if step is None:
            if self.simulation.network.now < self._judge_at:
                return False
            self._judge_at += self.experiment.evaluate_every
            return True
        best = self._best()
        if best is None:
            return False
        uploads = self.contained.get(best[1], 0)
        if uploads < self._judge_uploads:
            return False
        self._judge_uploads = (uploads // step + 1) * step
        return True

    def _best(self) -> tuple[bytes, bytes] | None:
        """The certified model with most entries: a replica that holds it (its key), and its digest."""
        certified = [
            (replica.models.latest.entries, replica.context.identity.public, replica.models.latest.model)
            for replica in self.simulation.running_replicas()
            if replica.models.latest is not None
        ]
        return max(certified)[1:] if certified else None

    def judge_now(self) -> None:
        """Judge the certified model with most entries."""
        best = self._best()
        if best is None:
            return
        nodes = [self.simulation.network.nodes[key] for key in self.number]
        self.events.append(
            (self.simulation.network.now, [len(node.durable[Table.PRIVACY]) for node in nodes])
        )
        replica, name = best
        model = self.simulation.network.nodes[replica].blobs.read(name)
        point = self.judge.point(self.simulation.network.now, self.contained.get(name, 0), model)
        self.outcome.points.append(point)
        target = self.experiment.target_accuracy
        self.over = self.over or (target is not None and point.accuracy >= target)

    def _is_at_rest(self, replicas: list[Replica]) -> bool:
        clients = [self.simulation.network.nodes[key].machine for key in self.number]
        if any(isinstance(client, Client) and client.state is not State.RESTING for client in clients):
            return False
        versions = {replica.context.ledger.version for replica in replicas}
        return len(versions) == 1 and all(
            replica.models.latest is not None
            and replica.models.latest.version in versions
            and not replica.opening.groups
            and not replica.coordination.own
            for replica in replicas
        )


def run_asyncfl(scene: Scene) -> None:
    """By epochs until everybody rests, or for the seconds of the file, or to its target."""
    experiment, workbench, outcome = scene.experiment, scene.workbench, scene.outcome
    speed = scene.pace.seconds
    trainers, watch = scene.trainers(), _Watch(scene)
    simulation = Simulation(
        experiment.parameters(scene.run),
        experiment.clients,
        seed=scene.seed,
        initial=workbench.initial,
        schedule=scene.schedule,
        trainer=lambda client: _Witness(trainers[client], client, watch),
        speed=speed,
        last_epoch=experiment.epochs,
        weights=workbench.layout.weights,
    )
    simulation.network.prepare = Seeded(scene.seed)
    simulation.network.on_message = watch.measure if scene.run.inclusion else watch.measure_without_inclusion
    _plan_events(experiment, simulation)
    watch.start(simulation)
    limit = experiment.seconds
    if limit is None:
        assert experiment.epochs is not None
        slowest = max(
            sum(speed(client, epoch) for epoch in range(1, experiment.epochs + 1))
            for client in range(experiment.clients)
        )
        limit = SLOWEST_EPOCHS * slowest + 600
    simulation.network.run(until=lambda: watch.over, seconds=limit)
    outcome.finished = experiment.epochs is None or watch.over
    if not (watch.over and experiment.target_accuracy is not None):
        watch.judge_now()
    nodes = [simulation.network.nodes[key] for key in watch.number]
    outcome.sent = sum(len(node.durable[Table.EPOCHS]) for node in nodes)
    outcome.virtual_seconds = simulation.network.now
    if simulation.parameters.noise_multiplier > 0:
        mechanism = Mechanism.of(simulation.parameters, simulation.federation.dimension)
        outcome.epsilons = [
            (at, [_spent(count, mechanism, experiment.delta) for count in events])
            for at, events in watch.events
            if at >= LATE * outcome.virtual_seconds
        ]


@cache
def _spent(uploads: int, mechanism: Mechanism, delta: float) -> float:
    """Clients with equally many uploads have spent the same; the accountant takes tenths of a second."""
    return epsilon(mechanism, uploads, delta)


def _plan_events(experiment: Experiment, simulation: Simulation) -> None:
    """Start everybody in time, and crash who is to crash."""
    network = simulation.network
    starts = {simulation.client_key(i): 0.0 for i in range(experiment.clients)}
    for join in experiment.late_join:
        starts.update((simulation.client_key(client), join.at) for client in join.clients)
    for j in range(experiment.replicas):
        network.start(simulation.replica_key(j))
    for key, at in starts.items():
        network.after(at, partial(network.start, key))
    for drop in experiment.drop_out:
        for client in drop.clients:
            network.after(drop.at, partial(network.crash, simulation.client_key(client)))
    for outage in experiment.dead_replica:
        key = simulation.replica_key(outage.replica)
        network.after(outage.start, partial(network.crash, key))
        if outage.end is not None:
            network.after(outage.end, partial(network.start, key))
