"""`asyncfl enroll` and `asyncfl retire`: change who takes part, also while training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncfl.errors import ConfigurationError
from node.commands.common import Directory, JsonFlag
from node.commands.roster_change import Wishes, change_rosters, resend
from node.enrolment import MARGIN_EPOCHS, joining, retiring

StartEpoch = Annotated[
    int | None,
    typer.Option(min=2, help="First epoch of the new roster.", show_default="front + window + margin"),
]
Margin = Annotated[int, typer.Option(min=1, max=10_000, help="Epochs beyond front + window.")]
Wait = Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How long to wait for replicas.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def enroll(
    *,
    directory: Directory,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Clients to enrol.", show_default=False)
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A client's .pub file; else its key is made here."),
    ] = None,
    start_epoch: StartEpoch = None,
    margin: Margin = MARGIN_EPOCHS,
    wait: Wait = 30.0,
    send_again: Annotated[
        bool, typer.Option("--resend", help="Only send what replicas lack of the rosters in the file.")
    ] = False,
    yes: Yes = False,
    json: JsonFlag = False,
) -> None:
    """Let clients join, while training runs or before. For the operator: DIR holds operator.key.

    Signs the next roster, writes it to deployment.toml, and sends it to the replicas, which need no restart. It is in
    force when n-t of them have it and its first epoch has come. A client that had retired returns with its old key.

    [bold]Examples[/]

    asyncfl enroll run client-8 client-9

    asyncfl enroll run --public-key client-8.pub --public-key client-9.pub --yes

    asyncfl enroll run --resend
    """
    wishes = Wishes(start_epoch, margin, wait, yes, json)
    if send_again:
        if names or public_key or start_epoch is not None:
            raise ConfigurationError(
                "--resend sends the rosters of the file as they are: give nothing else with it"
            )
        resend(directory, wishes)
        return
    change_rosters(directory, lambda files: joining(files, names or (), public_key or ()), wishes)


def retire(
    *,
    directory: Directory,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Clients to retire.", show_default=False)
    ],
    start_epoch: StartEpoch = None,
    margin: Margin = MARGIN_EPOCHS,
    wait: Wait = 30.0,
    yes: Yes = False,
    json: JsonFlag = False,
) -> None:
    """Let clients leave, also dead ones: nobody waits for them any more. For the operator: DIR holds operator.key.

    What they have contributed stays in the model. They take part until the new roster starts; then they rest.

    [bold]Examples[/]

    asyncfl retire run client-3

    asyncfl retire run client-3 client-5 --start-epoch 40 --yes --json
    """
    wishes = Wishes(start_epoch, margin, wait, yes, json)
    change_rosters(directory, lambda files: retiring(files, names), wishes)
