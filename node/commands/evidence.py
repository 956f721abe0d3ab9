"""`asyncfl evidence`: what was proven against replicas and clients, and whether it holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError
from node.commands.common import Directory, ExitCode, JsonFile, output, write_json

if TYPE_CHECKING:
    from node.evidence_files import Piece

evidence = typer.Typer(
    help="Proofs that a replica or client has lied: list them, verify them offline.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@evidence.command("list")
def list_evidence(*, directory: Directory, json: JsonFile = None) -> None:
    """Show the evidence that the nodes of DIR hold: who did what, and which node has the proof.

    DIR is a deployment's directory, or one node's in it (DIR/state/NAME). Nodes may run meanwhile. Nothing is changed.

    [bold]Examples[/]

    asyncfl evidence list run

    asyncfl evidence list run --json -
    """
    pieces, problems = _read(directory)
    _write(pieces, problems, json)
    if json is None or str(json) != "-":
        _show(pieces, verdicts=False, whole=not problems)
    _show_problems(problems)


@evidence.command("verify")
def verify_evidence(*, directory: Directory, json: JsonFile = None) -> None:
    """Verify the evidence that the nodes of DIR hold, from deployment.toml and its own bytes alone.

    Every signature and every computation is checked anew; no node needs to run, and none is asked. Fails (exit code 1)
    when a piece proves nothing, 3 when a state cannot be read.

    [bold]Examples[/]

    asyncfl evidence verify run

    asyncfl evidence verify run/state/replica-0 --json -
    """
    pieces, problems = _read(directory)
    _write(pieces, problems, json)
    if json is None or str(json) != "-":
        _show(pieces, verdicts=True, whole=not problems)
    _show_problems(problems)
    if any(piece.objection is not None for piece in pieces):
        raise typer.Exit(int(ExitCode.FAILED))


def _read(directory: Path) -> tuple[list[Piece], dict[str, str]]:
    from node.evidence_files import find_nodes, read_evidence

    files, nodes = find_nodes(directory)
    if not nodes:
        raise ConfigurationError(
            f"no node of {files.root} keeps its state on this machine; run this where one does, or start one: "
            f"asyncfl up {files.quoted}"
        )
    return read_evidence(files, nodes)


def _write(pieces: list[Piece], problems: dict[str, str], target: Path | None) -> None:
    if target is None:
        return
    facts: dict[str, Any] = {
        "evidence": [{**asdict(piece), "verified": piece.objection is None} for piece in pieces],
        "verified": not problems and all(piece.objection is None for piece in pieces),
        "problems": problems,
    }
    write_json(facts, target)


def _show(pieces: list[Piece], *, verdicts: bool, whole: bool) -> None:
    if not pieces:
        told = "no evidence" if whole else "no evidence in what could be read"
        output.print(f"{told}: nobody was proven to have lied")
        return
    for piece in pieces:
        told = f"{_verdict(piece)}  " if verdicts else ""
        output.print(f"{told}[bold]{escape(piece.culprit or 'nobody')}[/] {_sentence(piece)}", soft_wrap=True)
        if piece.objection is not None:
            output.print(f"  {_objection(piece)}", soft_wrap=True)
        held = f"{piece.kind or 'not readable'} {piece.digest[:12]}, held by {_holders(piece.held_by)}"
        output.print(f"  [dim]{held}[/]", soft_wrap=True)
    if verdicts:
        proven = sum(piece.objection is None for piece in pieces)
        output.print(f"{proven} of {len(pieces)} proven, from the deployment file and the evidence alone")


def _sentence(piece: Piece) -> str:
    if piece.objection is None:
        return escape(piece.what)
    return f"is said to have {escape(piece.what or 'lied')}:"


def _objection(piece: Piece) -> str:
    colour = "red" if piece.judged else "yellow"
    return f"[{colour}]{escape(piece.objection or '')}[/]"


def _verdict(piece: Piece) -> str:
    if piece.objection is None:
        return "[green]proven[/]"
    return "[red]proves nothing[/]" if piece.judged else "[yellow]cannot be judged[/]"


def _holders(names: list[str]) -> str:
    shown = ", ".join(names[:2])
    return escape(shown if len(names) <= 2 else f"{shown} and {len(names) - 2} more")


def _show_problems(problems: dict[str, str]) -> None:
    """States that cannot be read are named, and end the command."""
    from asyncfl.errors import StorageError

    if problems:
        raise StorageError("; ".join(problems.values()))
