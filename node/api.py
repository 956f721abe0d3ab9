"""The Python entry, `asyncfl.run`: a whole deployment on this machine, for scripts and notebooks.

As `asyncfl init` and `asyncfl up`: replicas and clients are processes of their own. Nothing here uses an event
loop or multiprocessing: it works where a loop is running, and needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from asyncfl.errors import ConfigurationError
from node.commands.supervise import CLIENT_PROCESSES, MODEL_FILE, result_folder, store_results
from node.deployment_creation import NewDeployment, create_deployment
from node.supervisor.live import PlainProgress
from node.supervisor.plan import ScriptedPlan
from node.supervisor.record import Record
from node.supervisor.result import Requirements, judge
from node.supervisor.run import Run, RunOptions


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave. `accuracy` in [0, 1], None when the run failed before it was measured."""

    ok: bool
    """Whether every check passed; `result["failures"]` has a sentence for each that did not."""
    accuracy: float | None
    baseline_accuracy: float | None
    """Of FedAvg in one process, when that was asked for."""
    result: dict[str, Any]
    """As `asyncfl up --json` writes it; docs/reference/commands.md names the keys."""
    model: Path
    """The final model as safetensors: the full state dict. Absent when `accuracy` is None."""
    directory: Path
    """The deployment, with its keys. A temporary one is left to the caller, who may delete it."""


def run(
    task: str = "digits",
    *,
    clients: int = 16,
    replicas: int = 4,
    byzantine: int = 1,
    epochs: int = 20,
    directory: str | os.PathLike[str] | None = None,
    seed: int = 0,
    task_options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    stop: Mapping[str, Any] | None = None,
    client_processes: int | None = None,
    baseline: bool = False,
    progress: bool = True,
) -> Result:
    """Make a deployment, run it up to `epochs`, and return the outcome. Blocks until all is done.

    `task`: `digits`, `npz:PATH` or `module:factory`; the module must be found from the current directory, on
    PYTHONPATH or among the installed ones, because other processes import it. `directory`: absent or empty
    (None: a new temporary one). `training`, `parameters` and `stop` have
    any keys of these sections; what they leave out suits the task. `client_processes` (None: at most 4) share the
    clients. `baseline`: also train FedAvg. `progress`: lines on standard error.

    A failed check is in the result; mistakes and broken processes are raised as `asyncfl.errors.AsyncflError`
    (`ConfigurationError`, `StorageError`, ...). An interrupt stops every process first.
    """
    if epochs < 1:
        raise ConfigurationError(f"epochs={epochs}: at least one is needed")
    if clients < 1:
        raise ConfigurationError(f"clients={clients}: at least one is needed")
    processes = min(CLIENT_PROCESSES, clients) if client_processes is None else client_processes
    if not 1 <= processes <= clients:
        raise ConfigurationError(f"client_processes={client_processes}: 1 to {clients} can share the clients")
    wanted = NewDeployment(
        replicas=replicas,
        clients=clients,
        byzantine=byzantine,
        task=task,
        seed=seed,
        task_options=task_options or {},
        parameters=parameters or {},
        training=training or {},
        stop=stop or {},
    )
    root = Path(tempfile.mkdtemp(prefix="asyncfl-")) if directory is None else Path(directory)
    try:
        files = create_deployment(root, wanted)
    except BaseException:
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)
        raise
    folder = result_folder(files)
    options = RunOptions(
        epochs=epochs, client_processes=processes, plan=ScriptedPlan([], []), baseline=baseline
    )
    view = PlainProgress(Console(stderr=True, highlight=False)) if progress else _Unseen()
    record = Run(files, options, view).execute(folder / MODEL_FILE)
    record.failures += judge(record, Requirements())
    result, _ = store_results(files, record)
    return Result(
        ok=not record.failures,
        accuracy=record.accuracy,
        baseline_accuracy=record.baseline,
        result=result,
        model=folder / MODEL_FILE,
        directory=root,
    )


class _Unseen:
    """A view that shows nothing."""

    def update(self, record: Record) -> None:
        pass

    def say(self, record: Record, text: str) -> None:
        pass
