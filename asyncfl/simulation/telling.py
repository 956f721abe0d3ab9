"""What a person is shown of a run that broke a rule: its last events, without what is said all the time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asyncfl.simulation.tracing import Line
from asyncfl.simulation.trial import Outcome

HEARTBEATS: Final = ("Ready", "Front", "Wait", "Convictions", "RosterRequest", "ItemRequest", "View")
"""Repeated by everybody, every second or so."""


def last_events(outcome: Outcome, count: int) -> list[Line]:
    """The last `count` lines before the rule was broken, or the end; what went to several at once is one line."""
    end = outcome.violations[0].time if outcome.violations else outcome.seconds
    told = (line for line in outcome.trace if line.time <= end and line.kind not in HEARTBEATS)
    return _joined(told)[-count:]


def _joined(lines: Iterable[Line]) -> list[Line]:
    joined: list[Line] = []
    targets: list[str] = []
    for line in lines:
        before = joined[-1] if joined else None
        same = before is not None and before._replace(target=None) == line._replace(target=None)
        if before is None or not same or line.target is None:
            joined.append(line)
            targets = [line.target or ""]
            continue
        targets.append(line.target)
        joined[-1] = before._replace(target=_together(targets))
    return joined


def _together(targets: list[str]) -> str:
    roles = sorted({name.split("-")[0] for name in targets})
    return f"{len(targets)} {roles[0]}s" if len(roles) == 1 else f"{len(targets)} nodes"


def command_of(outcome: Outcome, attack: str | None) -> str:
    """What runs the seed again."""
    scenario = outcome.scenario
    words = f"asyncfl simulate --seeds 1 --first-seed {scenario.seed} --replicas {scenario.replicas}"
    return f"{words} --byzantine {scenario.byzantine}{'' if attack is None else f' --attack {attack}'}"
