"""What `up` and `demo` share: run, judge, write the results, and end with the right code."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError, StorageError
from node.commands.common import ExitCode, messages, write_json
from node.deployment_files import DeploymentDirectory
from node.supervisor.live import LivePage, PlainProgress
from node.supervisor.plan import Plan
from node.supervisor.report import report
from node.supervisor.result import Requirements, judge, result_of
from node.supervisor.run import Run, RunOptions

RESULT_FOLDER: Final = "result"


def supervise(
    files: DeploymentDirectory,
    *,
    epochs: int,
    client_processes: int,
    plan: Plan,
    baseline: bool = True,
    requirements: Requirements | None = None,
    json: Path | None = None,
) -> None:
    """Run the deployment and write DIR/result; ends the program with code 1 when a check failed.

    Progress and report go to standard error, so that `--json -` has standard output to itself.
    """
    clients = len(files.deployment.clients)
    if client_processes > clients:
        raise ConfigurationError(f"--client-processes {client_processes}: there are only {clients} clients")
    for name in files.deployment.names.values():
        files.identity(name)  # A missing key is said here, not by one of many processes.
    folder = files.root / RESULT_FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; the directory must be writable") from None
    view = LivePage(messages) if messages.is_terminal else PlainProgress(messages)
    options = RunOptions(epochs=epochs, client_processes=client_processes, plan=plan, baseline=baseline)
    began = time.monotonic()
    try:
        with view:
            run = Run(files, options, view)
            record = run.execute(folder / "model.safetensors")
    except KeyboardInterrupt:
        messages.print(
            f"interrupted after {time.monotonic() - began:.0f} s; every process was stopped, and the same "
            "command resumes where it was"
        )
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
    record.failures += judge(record, requirements or Requirements())

    from node.supervisor.plot import draw

    result = result_of(record, files.deployment)
    text = report(record, files.deployment, result, folder)
    draw(record, folder / "accuracy.png")
    write_json(result, folder / "result.json")
    (folder / "report.txt").write_text(text, encoding="utf-8")
    if json is not None:
        write_json(result, json)
    colour = "red" if record.failures else "green"
    first, _, rest = text.partition("\n")
    messages.print(f"\n[bold {colour}]{escape(first)}[/]\n{escape(rest)}", end="", soft_wrap=True)
    if record.failures:
        raise typer.Exit(int(ExitCode.FAILED))
