"""Which nodes of a run misbehave on purpose; needs the extra (misbehaviour/README.md) and a deployment for drills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Drill:
    """What nodes do, by their names: attacks as `asyncfl node --misbehave` takes them. They have each other's keys."""

    misbehaving: Mapping[str, str] = field(default_factory=dict)

    def words(self, name: str) -> list[str]:
        """What the command line of node `name` says more than that of an honest one."""
        if name not in self.misbehaving:
            return []
        others = [other for other in self.misbehaving if other != name]
        return [
            "--misbehave",
            self.misbehaving[name],
            *(word for other in others for word in ("--colluder", other)),
        ]
