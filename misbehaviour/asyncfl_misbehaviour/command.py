"""`asyncfl node` with one option more. Nothing heavy is imported before the option is used."""

from __future__ import annotations

from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.panel import Panel

from node.commands import run_node
from node.commands.common import messages, show_options

if TYPE_CHECKING:
    from asyncfl.adversary.behaviour import Role

PANEL: Final = "Misbehaviour (this installation has the extra asyncfl-misbehaviour)"
MISBEHAVE: Final = Parameter(
    "misbehave",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="For drills: do this on purpose. `asyncfl simulate --attack list` lists what there is; on the "
            "transport: endless-handshakes, flooding, garbage, giant-lengths, slow-reading; a client's on learning: "
            "docs/reference/poisoning.md. The deployment must allow it.",
            show_default="behave",
            rich_help_panel=PANEL,
        ),
    ],
)
COLLUDER: Final = Parameter(
    "colluder",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --misbehave: a node whose key, DIR/keys/NAME.key, is used too; repeat for more.",
            show_default="none",
            rich_help_panel=PANEL,
        ),
    ],
)


def node(*, misbehave: str | None = None, colluder: list[str] | None = None, **options: Any) -> None:
    if misbehave is None:
        if colluder:
            raise typer.BadParameter("--colluder is for nodes that misbehave: give --misbehave too")
        run_node.node(**options)
        return
    from asyncfl_misbehaviour.misconduct import Misconduct

    role: Role = "client" if options["role"] is run_node.Role.CLIENT else "replica"
    misconduct = Misconduct.of(misbehave, role, tuple(colluder or ()))
    announce(misconduct.label, options["name"], options["deployment"])
    run_node.node(**options, interference=misconduct)


def announce(label: str, names: list[str], directory: Path) -> None:
    """Say aloud, before anything else, what this process is about to be."""
    messages.print(
        Panel(
            f"{escape(', '.join(names))} of {escape(str(directory))} [bold]misbehaves on purpose[/]: "
            f"[bold]{escape(label)}[/]\nThis is for drills. Never run it with a key or in a deployment that matters.",
            title="[bold]MISBEHAVIOUR[/]",
            border_style="bold red",
        )
    )


node.__doc__ = run_node.node.__doc__
show_options(node, (*run_node.OPTIONS, MISBEHAVE, COLLUDER))
