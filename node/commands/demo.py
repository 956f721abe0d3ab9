"""`asyncfl demo`: the main job, from nothing, with a replica killed and restarted on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from node.commands.common import JsonFile
from node.commands.supervise import check_client_processes, supervise
from node.commands.up import ClientProcesses
from node.deployment_creation import NewDeployment, create_deployment
from node.supervisor.demonstration import demo_plan, fresh_directory
from node.supervisor.result import Requirements

VICTIM: Final = "replica-2"
REQUIREMENTS: Final = Requirements(accuracy=0.93, below_baseline=0.02)


def demo(
    *,
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Made anew; an earlier demo there is deleted.")
    ] = Path("demo-run"),
    epochs: Annotated[int, typer.Option(min=3, help="Every client takes part up to this epoch.")] = 20,
    clients: Annotated[int, typer.Option(min=4)] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Initial weights and data partition.")] = 0,
    client_processes: ClientProcesses = None,
    json: JsonFile = None,
) -> None:
    """Train a digit classifier with 4 replicas and 16 clients; kill one replica, restart it, compare models.

    Fails (exit code 1) unless training went on without the replica, all four end with the same model, bit
    for bit, and its accuracy is at least 0.93 and at most 2 points below plain FedAvg.

    [bold]Examples[/]

    asyncfl demo

    asyncfl demo my-run --client-processes 16 --json result.json
    """
    check_client_processes(client_processes, clients)
    fresh_directory(directory)
    files = create_deployment(directory, NewDeployment(clients=clients, seed=seed))
    supervise(
        files,
        epochs=epochs,
        client_processes=client_processes,
        plan=demo_plan(VICTIM, epochs),
        requirements=REQUIREMENTS,
        json=json,
    )
