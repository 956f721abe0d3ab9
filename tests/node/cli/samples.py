"""Statuses and records as a run shows them, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from node.supervisor.plan import Action
from node.supervisor.record import AccuracyPoint, Event, Record, Stage
from node.supervisor.watch import Certified, ClientView, Phase, ReplicaView, Snapshot

VERSION = "aa" * 32
MODEL = "bb" * 32


def replica(name: str = "replica-0", phase: Phase = Phase.UP, **changes: Any) -> ReplicaView:
    values: dict[str, Any] = {
        "entries": 12,
        "epoch": 3,
        "version": VERSION,
        "certified": Certified(VERSION, 12, MODEL),
        "inclusion": {"01" * 32: 3, "02" * 32: 2},
        "peers": 3,
        "clients": 2,
        "bytes_in": 2_500_000,
        "bytes_out": 1200,
        **changes,
    }
    return ReplicaView(name, phase, **values)


def snapshot(*replicas: ReplicaView, **changes: Any) -> Snapshot:
    clients = (
        ClientView("client-0", "resting", 4, 3, True, None, 10, 4000),
        ClientView("client-1", "waiting", 3, 2, False, "replica 1 to answer READY(3)", 10, 2000),
    )
    return Snapshot(
        replicas or tuple(replica(f"replica-{i}") for i in range(4)), changes.get("clients", clients)
    )


def record() -> Record:
    """Replica 2 killed at 5 s with 4 entries, back at 9 s with 8; 12 entries and accuracy 0.95 at the end."""
    made = Record("example", epochs=3, stage=Stage.TRAINING)
    empty = snapshot(*(replica(f"replica-{i}", entries=0, epoch=0) for i in range(4)), clients=())
    made.observe(0.0, empty)
    for second in range(1, 13):
        made.observe(float(second), snapshot(*(replica(f"replica-{i}", entries=second) for i in range(4))))
    made.events = [
        Event(5.0, Action.KILL, "replica-2", 4, 1),
        Event(9.0, Action.RESTART, "replica-2", 8, 2),
    ]
    made.accuracies = [AccuracyPoint(2.0, 2, 0.4), AccuracyPoint(6.0, 6, 0.9), AccuracyPoint(12.0, 12, 0.95)]
    made.accuracy, made.baseline, made.trained = 0.95, 0.96, 12.0
    made.final = Certified(VERSION, 12, MODEL)
    made.stage = Stage.DONE
    return made
