"""What a test asks of a process: die at a step towards the disk, find the disk full, or keep a list of its steps."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from asyncfl.client.context import EPOCH, PENDING, SEEN_ENTRIES, UPLOADED
from asyncfl.effects import Table
from asyncfl.replica.coordination import OWN
from asyncfl.replica.tasks import LEFT
from node.steps import CommitStep, FileStep, Observer, RowStep, Step, When

KINDS_OF_ROWS: Final = {
    Table.META: (EPOCH, SEEN_ENTRIES, PENDING, UPLOADED, LEFT),
    Table.GROUPS: (OWN,),
}
"""Tables whose rows are of several kinds, told apart by how their keys begin."""


@dataclass(frozen=True, slots=True)
class Fault:
    """At the `number`-th time (from 1) that `point` comes, `when` it is about to be taken or has been: SIGKILL.

    With `refusal`, an errno, the step is refused instead, and every later one of its name too. `steps` is a file to
    which the name of every step is written, once, when it has been taken.
    """

    point: str = ""
    when: When = When.BEFORE
    number: int = 1
    refusal: int = 0
    steps: str = ""

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def decode(cls, fields: dict[str, Any]) -> Fault:
        return cls(**{**fields, "when": When(fields["when"])})

    def observer(self) -> Observer:
        seen: Counter[tuple[str, When]] = Counter()
        lock = threading.Lock()

        def observe(when: When, step: Step) -> None:
            name = name_of(step)
            with lock:
                seen[name, when] += 1
                count = seen[name, when]
            if self.steps and when is When.AFTER and count == 1:
                with Path(self.steps).open("a") as file:
                    file.write(f"{name}\n")
            if name != self.point or when is not self.when or count < self.number:
                return
            if not self.refusal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.refusal, os.strerror(self.refusal))

        return observe


def name_of(step: Step) -> str:
    """What a step is called: `put locks`, `delete groups own:`, `commit`, `sync blob`."""
    match step:
        case RowStep(action, table, key):
            kind = next((kind for kind in KINDS_OF_ROWS.get(table, ()) if key.startswith(kind)), b"")
            return f"{action} {table} {kind.decode()}".strip()
        case CommitStep():
            return "commit"
        case FileStep(action, kind):
            return f"{action} {kind}"


FULL: Final = errno.ENOSPC
