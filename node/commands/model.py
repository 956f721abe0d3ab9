"""`asyncfl evaluate` and `asyncfl export`: the newest certified model on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError
from node.commands.common import Directory, JsonFlag, messages, output, output_file, write_json
from node.deployment_files import DeploymentDirectory
from node.supervisor.evaluation import find_blobs
from node.supervisor.evaluator import read_blob
from node.supervisor.own_accuracy import ROWS as OWN_ROWS
from node.supervisor.watch import Certified, read_status

if TYPE_CHECKING:
    from node.training.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Newest:
    """A certified model and the replica that has it."""

    replica: str
    certified: Certified
    data: bytes


def evaluate(*, directory: Directory, json: JsonFlag = False) -> None:
    """Accuracy, on the task's held-out data, of the newest certified model that a replica here holds.

    [bold]Examples[/]

    asyncfl evaluate run

    asyncfl evaluate run --json
    """
    files = DeploymentDirectory.load(directory)
    newest = newest_model(files)
    accuracy = _workbench(files).evaluate(newest.data)
    certified = newest.certified
    if json:
        facts: dict[str, Any] = {
            "accuracy": accuracy,
            "entries": certified.entries,
            "version": certified.version,
            "model": certified.model,
            "exclusion": certified.statement,
            "replica": newest.replica,
        }
        write_json(facts, Path("-"))
        return
    output.print(f"accuracy [bold]{accuracy:.4f}[/] after {_told(certified)}")
    output.print(
        f"model {certified.model[:16]}, version {certified.version[:16]}, from {escape(newest.replica)}"
    )


def export(
    *,
    directory: Directory,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where to write it.", show_default=False, callback=output_file),
    ],
    best: Annotated[
        bool, typer.Option("--best", help="The model that did best on the clients' own test data instead.")
    ] = False,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows that --best takes together.", show_default="those of \\[stop], or 5"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write the newest certified model as safetensors: the full state dict of the task's module.

    With --best it is worked out from the ledger and the opened sums of a replica here, which may be running;
    the deployment must have metrics on.

    [bold]Examples[/]

    asyncfl export run model.safetensors

    asyncfl export run best.safetensors --best --rows 10
    """
    files = DeploymentDirectory.load(directory)
    if best:
        _export_best(files, file, rows, json=json)
        return
    if rows is not None:
        raise ConfigurationError("--rows goes with --best: the newest model is not chosen by rows")
    newest = newest_model(files)
    certified = newest.certified
    workbench = _workbench(files)

    from node.training.files import write_model

    metadata = {"asyncfl.version": certified.version, "asyncfl.entries": str(certified.entries)}
    write_model(file, workbench.layout, workbench.state(newest.data), metadata)
    if json:
        facts = {
            "file": str(file),
            "entries": certified.entries,
            "version": certified.version,
            "model": certified.model,
            "exclusion": certified.statement,
        }
        write_json(facts, Path("-"))
        return
    output.print(
        f"wrote {escape(str(file))}: {_told(certified)}, model {certified.model[:16]}", soft_wrap=True
    )


def _told(certified: Certified) -> str:
    under = f" under exclusion {certified.statement}" if certified.statement else ""
    part = certified.counted not in {None, certified.entries}
    return f"{f'{certified.counted} of ' if part else ''}{certified.entries} entries{under}"


def _export_best(files: DeploymentDirectory, file: Path, rows: int | None, *, json: bool) -> None:
    from asyncfl.digest import content_digest
    from asyncfl.replay import find_best_model
    from node.ledger_copy import StoredSums, read_ledger
    from node.training.files import write_model

    deployment = files.deployment
    if not deployment.parameters.metrics:
        raise ConfigurationError(
            "--best needs the accuracy on the clients' own test data, which this deployment does not collect; make one "
            "with --parameter metrics=true"
        )
    kept = [entry.name for entry in deployment.replicas if read_status(files, entry.name)]
    if not kept:
        raise ConfigurationError(
            f"no replica of {files.root} has a ledger on this machine yet; run it first: asyncfl up {files.quoted}"
        )
    ledgers = [read_ledger(files, name) for name in kept]
    ledger = max(ledgers, key=lambda each: (each.exclusion.number, each.entries))
    width = rows or (deployment.stop.rows if deployment.stop is not None else OWN_ROWS)
    found = find_best_model(ledger, deployment.federation(), files.initial_model(), StoredSums(files), width)
    if found is None:
        raise ConfigurationError(
            f"there is no accuracy over {width} rows that stands out of its noise, in {len(ledger.rows())} rows; "
            "try another --rows"
        )
    best, epoch, data = found
    model, exclusion = content_digest(data).hex(), ledger.exclusion
    if not exclusion.is_empty:
        messages.print(
            f"[yellow]exclusion {exclusion.number} is in force, and clients measured rows before it on models that "
            "still had what it leaves out[/]: asyncfl model list shows which accuracies are of a model as it is now",
            soft_wrap=True,
        )
    workbench = _workbench(files)
    metadata = {"asyncfl.rows": str(best.rows), "asyncfl.epoch": str(epoch)}
    write_model(file, workbench.layout, workbench.state(data), metadata)
    if json:
        facts = {
            "file": str(file),
            "rows": best.rows,
            "epoch": epoch,
            "own_accuracy": best.accuracy,
            "over_rows": width,
            "model": model,
            "exclusion": exclusion.number,
        }
        write_json(facts, Path("-"))
        return
    rows_now = len(ledger.counted_head.rows(1))
    output.print(
        f"wrote {escape(str(file))}: the model after {best.rows} of {rows_now} rows (up to epoch {epoch}), model "
        f"{model[:16]}; accuracy on clients' own test data [bold]{best.accuracy:.4f}[/] over {width} rows",
        soft_wrap=True,
    )


def newest_model(files: DeploymentDirectory) -> Newest:
    """The certified model under the latest exclusion, with the most entries, among the replicas' states in `files`.

    Raises `ConfigurationError` when there is none, `StorageError` when every copy of it is damaged. Says so where a
    later exclusion is held that it is not under yet.
    """
    found: list[tuple[str, Certified, list[Path]]] = []
    held = 0
    for entry in files.deployment.replicas:
        status = read_status(files, entry.name)
        held = max(held, status.get("exclusion", 0))
        certified = Certified.of(status)
        if certified is None:
            continue
        copies = find_blobs(files, certified.model)
        if copies:
            found.append((entry.name, certified, copies))
    if not found:
        raise ConfigurationError(
            f"no replica of {files.root} has a certified model on this machine yet; run it first: "
            f"asyncfl up {files.quoted}"
        )
    name, certified, copies = max(found, key=lambda each: each[1].progress)
    newest = Newest(name, certified, read_blob(copies, certified.model))
    if newest.certified.statement < held:
        messages.print(
            f"[yellow]no model under exclusion {held} is certified yet: this one has what it leaves out[/]; with "
            f"{files.deployment.parameters.certifiers} replicas running it is a matter of moments",
            soft_wrap=True,
        )
    return newest


def _workbench(files: DeploymentDirectory) -> Workbench:
    from node.training.loader import load_task
    from node.training.workbench import Workbench

    task = files.deployment.task
    built = load_task(
        task.factory, clients=len(files.deployment.first_clients), seed=task.seed, options=task.options
    )
    return Workbench(built, seed=task.seed, frozen_buffers=files.deployment.model.frozen_buffers)
