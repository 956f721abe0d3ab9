"""The program `asyncfl`: registers the commands and turns errors into messages and exit codes.

Must stay quick to start: nothing here or in the command modules imports torch at the top.
"""

from __future__ import annotations

from node.entry import main

if __name__ == "__main__":
    main()  # Before the imports below, during which somebody may press Ctrl-C. Never returns.

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from asyncfl.errors import AsyncflError
from node.commands import (
    audit,
    bench,
    demo,
    enroll,
    evidence,
    experiment,
    init,
    keygen,
    model,
    plan,
    privacy,
    rollback,
    run_node,
    simulate,
    status,
    up,
    versions,
)
from node.commands.common import ExitCode, exit_code, messages, show_error

MISBEHAVIOUR = "asyncfl_misbehaviour"
"""The package of a distribution of its own, for drills."""
_EPILOG = (
    "[bold]Exit codes[/]  [bold]0[/] done · [bold]1[/] the run failed one of its checks · "
    "[bold]2[/] wrong usage or configuration · [bold]3[/] disk or database · [bold]130[/] interrupted"
    "\n\n"
    "[bold]Start here[/]  asyncfl demo"
)


@contextmanager
def _explained() -> Iterator[None]:
    """Say deliberate errors in one line, without a traceback, and end with the documented code."""
    try:
        yield
        return
    except BrokenPipeError:
        raise
    except (AsyncflError, OSError) as error:
        show_error(error)
        code = exit_code(error)
    except KeyboardInterrupt:
        messages.print("interrupted")
        code = ExitCode.INTERRUPTED
    raise typer.Exit(int(code))


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with _explained():
            return super().invoke(ctx)


class _Command(TyperCommand):
    def make_context(self, *args: Any, **options: Any) -> Any:
        with _explained():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _explained():
            return super().invoke(ctx)


app = typer.Typer(
    name="asyncfl",
    cls=_Commands,
    help="Federated learning that nobody has to trust: masked updates, replicated Byzantine-tolerant "
    "aggregators.",
    epilog=_EPILOG,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncfl {version('asyncfl')}")
        raise typer.Exit()


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    # A task of one's own (MODULE:FACTORY) may lie in the current directory; appended, so that nothing there
    # can take the place of an installed module.
    sys.path.append(os.getcwd())


def _node_command() -> Callable[..., None]:
    """`asyncfl node`; with --misbehave only where the extra that has it is installed (misbehaviour/README.md)."""
    if find_spec(MISBEHAVIOUR) is None:
        return run_node.node
    command: Callable[..., None] = import_module(MISBEHAVIOUR).node
    return command


app.command("demo", rich_help_panel="Whole deployments on this machine")(demo.demo)
app.command("init", rich_help_panel="Whole deployments on this machine")(init.init)
app.command("up", rich_help_panel="Whole deployments on this machine")(up.up)
app.command("status", rich_help_panel="Whole deployments on this machine")(status.status)
app.add_typer(evidence.evidence, name="evidence", rich_help_panel="Whole deployments on this machine")
app.command("audit", rich_help_panel="Whole deployments on this machine")(audit.audit)
app.command("enroll", rich_help_panel="Who takes part")(enroll.enroll)
app.command("retire", rich_help_panel="Who takes part")(enroll.retire)
app.add_typer(versions.model, name="model", rich_help_panel="Models")
app.command("rollback", rich_help_panel="Models")(rollback.rollback)
app.command("keygen", rich_help_panel="One party")(keygen.keygen)
app.command("node", rich_help_panel="One party")(_node_command())
app.command("evaluate", rich_help_panel="Models")(model.evaluate)
app.command("export", rich_help_panel="Models")(model.export)
app.command("bench", rich_help_panel="Models")(bench.bench)
app.command("experiment", rich_help_panel="Models")(experiment.experiment)
app.command("simulate", rich_help_panel="Drills")(simulate.simulate)
app.command("plan", rich_help_panel="Privacy")(plan.plan)
app.command("privacy", rich_help_panel="Privacy")(privacy.privacy)


def run_program(command: Callable[..., None]) -> None:
    """Run one function as a program of its own, with the same errors and exit codes; for scripts."""
    program = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
    program.command(cls=_Command)(command)
    program()
