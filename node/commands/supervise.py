"""What `up`, `demo` and the scripts share: run under a view, judge, write the results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.privacy.collusion import Collusion
from node.commands.common import ExitCode, messages, write_json
from node.deployment_files import DeploymentDirectory
from node.supervisor.drill import Drill
from node.supervisor.live import LivePage, PlainProgress
from node.supervisor.plan import Plan
from node.supervisor.record import Record
from node.supervisor.report import report
from node.supervisor.result import Requirements, judge, result_of
from node.supervisor.run import Run, RunOptions
from node.whole_files import write_whole

RESULT_FOLDER: Final = "result"
MODEL_FILE: Final = "model.safetensors"
"""The final model, in that folder."""
CLIENT_PROCESSES: Final = 4
"""Unless the user says otherwise. More take longer to start: each imports torch."""


def supervise(
    files: DeploymentDirectory,
    *,
    epochs: int,
    client_processes: int | None,
    plan: Plan,
    baseline: bool = True,
    requirements: Requirements | None = None,
    json: Path | None = None,
) -> None:
    """Run the deployment and write DIR/result; ends the program with code 1 when a check failed."""
    _warn_of_unsent(files)
    record = watched_run(
        files,
        epochs=epochs,
        client_processes=client_processes,
        plan=plan,
        baseline=baseline,
        requirements=requirements,
    )
    write_results(files, record, json=json)
    _warn_of_unsent(files)
    if record.failures:
        raise typer.Exit(int(ExitCode.FAILED))


def _warn_of_unsent(files: DeploymentDirectory) -> None:
    from node.exclusion_report import find_unsent_by_status

    if (unsent := find_unsent_by_status(files)) is not None:
        messages.print(f"[yellow]{escape(unsent)}[/]", soft_wrap=True)


def watched_run(
    files: DeploymentDirectory,
    *,
    epochs: int,
    client_processes: int | None,
    plan: Plan,
    baseline: bool,
    requirements: Requirements | None = None,
    drill: Drill | None = None,
) -> Record:
    """Run the deployment under a live page, or under progress lines where there is no terminal; judge it.

    Progress goes to standard error, so that `--json -` has standard output to itself. Ctrl-C ends the program
    with code 130 once every process has ended.
    """
    hosted = files.clients_here()
    check_client_processes(client_processes, len(hosted))
    for name in (*(entry.name for entry in files.deployment.replicas), *hosted):
        files.identity(name)  # A missing key is said here, not by one of many processes.
    folder = result_folder(files)
    view = LivePage(messages) if messages.is_terminal else PlainProgress(messages)
    processes = client_processes or min(CLIENT_PROCESSES, len(hosted))
    options = RunOptions(
        epochs=epochs,
        client_processes=processes,
        plan=plan,
        baseline=baseline,
        drill=Drill() if drill is None else drill,
    )
    collusion = Collusion.of(
        files.deployment.parameters, len(files.deployment.all_rosters[-1].members), epochs
    )
    messages.print(collusion.sentence(), soft_wrap=True, highlight=False)
    began = time.monotonic()
    try:
        with view:
            record = Run(files, options, view).execute(folder / MODEL_FILE)
    except KeyboardInterrupt:
        messages.print(
            f"interrupted after {time.monotonic() - began:.0f} s; every process was stopped; to resume: "
            f"asyncfl up {escape(files.quoted)} --epochs {epochs}",
            soft_wrap=True,
        )
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
    record.failures += judge(record, requirements or Requirements())
    return record


def write_results(
    files: DeploymentDirectory, record: Record, *, json: Path | None, more: Mapping[str, Any] | None = None
) -> None:
    """Write report, picture and JSON (with the keys of `more`) to DIR/result, and print the report."""
    result, text = store_results(files, record, more=more)
    if json is not None:
        write_json(result, json)
    first, _, rest = text.partition("\n")
    colour = "red" if record.failures else "green"
    messages.print(f"\n[bold {colour}]{escape(first)}[/]\n{escape(rest)}", end="", soft_wrap=True)


def store_results(
    files: DeploymentDirectory, record: Record, *, more: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str]:
    """Write report, picture and JSON (with the keys of `more`) to DIR/result. Returns result and report."""
    from node.supervisor.plot import draw

    folder = result_folder(files)
    result = {**result_of(record, files.deployment), **(more or {})}
    text = report(record, files.deployment, result, folder)
    draw(record, folder / "accuracy.png")
    write_json(result, folder / "result.json")
    write_whole(folder / "report.txt", text.encode())
    return result, text


def check_client_processes(client_processes: int | None, clients: int) -> None:
    """Raises `ConfigurationError` when there are more processes than clients to host."""
    if client_processes is not None and client_processes > clients:
        raise ConfigurationError(f"--client-processes {client_processes}: there are only {clients} clients")


def result_folder(files: DeploymentDirectory) -> Path:
    """DIR/result, made where it is absent. Raises `StorageError`."""
    folder = files.root / RESULT_FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; the directory must be writable") from None
    return folder
