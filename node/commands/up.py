"""`asyncfl up`: run a whole localhost deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from node.commands.common import Directory, JsonFile
from node.commands.supervise import supervise
from node.deployment_files import DeploymentDirectory
from node.supervisor.plan import Action, ScriptedPlan, parse_step

ClientProcesses = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that share the clients; as many as clients: one each.", show_default="4"
    ),
]
Baseline = Annotated[
    bool, typer.Option("--baseline/--no-baseline", help="Compare with FedAvg in one process, afterwards.")
]


def up(
    *,
    directory: Directory,
    epochs: Annotated[int, typer.Option(min=1, help="Every client takes part up to this epoch.")] = 20,
    kill: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME@WHEN", help="SIGKILL a replica at an epoch (@7) or after seconds (@8s)."),
    ] = None,
    restart: Annotated[
        list[str] | None, typer.Option(metavar="NAME@WHEN", help="Start a killed replica again.")
    ] = None,
    client_processes: ClientProcesses = None,
    baseline: Baseline = True,
    json: JsonFile = None,
) -> None:
    """Run all replicas and clients of DIR as processes of this machine, watch them, and report.

    Ends when every client has taken part up to the last epoch and the replicas agree. Results go to
    DIR/result: report.txt, result.json, accuracy.png, model.safetensors. Ctrl-C stops everything; the same
    command then resumes.

    [bold]Examples[/]

    asyncfl up run --epochs 20

    asyncfl up run --epochs 20 --kill replica-2@7 --restart replica-2@14 --json result.json

    asyncfl up run --epochs 50 --kill replica-0@10s --restart replica-0@25s --client-processes 16
    """
    files = DeploymentDirectory.load(directory)
    replicas = [entry.name for entry in files.deployment.replicas]
    kills = [parse_step(Action.KILL, text, replicas, epochs) for text in kill or ()]
    restarts = [parse_step(Action.RESTART, text, replicas, epochs) for text in restart or ()]
    supervise(
        files,
        epochs=epochs,
        client_processes=client_processes,
        plan=ScriptedPlan(kills, restarts),
        baseline=baseline,
        json=json,
    )
