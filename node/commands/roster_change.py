"""What `enroll` and `retire` share: ask the replicas, choose the epoch, sign, write, send, and say who has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.markup import escape

from asyncfl.errors import ConfigurationError, DeadlineExceeded
from asyncfl.identity import Identity
from asyncfl.messages import RosterStatement
from node.commands.common import confirm, messages, output, write_json
from node.commands.roster_page import announce, fail_for_want_of_replicas, show_next, show_replicas, waiting
from node.deployment_files import DEPLOYMENT_FILE, DeploymentDirectory
from node.enrolment import (
    Change,
    compute_start_epoch,
    fronts_on_disk,
    make_next,
    open_as_operator,
    operator_at_work,
    statements,
)
from node.operator_calls import ROSTERS, Call, Caller

FARTHEST: Final = 10_000
"""Epochs beyond the first possible one that a roster may start: a slip of the pen could never be undone."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Options of both commands."""

    start_epoch: int | None
    margin: int
    wait: float
    yes: bool
    json: bool


def change_rosters(root: Path, plan: Callable[[DeploymentDirectory], Change], wishes: Wishes) -> None:
    """Make, sign, write and send the next roster. Ends the program with 1 when too few replicas have it."""
    files, operator = open_as_operator(root)
    with operator_at_work(root):
        files = DeploymentDirectory.load(root)
        change = plan(files)
        # Replicas that missed an earlier roster get it on this occasion.
        calls = _call(files, operator, wishes)
        epoch, front = _choose_epoch(files, calls, wishes)
        if not wishes.json:
            announce(files.deployment, change, epoch, front, calls)
        if not wishes.yes:
            confirm("a signed roster is not taken back")
            # Training went on while somebody read this.
            calls = _call(files, operator, wishes)
            announced, (epoch, _) = epoch, _choose_epoch(files, calls, wishes)
            if epoch != announced:
                output.print(f"training went on meanwhile: from epoch [bold]{epoch}[/] on")
        files = make_next(files, operator, change, epoch)
        if not wishes.json:
            output.print(f"wrote {escape(str(root / DEPLOYMENT_FILE))}", soft_wrap=True)
        _send(files, operator, change, wishes, runs=any(map(_runs, calls.values())))


def resend(root: Path, wishes: Wishes) -> None:
    """Send what replicas lack of the rosters in the file. Ends the program with 1 when too few have them."""
    files, operator = open_as_operator(root)
    if not files.deployment.rosters:
        raise ConfigurationError(
            f"{root / DEPLOYMENT_FILE} has only the first roster, which every replica has; name clients to enrol"
        )
    with operator_at_work(root):
        files = DeploymentDirectory.load(root)
        _send(files, operator, Change(members=files.deployment.members), wishes, runs=True)


def _runs(call: Call[RosterStatement]) -> bool:
    return call.answer is not None or call.there


def _call(files: DeploymentDirectory, operator: Identity, wishes: Wishes) -> dict[str, Call[RosterStatement]]:
    deployment = files.deployment
    newest = deployment.all_rosters[-1].number
    with waiting(shown=not wishes.json) as say:
        calls = Caller(ROSTERS, deployment, operator).call(
            statements(deployment), after=newest, deadline=wishes.wait, say=say
        )
    for name, call in calls.items():
        if call.answer is not None and call.answer.newest is not None and call.answer.newest.number > newest:
            raise ConfigurationError(
                f"{files.root / DEPLOYMENT_FILE} is not the newest: {name} holds roster {call.answer.newest.number}, "
                f"signed with this operator's key, and the file ends with {newest}; bring the newest file here, or "
                "two rosters would have the same number"
            )
    return calls


