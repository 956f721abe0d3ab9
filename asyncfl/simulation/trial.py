"""One simulated run, from a scenario to what the observer says of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from asyncfl.simulation.attackers import corrupt
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.disclosures import Violation
from asyncfl.simulation.faults import Rollback, RosterChange, apply
from asyncfl.simulation.observer import Observer
from asyncfl.simulation.progress import Progress
from asyncfl.simulation.rollbacks import arrange_rollbacks
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.sharing import Shared
from asyncfl.simulation.tracing import Event, Line, record
from asyncfl.simulation.turnover import arrange

LIMIT: Final = 400.0
"""Virtual seconds after the last fault within which every honest client must be done, or longer with many epochs:"""
EPOCH_LIMIT: Final = 40.0
"""for each of them. A hoarding replica, a client that feigns slowness and slow links took 22 (seed 2101582)."""
DRAIN: Final = 60.0
"""Virtual seconds within which honest replicas must then agree, and have opened and certified what there is."""
TRACE_LENGTH: Final = 600


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `trace` are the last events before its end."""

    scenario: Scenario
    violations: tuple[Violation, ...]
    stalled: str | None
    entries: int
    included: int
    sent: int
    events: int
    seconds: float
    trace: tuple[Line, ...] = field(repr=False)

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
    seeded, shared = network.prepare, Shared()
    network.prepare = lambda node, job: shared.prepare(seeded(node, job))
    changes = [fault for fault in scenario.faults if isinstance(fault, RosterChange)]
    liars = {attack.node for attack in scenario.attacks}
    arrange(simulation, changes, hostile=liars)
    rollbacks = [fault for fault in scenario.faults if isinstance(fault, Rollback)]
    arrange_rollbacks(simulation, rollbacks, hostile=liars)
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
    progress = Progress(simulation, hostile)

    def is_over() -> bool:
        return bool(observer.violations) or (
            network.now >= quiet and all(map(progress.is_done, progress.clients))
        )

    def is_settled() -> bool:
        return bool(observer.violations) or progress.unsettled() is None

    quiet = max((fault.end for fault in scenario.faults), default=0.0)
    stalled = None
    if not _run(simulation, is_over, quiet + max(LIMIT, EPOCH_LIMIT * scenario.epochs)):
        stalled = progress.late()
    elif not _run(simulation, is_settled, DRAIN):
        stalled = progress.unsettled()
    ended, names = network.now, {key: node.name for key, node in network.nodes.items()}
    if drain and stalled is None and not observer.violations:
        network.run(seconds=drain)
    observer.check_knowledge()
    observer.check_models()
    return Outcome(
        scenario, tuple(observer.violations), stalled, progress.entries, progress.included, progress.sent,
        network.delivered, ended, tuple(event.line(names) for event in trace),
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
