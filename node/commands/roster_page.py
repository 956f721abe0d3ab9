"""What `enroll` and `retire` show: what is about to be signed, who has it, and what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from asyncfl.deployment import Deployment
from asyncfl.messages import RosterStatement
from node.commands.common import ExitCode, messages, output
from node.deployment_files import DEPLOYMENT_FILE, DeploymentDirectory
from node.enrolment import Change
from node.operator_calls import Call, Say, Statement

PATIENT_SECONDS: Final = 1.0
"""Where there is no terminal, a wait that is over sooner is not worth a line."""


def announce(
    deployment: Deployment,
    change: Change,
    epoch: int,
    front: int | None,
    calls: Mapping[str, Call[RosterStatement]],
) -> None:
    """What is about to be signed, and what its epoch comes from."""
    output.print(
        f"[bold]roster {len(deployment.rosters) + 1}[/] of {escape(deployment.name)}: {len(change.members)} clients "
        f"from epoch [bold]{epoch}[/] on",
        soft_wrap=True,
    )
    if change.joining:
        output.print(f"  joining   {escape(listed(change.joining))}", soft_wrap=True)
    if change.retiring:
        output.print(f"  retiring  {escape(listed(change.retiring))}", soft_wrap=True)
    answered = sum(call.answer is not None for call in calls.values())
    if answered:
        how = (
            f"front {front}, as {answered} of {len(calls)} replicas say"
            if front
            else "the front is not known"
        )
    elif front is not None:
        how = f"nothing runs; front {front}, as the replicas left it on this machine"
    else:
        how = "nothing runs that can be reached"
    output.print(f"  [dim]{escape(how)}; window {deployment.parameters.window}[/]", soft_wrap=True)


def show_replicas(calls: Mapping[str, Call[Statement]], have: list[str], what: str) -> None:
    """Who has the statement (`roster 3`), and why the others have not."""
    if not calls:
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, call in calls.items():
        if name in have:
            table.add_row(f"  {name}", f"[green]has {what}[/]")
        else:
            told = call.problem or "it does not say so"
            table.add_row(f"  {name}", f"[yellow]has not: {escape(told)}[/]")
    output.print(table)


def fail_for_want_of_replicas(held: str, remedy: str, resend: str) -> NoReturn:
    """What is signed is `held` by too few replicas. Ends the program with 1."""
    messages.print(
        f"[bold red]not yet in force:[/] {held}. It is signed and in {remedy}, or send it again: {escape(resend)}",
        soft_wrap=True,
    )
    raise typer.Exit(int(ExitCode.FAILED))


def show_next(files: DeploymentDirectory, change: Change) -> None:
    """What the operator does now."""
    deployment, root = files.deployment, escape(files.quoted)
    lines: list[tuple[str, str]] = []
    if change.joining:
        here = [name for name in change.joining if files.key_file(name).exists()]
        elsewhere = [name for name in change.joining if name not in here]
        if here:
            named = " ".join(f"--name {name}" for name in here)
            lines.append(
                ("start", f"[bold]asyncfl node --role client --deployment {root} {escape(named)}[/]")
            )
        if change.generated:
            lines.append(("keys", escape(", ".join(str(files.key_file(name)) for name in change.generated))))
        if elsewhere:
            lines.append(
                (
                    "send",
                    f"{DEPLOYMENT_FILE} and {escape(deployment.model.file)}, neither of them secret, to "
                    f"{escape(listed(elsewhere))}; then there, beside keys/: asyncfl node --role client "
                    f"--deployment . --name {escape(elsewhere[0])}",
                )
            )
        shared = [
            f"{name} shares that of {deployment.first_clients[deployment.client_index(name)].name}"
            for name in change.joining
            if deployment.client(name) not in deployment.first_clients
        ]
        if shared:
            told = shared if len(shared) <= 3 else [*shared[:2], f"and so on ({len(shared)})"]
            lines.append(
                ("data", f"[dim]each keeps its own part of a built-in task; {escape(', '.join(told))}[/]")
            )
    if change.retiring:
        last = deployment.all_rosters[-1].start_epoch - 1
        does = (
            f"takes part up to epoch {last} and then rests; stop it"
            if len(change.retiring) == 1
            else f"take part up to epoch {last} and then rest; stop them"
        )
        lines.append(
            (
                "then",
                f"{escape(listed(change.retiring))} {does} when [bold]asyncfl status {root}[/] says retired",
            )
        )
    if lines:
        output.print("next:")
    for what, text in lines:
        # One line each, so that a command can be copied from a narrow terminal too.
        output.print(f"  [dim]{what:<5}[/]  {text}", soft_wrap=True)


def listed(names: Sequence[str]) -> str:
    """Names in a line, of many the first ones."""
    if len(names) > 8:
        return f"{', '.join(names[:7])} and {len(names) - 7} more"
    return ", ".join(names)


@contextmanager
def waiting(*, shown: bool) -> Iterator[Say]:
    """Shows what is waited for: beside a spinner on a terminal, else as a line when it takes a while."""
    if not shown:
        yield lambda _: None
        return
    if messages.is_terminal:
        with messages.status("calling the replicas") as spinner:
            yield spinner.update
        return
    began, said = time.monotonic(), ""

    def say(sentence: str) -> None:
        nonlocal said
        told = sentence.partition(" (")[0]
        if told != said and time.monotonic() - began > PATIENT_SECONDS:
            messages.print(sentence, soft_wrap=True)
            said = told

    yield say
