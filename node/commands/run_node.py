"""`asyncfl node`: run one aggregator, or some clients."""

from __future__ import annotations

from enum import StrEnum
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Final

import typer

from asyncfl.errors import ConfigurationError
from node.commands.common import show_options
from node.interference import Interference


class Role(StrEnum):
    AGGREGATOR = "aggregator"
    CLIENT = "client"


class LogForm(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def node(
    *,
    role: Annotated[Role, typer.Option(help="What to run.", show_default=False)],
    deployment: Annotated[
        Path, typer.Option(metavar="DIR", help="The deployment's directory.", show_default=False)
    ],
    name: Annotated[
        list[str],
        typer.Option(
            help="Whose node; several clients may share a process: give it again.", show_default=False
        ),
    ],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Clients: take part up to this epoch.", show_default="no end")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Aggregators: listen here, not at the file's url."),
    ] = None,
    log: Annotated[LogForm, typer.Option(help="Log lines for people or as JSON.")] = LogForm.CONSOLE,
    log_level: Annotated[LogLevel, typer.Option()] = LogLevel.INFO,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when standard input ends.")
    ] = False,
    interference: Interference | None = None,
) -> None:
    """Run an aggregator, or one or more clients, until Ctrl-C or SIGTERM. State is kept in DIR/state/NAME.

    DIR needs deployment.toml, model.safetensors and keys/NAME.key, no other party's key.

    [bold]Examples[/]

    asyncfl node --role aggregator --deployment run --name replica-1

    asyncfl node --role client --deployment run --name client-0 --name client-1 --epochs 20

    asyncfl node --role aggregator --deployment run --name replica-1 --listen 0.0.0.0:7000 --log json
    """
    from node.processes import ProcessOptions, run_aggregator, run_clients

    options = ProcessOptions(
        log_form=log.value,
        log_level=log_level.value,
        exit_with_parent=exit_with_parent,
        listen=None if listen is None else _address(listen),
        interference=interference,
    )
    repeated = sorted({each for each in name if name.count(each) > 1})
    if repeated:
        raise ConfigurationError(f"--name {repeated[0]} is given twice; a node runs once at a time")
    if role is Role.CLIENT:
        if listen is not None:
            raise ConfigurationError("--listen is for aggregators; clients only dial out")
        run_clients(deployment, name, options, last_epoch=epochs)
        return
    if len(name) > 1:
        raise ConfigurationError("an aggregator has a process of its own: give one --name")
    if epochs is not None:
        raise ConfigurationError("--epochs is for clients; an aggregator runs until it is stopped")
    run_aggregator(deployment, name[0], options)


OPTIONS: Final[tuple[Parameter, ...]] = tuple(
    parameter
    for name, parameter in signature(node, eval_str=True).parameters.items()
    if name != "interference"
)
"""Of the command line. Interference comes from an installed extra alone, which adds options of its own."""
show_options(node, OPTIONS)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"--listen {text}: HOST:PORT is needed, such as 0.0.0.0:7000")
    return host.strip("[]"), int(port)