def _choose_epoch(
    files: DeploymentDirectory, calls: Mapping[str, Call[RosterStatement]], wishes: Wishes
) -> tuple[int, int | None]:
    """The start epoch, and the front that it was chosen from. Raises where neither is known."""
    deployment = files.deployment
    fronts: dict[str, int] | None = {
        name: call.answer.front for name, call in calls.items() if call.answer is not None
    }
    needed, told = deployment.parameters.quorum, len(fronts or ())
    if not fronts and not any(map(_runs, calls.values())):
        fronts = fronts_on_disk(files)
    elif told < needed:
        fronts = None
    if fronts is None:
        if wishes.start_epoch is None:
            problem = next(f"{name}: {call.problem}" for name, call in calls.items() if call.problem)
            raise DeadlineExceeded(
                f"{told} of {len(calls)} replicas answered, {needed} are needed to know how far training is "
                f"({problem}); start them, or choose an epoch yourself with --start-epoch; nothing was changed"
            )
        return _checked(
            wishes.start_epoch, deployment.all_rosters[-1].start_epoch + 1, "the roster before"
        ), None
    least, outlying = compute_start_epoch(fronts, deployment, 1)
    for name in outlying:
        messages.print(
            f"[yellow]{escape(name)} says that its front is {fronts[name]}, far beyond the others': ignored[/]"
        )
    if wishes.start_epoch is not None:
        return _checked(wishes.start_epoch, least, "the front and the window"), max(fronts.values())
    epoch, _ = compute_start_epoch(fronts, deployment, wishes.margin)
    return epoch, max(front for name, front in fronts.items() if name not in outlying)


def _checked(epoch: int, least: int, beyond: str) -> int:
    if epoch < least:
        raise ConfigurationError(
            f"--start-epoch {epoch}: it must be at least {least}, after {beyond}: for earlier epochs clients may "
            "train already"
        )
    if epoch > least + FARTHEST:
        raise ConfigurationError(
            f"--start-epoch {epoch}: more than {FARTHEST} beyond the first possible epoch, {least}; every later roster "
            "would have to start after that, and a signed one is not taken back: choose a nearer one"
        )
    return epoch


def _send(
    files: DeploymentDirectory, operator: Identity, change: Change, wishes: Wishes, *, runs: bool
) -> None:
    """Give the replicas the newest roster, and say who has it. `runs`: whether any is there to have it."""
    deployment = files.deployment
    roster = deployment.all_rosters[-1]
    try:
        calls = _call(files, operator, wishes) if runs else {}
    except KeyboardInterrupt:
        messages.print(
            f"roster {roster.number} is in {DEPLOYMENT_FILE}, but too few replicas may have it; to send it: asyncfl "
            f"enroll {escape(str(files.root))} --resend",
            soft_wrap=True,
        )
        raise
    have = [
        name
        for name, call in calls.items()
        if call.answer is not None and call.answer.number >= roster.number
    ]
    needed = deployment.parameters.quorum
    fronts = [call.answer.front for call in calls.values() if call.answer is not None]
    facts: dict[str, Any] = {
        "roster": roster.number,
        "start_epoch": roster.start_epoch,
        "joining": list(change.joining),
        "retiring": list(change.retiring),
        "members": list(deployment.members),
        "replicas": {
            name: {
                "has_it": name in have,
                "front": None if call.answer is None else call.answer.front,
                "problem": call.problem,
            }
            for name, call in calls.items()
        },
        "have_it": len(have),
        "needed": needed,
        "key_files": [str(files.key_file(name)) for name in change.generated],
    }
    if wishes.json:
        write_json(facts, Path("-"))
    else:
        show_replicas(calls, have, f"roster {roster.number}")
        if not runs:
            output.print(
                "no replica can be reached, so nothing was sent: they take the roster from "
                f"{DEPLOYMENT_FILE} when they start; put this file into their directories",
                soft_wrap=True,
            )
        elif len(have) >= needed:
            far = f", training is at {sorted(fronts)[len(fronts) // 2]}" if fronts else ""
            output.print(
                f"[bold green]done[/]: {len(have)} of {len(calls)} replicas have roster {roster.number}, {needed} are "
                f"needed; it is in force from epoch {roster.start_epoch} on{far}",
                soft_wrap=True,
            )
        show_next(files, change)
    if runs and len(have) < needed:
        fail_for_want_of_replicas(
            f"{len(have)} of {len(calls)} replicas have roster {roster.number}, {needed} are needed",
            f"{DEPLOYMENT_FILE}; start the others, which take it from there or from each other",
            f"asyncfl enroll {files.quoted} --resend",
        )
