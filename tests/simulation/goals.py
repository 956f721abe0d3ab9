"""What attackers are after besides breaking a rule, as numbers that are measured in a simulated run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from asyncfl.client import Client
from asyncfl.client.jobs import TrainAndProtect
from asyncfl.effects import Compute, Effect, Notify, Persist, Put, Send, Table
from asyncfl.identity import verify
from asyncfl.messages import Leave, Manifest, Relay, Settings, Stored, Upload
from asyncfl.replica import Replica
from asyncfl.replica.tasks import LEFT
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.network import Node
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import Outcome, run

DRAIN = 40.0
"""Virtual seconds that late uploads are given before anything is counted."""


class Watch:
    """Attends one run. Honest is who does not attack."""

    def __init__(self, scenario: Scenario) -> None:
        self.hostile = {attack.node for attack in scenario.attacks}
        self.manifests: dict[bytes, Manifest] = {}
        self.settings: list[Settings] = []
        """What honest clients trained with."""
        self.events: Counter[str] = Counter()
        """What honest nodes reported."""
        self.stored: dict[int, set[tuple[bytes, int]]] = defaultdict(set)
        """The (client, epoch) that each honest replica said STORED of."""
        self.most_locks = 0
        """LOCK requests that an honest replica worked on at a time."""
        self.most_held = 0
        """Unopened uploads of one hostile client at one honest replica."""
        self.furthest = 0
        """By how many epochs an upload that an honest replica vouched for was beyond its front."""
        self.latest = 0
        """By how many epochs an honest client trained behind all honest replicas' fronts."""

    def __call__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        before = simulation.network.before_effect

        def see(node: Node, effect: Effect) -> None:
            before(node, effect)
            if isinstance(effect, Send) and isinstance(effect.message, Upload | Relay):
                self.manifests[effect.message.manifest.digest()] = effect.message.manifest
            if node.name not in self.hostile:
                self._note(node, effect)

        simulation.network.before_effect = see

    def _note(self, node: Node, effect: Effect) -> None:
        if isinstance(node.machine, Replica):
            self.most_locks = max(self.most_locks, len(node.machine.locks.pending))
        if isinstance(effect, Notify):
            self.events[effect.event] += 1
        elif isinstance(effect, Compute) and isinstance(effect.job, TrainAndProtect):
            self.settings.append(effect.job.settings)
            fronts = [replica.context.inclusion.front for replica in self.replicas()]
            self.latest = max(self.latest, min(fronts) - effect.job.context.epoch)
        elif isinstance(effect, Persist) and isinstance(node.machine, Replica):
            self._note_writes(node.machine, effect)
        elif isinstance(effect, Send) and isinstance(effect.message, Stored):
            replica = self.simulation.federation.replica_index[node.key]
            self.stored[replica].add((effect.peer, effect.message.epoch))

    def _note_writes(self, replica: Replica, effect: Persist) -> None:
        hostile = {n.key for n in self.simulation.network.nodes.values() if n.name in self.hostile}
        held = Counter(record.manifest.core.client for record in replica.uploads.records.values())
        self.most_held = max([self.most_held, *(held[key] for key in hostile)])
        for write in effect.writes:
            if isinstance(write, Put) and write.table is Table.SEEN:
                epoch = int.from_bytes(write.key[32:], "big")
                self.furthest = max(self.furthest, epoch - replica.context.inclusion.front)

    def _honest(self) -> Iterator[Node]:
        return (node for node in self.simulation.network.nodes.values() if node.name not in self.hostile)

    def replicas(self) -> list[Replica]:
        return [node.machine for node in self._honest() if isinstance(node.machine, Replica)]

    def clients(self) -> list[Client]:
        return [node.machine for node in self._honest() if isinstance(node.machine, Client)]


@dataclass(frozen=True)
class Goal:
    """An attacker has succeeded where `measure` comes out at `least` or more."""

    what: str
    least: float
    measure: Callable[[Watch, Outcome], float]


def measured(scenario: Scenario, goal: Goal) -> tuple[float, Outcome]:
    """How far a run gets towards the goal."""
    watch = Watch(scenario)
    outcome = run(scenario, drain=DRAIN, attend=watch)
    return goal.measure(watch, outcome), outcome


