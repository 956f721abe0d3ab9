"""One simulated run, from a scenario to what the observer says of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from asyncfl.effects import Table
from asyncfl.replica import Replica
from asyncfl.simulation.attackers import corrupt
from asyncfl.simulation.deployment import Simulation, running_replica
from asyncfl.simulation.faults import RosterChange, apply
from asyncfl.simulation.network import Node
from asyncfl.simulation.observer import Observer, Violation
from asyncfl.simulation.randomness import Seeded
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.sharing import Shared
from asyncfl.simulation.tracing import Event, record
from asyncfl.simulation.turnover import arrange, is_enrolled

LIMIT: Final = 400.0
"""Virtual seconds after the last fault within which every honest client must be done."""
DRAIN: Final = 60.0
"""Virtual seconds within which honest replicas must then agree."""
TRACE_LENGTH: Final = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `trace` are the last events before its end, one line each."""

    scenario: Scenario
    violations: tuple[Violation, ...]
    stalled: str | None
    entries: int
    included: int
    sent: int
    events: int
    seconds: float
    trace: tuple[str, ...] = field(repr=False)

    @property
    def kind(self) -> str | None:
        """Which rule was broken first: S1 to S4, L (nothing moved any more), or None."""
        if self.violations:
            return self.violations[0].rule
        return None if self.stalled is None else "L"


def run(
    scenario: Scenario,
    *,
    drain: float = 0.0,
    attend: Callable[[Simulation], None] = lambda simulation: None,
) -> Outcome:
    """Run `scenario` to its end, or to the first violation; then for `drain` virtual seconds, for late uploads.

    `attend` is shown the deployment before anything starts: whoever wants to see more than the outcome.
    """
    simulation = Simulation(
        scenario.parameters(), scenario.clients, seed=scenario.seed, last_epoch=scenario.epochs
    )
    network = simulation.network
    network.latency, network.tick_seconds = scenario.latency, 0.2
    seeded, shared = Seeded(scenario.seed), Shared()
    network.prepare = lambda node, job: shared.prepare(seeded(node, job))
    changes = [fault for fault in scenario.faults if isinstance(fault, RosterChange)]
    arrange(simulation, changes, hostile={attack.node for attack in scenario.attacks})
    everybody = len(simulation.client_ids)
    speeds = np.random.default_rng([scenario.seed, 1]).uniform(0.2, 2.0, everybody)
    simulation.speed = lambda client, epoch: float(speeds[client])
    corrupt(simulation, scenario.attacks)
    attend(simulation)
    keys = {node.name: node.key for node in network.nodes.values()}
    hostile = {keys[attack.node] for attack in scenario.attacks}
    trace: deque[Event] = deque(maxlen=TRACE_LENGTH)
    record(network, trace)
    observer = Observer(simulation, hostile)
    apply(network, scenario.faults)
    simulation.start()
    clients = [key for key in (i.public for i in simulation.client_ids) if key not in hostile]
    replicas = [key for key in simulation.federation.replica_keys if key not in hostile]

    def is_done(key: bytes) -> bool:
        machine = network.nodes[key].machine
        if machine is None:
            return not is_enrolled(simulation, key)
        return bool(machine.status(network.now)["done"])

    def is_over() -> bool:
        return bool(observer.violations) or (all(map(is_done, clients)) and network.now >= quiet)

    def agree() -> bool:
        machines = running()
        versions = {machine.context.version for machine in machines}
        return bool(observer.violations) or (len(machines) == len(replicas) and len(versions) == 1)

    def running() -> list[Replica]:
        machines = (running_replica(network.nodes[key]) for key in replicas)
        return [machine for machine in machines if machine is not None]

    def unopened() -> list[str]:
        """Groups that n-t replicas have locked and that an honest replica has not in its ledger."""
        waiting = [group for machine in running() for group in machine.opening.groups]
        return [f"{group.epoch}/{group.cell}/{group.coordinator}/{group.part}" for group in waiting]

    def is_settled() -> bool:
        return agree() and (bool(observer.violations) or not unopened())

    quiet = max((fault.end for fault in scenario.faults), default=0.0)
    stalled = None
    if not _run(simulation, is_over, quiet + LIMIT):
        late = [network.nodes[key] for key in clients if not is_done(key)]
        stalled = "; ".join(_describe(node, network.now) for node in late[:4])
    elif not _run(simulation, is_settled, DRAIN):
        stalled = (
            f"locked groups never open: {', '.join(sorted(set(unopened())))}"
            if agree()
            else "honest replicas hold different entries for ever"
        )
    ended = network.now
    if drain and stalled is None and not observer.violations:
        network.run(seconds=drain)
    observer.check_knowledge()
    observer.check_models()
    largest = max((machine.context.ledger for machine in running()), key=lambda ledger: ledger.entries)
    if stalled is None and not largest.entries:
        stalled = "no group was ever opened"
    sent = sum(len(network.nodes[key].durable[Table.PRIVACY]) for key in clients)
    included = sum(largest.counts.get(key, 0) for key in clients)
    return Outcome(
        scenario, tuple(observer.violations), stalled, largest.entries, included, sent, network.delivered,
        ended, tuple(map(str, trace)),
    )  # fmt: skip


def _run(simulation: Simulation, until: Callable[[], bool], seconds: float) -> bool:
    """Advance in steps: the conditions are too costly to check after every event."""
    network = simulation.network
    deadline = network.now + seconds
    while network.now < deadline:
        if until():
            return True
        network.run(seconds=min(0.5, deadline - network.now))
    return until()


def _describe(node: Node, now: float) -> str:
    if node.machine is None:
        return f"{node.name} is down"
    status = node.machine.status(now)
    return f"{node.name} at epoch {status['epoch']}: {status['waiting_for']}"
