"""What the commands share: consoles, exit codes, JSON output, option types."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable
from enum import IntEnum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from asyncfl.errors import AsyncflError, ConfigurationError, StorageError
from node.output_files import check_output_file
from node.whole_files import write_whole

output = Console(highlight=False)
"""Results: standard output."""
messages = Console(stderr=True, highlight=False)
"""Progress and errors: standard error, so that `--json -` stays clean."""


class ExitCode(IntEnum):
    """Documented in `asyncfl --help` and docs/reference/commands.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STORAGE = 3
    INTERRUPTED = 130


def exit_code(error: AsyncflError | OSError) -> ExitCode:
    """The exit code that a deliberate error ends the program with."""
    if isinstance(error, ConfigurationError):
        return ExitCode.USAGE
    if isinstance(error, StorageError | OSError):
        return ExitCode.STORAGE
    return ExitCode.FAILED


def show_error(error: AsyncflError | OSError) -> None:
    """One line on standard error: what is wrong and what to do."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    messages.print(f"[bold red]error:[/] {escape(_obeyed_by_no_terminal(text))}", soft_wrap=True)


def _obeyed_by_no_terminal(text: str) -> str:
    """Control characters spelt out: an error may quote what a file or a peer said."""
    return "".join(
        part if part.isprintable() or part == "\n" else part.encode("unicode_escape").decode()
        for part in text
    )


def show_left_aside(problems: Iterable[str]) -> None:
    """States that cannot be read, where the others are enough to go on with."""
    for why in problems:
        messages.print(f"[yellow]left aside: {escape(why)}[/]", soft_wrap=True)


def confirm(why: str) -> None:
    """Ask before the operator signs. Raises `ConfigurationError` where nobody can be asked, and ends on a no.

    Raises `KeyboardInterrupt` for Ctrl-C, or where the answer ends before it has begun.
    """
    if not (sys.stdin.isatty() and messages.is_terminal):
        raise ConfigurationError(f"nobody can be asked here, and {why}: add --yes")
    try:
        agreed = typer.confirm("sign it, and send it to the replicas?", err=True)
    except typer.Abort:
        messages.print("\nnothing was changed")
        raise KeyboardInterrupt from None
    if not agreed:
        messages.print("nothing was changed")
        raise typer.Exit(int(ExitCode.FAILED))


def write_json(value: Any, target: Path) -> None:
    """Write `value` as JSON to a file, whole or not at all; `-` is standard output. Raises `StorageError`."""
    text = json.dumps(value, indent=2) + "\n"
    if str(target) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text.encode())
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written: {error.strerror}; name another --json file"
        ) from None


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2 rows`; `many` where an s is not the plural."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def show_options(command: Any, options: Iterable[Parameter]) -> None:
    """Let Typer make options of these parameters alone, whatever else `command` takes from other callers."""
    command.__signature__ = Signature(list(options))


def key_values(option: str, pairs: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` options as a dictionary; values are TOML (numbers, true, false, "text", [..]) or text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"{option} {pair!r}: KEY=VALUE is needed")
        if key in values:
            raise ConfigurationError(f"{option} {key} is given twice")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            values[key] = text
    return values


def output_file(path: Path | None) -> Path | None:
    """Callback of arguments and options that name a file to write, so that a wrong one is refused before any work."""
    if path is not None and str(path) != "-":
        check_output_file(path)
    return path


Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The deployment's directory (see `asyncfl init`).", show_default=False
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write the result as JSON; - is standard output.", callback=output_file
    ),
]