def _stolen(watch: Watch, outcome: Outcome) -> float:
    thieves = {index for index in range(outcome.scenario.replicas) if f"replica-{index}" in watch.hostile}
    items = max((replica.context.ledger.items for replica in watch.replicas()), key=len)
    return sum(
        watch.manifests[member.manifest].core.coordinator not in thieves
        for item in items.values() if item.id.coordinator in thieves
        for member in item.members
    )  # fmt: skip


def _admitted(watch: Watch, outcome: Outcome) -> float:
    hostile = {node.key for node in watch.simulation.network.nodes.values() if node.name in watch.hostile}
    return max(
        sum(client in hostile for client, _ in replica.context.ledger.included)
        for replica in watch.replicas()
    )


def _unsigned_leaves(watch: Watch, outcome: Outcome) -> float:
    deployment = watch.simulation.federation.digest
    count = 0
    for node in watch.simulation.network.nodes.values():
        for key, value in node.durable[Table.META].items():
            if key.startswith(LEFT) and node.name not in watch.hostile:
                leave = Leave.decode(value)
                count += not verify(key[len(LEFT) :], Leave.KIND, deployment, leave.body(), leave.signature)
    return count  # fmt: skip


def _measured(watch: Watch, outcome: Outcome) -> float:
    return max(
        len(replica.context.inclusion.patience._times) - len(watch.stored[replica.context.index])
        for replica in watch.replicas()
    )


def _displacement(watch: Watch, outcome: Outcome) -> float:
    """L2 norm of what training has added to the model, in units of the clip for every epoch."""
    simulation = watch.simulation
    start = np.frombuffer(simulation.initial, dtype="<f4").astype(np.float64)
    norms = []
    for node in simulation.network.nodes.values():
        if isinstance(node.machine, Replica) and (latest := node.machine.models.latest) is not None:
            model = np.frombuffer(node.blobs.data[latest.model], dtype="<f4").astype(np.float64)
            norms.append(float(np.linalg.norm(model - start)))
    return max(norms) / outcome.scenario.epochs / simulation.parameters.clip


def _left_out(watch: Watch, outcome: Outcome) -> float:
    return 1 - outcome.sent / (len(watch.clients()) * outcome.scenario.epochs)


LOST = Goal("part of honest clients' uploads that is never opened", 0.4,
            lambda watch, outcome: 1 - outcome.included / max(1, outcome.sent))  # fmt: skip
LEFT_OUT = Goal("part of honest clients' epochs in which they trained nothing", 0.3, _left_out)
HOURS = Goal("seconds until the last honest client is done", 100.0, lambda watch, outcome: outcome.seconds)
PATIENCE = Goal("seconds that an honest client is patient for", 1000.0,
                lambda watch, outcome: max(client.context.fronts.patience for client in watch.clients()))  # fmt: skip
IMPATIENCE = Goal("times that honest clients turn away from a coordinator", 8,
                  lambda watch, outcome: watch.events["next_in_line"])  # fmt: skip
LEARNING_RATE = Goal("learning rate that an honest client trains with", 1e6,
                     lambda watch, outcome: max(each.learning_rate for each in watch.settings))  # fmt: skip
STOLEN = Goal("uploads of living coordinators that others have opened", 6, _stolen)
LOCKS = Goal("LOCK requests that a replica works on at a time", 100, lambda watch, outcome: watch.most_locks)
ADMITTED = Goal("uploads of attackers that are opened", 1, _admitted)
HELD = Goal("unopened uploads of one client at a replica", 25, lambda watch, outcome: watch.most_held)
AHEAD = Goal("epochs by which an upload vouched for is beyond the front", 3,
             lambda watch, outcome: watch.furthest)  # fmt: skip
BEHIND = Goal("epochs by which a client trains behind the front", 4, lambda watch, outcome: watch.latest)
DISPLACED = Goal("the model's displacement in clips an epoch", 2.0, _displacement)
MEASURED = Goal("times from TASK to STORED that a replica goes by, beyond one for each upload", 1, _measured)
LEAVES = Goal("LEAVEs on disk that their client has not signed", 1, _unsigned_leaves)
