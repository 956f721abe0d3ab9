"""Golden traces: what is said in four courses of events, in a form that a reader can check.

`python -m tests.simulation.golden_traces` writes tests/simulation/golden/*.txt anew after a change that is meant; read
the difference before it is committed. A file tells how many messages of each kind were sent, and in order what the
nodes said of themselves; digests and amounts of time are left out.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfl.effects import Notify
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import Crash, Fault, Partition, apply
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.tracing import Event, record

FOLDER: Final = Path(__file__).parent / "golden"
SLOW: Final = 6
"""The client whose first training takes `Course.first_training` seconds."""


@dataclass(frozen=True)
class Course:
    """A run of four replicas and eight clients, and what is to be seen in it."""

    shows: str
    epochs: int
    faults: tuple[Fault, ...] = ()
    first_training: float = 1.3


COURSES: Final = {
    "normal-course": Course("Nothing fails.", 2),
    "coordinator-killed": Course(
        "Replica 1 dies while clients train for it, and stays away for a minute: replica 2, the next in line, takes "
        "their uploads over (epoch 1, cell 1 and epoch 2, cell 0, with coordinator 2).",
        3, (Crash("replica-1", 2.45, 60.0),),
    ),
    "late-upload": Course(
        f"Client {SLOW} takes 20 seconds for its first epoch: the others go on to epoch 3, and its upload rides on a "
        "later group of its coordinator.",
        5, first_training=20.0,
    ),
    "absence": Course(
        "Replica 3 is cut off for half a minute, and catches up.", 3, (Partition(("replica-3",), 0.5, 30.0),),
    ),
}  # fmt: skip


def trace(name: str) -> str:
    """The golden file of one course."""
    course = COURSES[name]
    scenario = Scenario(7, 4, 1, 8, epochs=course.epochs, faults=course.faults)
    simulation = Simulation(scenario.parameters(), 8, seed=7, last_epoch=course.epochs)
    simulation.speed = lambda client, epoch: (
        course.first_training if (client, epoch) == (SLOW, 1) else 0.4 + 0.15 * client
    )
    network, events = simulation.network, deque[Event]()
    record(network, events)
    apply(network, course.faults)
    simulation.start()
    end = max((fault.end for fault in course.faults), default=0.0)

    def is_over() -> bool:
        machines = [simulation.client(number) for number in range(scenario.clients)]
        return network.now > end and all(machine.status(network.now)["done"] for machine in machines)

    assert network.run(until=is_over, seconds=300)
    network.run(seconds=10)
    counts = Counter(type(event.what).__name__ for event in events if event.target is not None)
    lines = [f"{name}: {course.shows}", "", "messages"]
    lines += [f"{count:7}  {kind}" for kind, count in sorted(counts.items())]
    lines += ["", "course"]
    lines += [f"{event.node:>11}  {_tell(event.what)}" for event in events if _is_told(event)]
    lines += ["", "uploads in entries of later epochs", *(_late(simulation) or ["       none"])]
    return "\n".join(lines) + "\n"


def _late(simulation: Simulation) -> list[str]:
    names = {node.key: node.name for node in simulation.network.nodes.values()}
    items = simulation.replica(1).context.ledger.items.values()
    return sorted(
        f"{names[member.client]:>11}  epoch={member.epoch} in the entry of epoch={item.id.epoch}, "
        f"cell={item.id.cell}, coordinator={item.id.coordinator}"
        for item in items
        for member in item.members
        if member.epoch < item.id.epoch
    )


def _is_told(event: Event) -> bool:
    return isinstance(event.what, Notify) and event.what.level != "debug"


def _tell(what: object) -> str:
    assert isinstance(what, Notify)
    plain = {key: value for key, value in what.fields.items() if isinstance(value, int) or key == "reason"}
    return f"{what.event} " + ", ".join(f"{key}={value}" for key, value in plain.items())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in COURSES:
        (FOLDER / f"{name}.txt").write_text(trace(name))
