"""`asyncfl rollback`: the operator takes entries out of the model, or puts them back, while training goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError, InvalidItem
from node.commands.common import (
    Directory,
    ExitCode,
    JsonFlag,
    confirm,
    messages,
    output,
    show_left_aside,
    write_json,
)
from node.commands.enroll import Wait, Yes
from node.commands.exclusion_page import (
    announce,
    describe_change,
    list_exclusions,
    states_here,
    warn_of_return,
)
from node.commands.roster_page import fail_for_want_of_replicas, show_replicas, waiting

if TYPE_CHECKING:
    from asyncfl.exclusions import Exclusions
    from asyncfl.identity import Identity
    from asyncfl.ledger import Ledger
    from asyncfl.messages import ExclusionStatement
    from asyncfl.record import Version
    from node.audit_report import Report
    from node.deployment_files import DeploymentDirectory
    from node.exclusion_file import Signed
    from node.operator_calls import Call
    from node.rollback import Cost, Known, Wish

CONFIRMED: Final = "a signed exclusion is replaced by another one only (--undo)"
Calls = Mapping[str, "Call[ExclusionStatement]"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How the command goes about it."""

    wait: float
    yes: bool
    json: bool


def rollback(
    *,
    directory: Directory,
    exclude_entry: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Leave this entry out; repeat for more.")
    ] = None,
    exclude_client: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave out every group of this client; repeat for more."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Back to the model of this certified version, or to initial: leave out what it left out, and all "
            "after it.",
        ),
    ] = None,
    include_entry: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Put an entry back that is left out; repeat for more."),
    ] = None,
    include_client: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Put a client back that is left out; repeat for more."),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back the newest exclusion that is not taken back yet.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the audit trail.")] = "",
    history: Annotated[
        bool, typer.Option("--list", help="Only show all exclusions: when, what, and whether in force.")
    ] = False,
    send_again: Annotated[
        bool, typer.Option("--resend", help="Only send what replicas lack of the exclusions signed.")
    ] = False,
    wait: Wait = 30.0,
    yes: Yes = False,
    json: JsonFlag = False,
) -> None:
    """Take entries out of the model while training goes on, or put them back. For the operator.

    Signs the next exclusion, writes it to exclusions.json, and sends it to the replicas, which compute the model
    without what it names and give out no other any more. Says first how much honest work that costs: a sum cannot be
    divided, so with a client go all uploads of its groups. Nothing is deleted: --undo takes the newest exclusion back,
    a second time the one before, and so on.

    [bold]Examples[/]

    asyncfl rollback run --exclude-client client-3 --reason "labels flipped"

    asyncfl rollback run --exclude-entry 9f3a1c02 --yes

    asyncfl rollback run --to 5d21aa90

    asyncfl rollback run --include-client client-3

    asyncfl rollback run --undo

    asyncfl rollback run --list
    """
    from node.rollback import Wish

    wish = Wish(
        exclude_entry or (), exclude_client or (), to, include_entry or (), include_client or (), undo, reason
    )
    if sum((wish.changes, undo, history, send_again)) != 1:
        raise ConfigurationError(
            "say what to leave out or to put back (--exclude-entry, --exclude-client, --to, --include-entry, "
            "--include-client), or --undo, or --list, or --resend: one of the four"
        )
    if history:
        list_exclusions(directory, json=json)
        return
    command = _Rollback.open(directory, Manner(wait, yes, json))
    if send_again:
        command.resend()
    else:
        command.run(wish)


@dataclass(slots=True)
class _Rollback:
    files: DeploymentDirectory
    operator: Identity
    manner: Manner
    signed: Signed
    taken_over: list[int] = field(default_factory=list)
    """Numbers of statements that replicas, or their states here, have and the file had not."""

    @classmethod
    def open(cls, root: Path, manner: Manner) -> _Rollback:
        from node.enrolment import open_as_operator
        from node.exclusion_file import read_exclusions

        files, operator = open_as_operator(root)
        return cls(files, operator, manner, read_exclusions(root, files.deployment))

    @property
    def held(self) -> Exclusions:
        return self.signed.exclusions

    def resend(self) -> None:
        from node.enrolment import operator_at_work

        with operator_at_work(self.files.root):
            self._load()
            calls = self._call()
            if not self.held.held:
                raise ConfigurationError("no exclusion was ever signed: there is nothing to send")
            self._tell(calls, None, self.held.held[-1])

    def run(self, wish: Wish) -> None:
        from asyncfl.exclusions import Exclusion
        from node.enrolment import operator_at_work
        from node.exclusion_file import read_exclusions, write_exclusions
        from node.rollback import check_names, compute_cost, plan, sign

        root, deployment = self.files.root, self.files.deployment
        check_names(deployment, wish)
        with operator_at_work(root):
            self.signed = read_exclusions(root, deployment)
            # The states first, which takes a while: what is under way is asked for as late as can be.
            states = self._read()
            # Replicas that missed an earlier one get it on this occasion, and what was signed elsewhere comes here.
            calls = self._call()
            known = self._known(states, calls)
            statement = plan(deployment, self.held, known, wish)
            cost = compute_cost(known.ledger, self.held.in_force, Exclusion.of(statement))
            self._warn(calls, wish)
            if not self.manner.json:
                told = self._describe(statement)
                announce(told, cost, known, deployment)
                if wish.to is not None:
                    warn_of_return(told)
            if not self.manner.yes:
                confirm(CONFIRMED)
                if wish.to is not None:
                    # Training went on while somebody read this.
                    states, announced = self._read(), statement
                    statement = plan(deployment, self.held, self._known(states, self._call()), wish)
                    if statement != announced:
                        change = describe_change(self._describe(statement))
                        output.print(f"training went on meanwhile: it {change}", soft_wrap=True)
            signed = sign(self.operator, deployment.digest, statement)
            self.held.add(signed)
            self.signed.times[signed.body()] = time.time()
            write_exclusions(root, self.signed)
            self._send(cost, signed)

    def _describe(self, statement: ExclusionStatement) -> dict[str, Any]:
        """The next statement, as the history will have it."""
        from node.exclusion_history import describe, read_next

        return describe(read_next(self.held, statement), self.files.deployment.names)

    def _read(self) -> tuple[Ledger, list[Version]]:
        """All entries and versions of the replicas' states on this machine."""
        from asyncfl.errors import LocalProtocolError
        from asyncfl.ledger import Ledger

        ledger = Ledger(self.files.deployment.digest)
        versions, report = [], self._load()
        for name, audit in report.audits.items():
            audit.read()
            versions += audit.versions
            for item in audit.ledger.items.values():
                try:
                    ledger.add(item)
                except LocalProtocolError as error:
                    messages.print(
                        f"[yellow]the state of {escape(name)} contradicts another one here[/] ({escape(str(error))}): "
                        f"asyncfl audit {escape(self.files.quoted)}",
                        soft_wrap=True,
                    )
                    break
        return ledger, versions

    def _load(self) -> Report:
        """The states here, once what they have that the file lacks is taken over: no number is signed again."""
        from node.audit_report import load

        report = load(self.files, states_here(self.files))
        show_left_aside(report.unread.values())
        found = report.exclusions()
        self._take_over((*found.held, *found.doubles.values()), "the replicas' states here")
        return report

    def _known(self, states: tuple[Ledger, list[Version]], calls: Calls) -> Known:
        """What is on this machine, and how far the replicas say they are: they must have been asked later."""
        from node.rollback import Known, compute_under_way

        fronts = [call.answer.front for call in calls.values() if call.answer is not None]
        return Known(*states, compute_under_way(fronts, self.files.deployment))

    def _warn(self, calls: Calls, wish: Wish) -> None:
        """Of what cannot be known, since too few replicas answer."""
        answered = sum(call.answer is not None for call in calls.values())
        deployment = self.files.deployment
        if answered < deployment.parameters.quorum:
            told = (
                f"{answered} of {len(calls)} replicas answered: whether another exclusion was signed elsewhere is not "
                "known"
            )
            if wish.to is not None and answered < deployment.parameters.certifiers:
                told += ", nor how far training is: rows that are not in the ledger here will count"
            messages.print(f"[yellow]{told}[/]", soft_wrap=True)

    def _call(self) -> Calls:
        """Give the replicas what they lack, and take over what they have that was signed elsewhere."""
        from node.operator_calls import EXCLUSIONS, Caller

        held, highest = self.held, self.held.highest
        caller = Caller(EXCLUSIONS, self.files.deployment, self.operator)
        with waiting(shown=not self.manner.json) as say:
            # From the one before the highest on: so each replica shows what it has under the highest number itself.
            calls = caller.call(
                held.statements(0), after=max(0, highest - 1), deadline=self.manner.wait, say=say
            )
        found = [statement for call in calls.values() if call.answer for statement in call.answer.seen]
        self._take_over(found, "the replicas")
        return calls

    def _take_over(self, found: Iterable[ExclusionStatement], whose: str) -> None:
        """Into the file, where it lacks any; what does not fit is left aside."""
        from node.exclusion_file import write_exclusions

        held, new = self.held, []
        for statement in sorted(found, key=lambda statement: statement.number):
            try:
                if held.add(statement):
                    new.append(statement)
            except InvalidItem as error:
                messages.print(f"[yellow]left aside: {escape(str(error))}[/]", soft_wrap=True)
        if new:
            write_exclusions(self.files.root, self.signed)
            self.taken_over += [statement.number for statement in new]
            numbers = ", ".join(str(statement.number) for statement in new)
            messages.print(
                f"[yellow]exclusion {numbers} of {whose} was not in {escape(str(self.files.root))}/exclusions.json"
                "[/]: signed elsewhere with this key; taken over",
                soft_wrap=True,
            )
            for statement in new:
                if statement.number in held.doubles:
                    self._tell_of_two(statement.number)

    def _tell_of_two(self, number: int) -> None:
        held = self.held
        counts, other = (
            describe_change(self._said(each)) for each in (held.held[number - 1], held.doubles[number])
        )
        messages.print(
            f"[bold red]two exclusions have number {number}[/]: the one that {counts} counts at every replica; the one "
            f"that {other} does not: where it was meant as well, name it again",
            soft_wrap=True,
        )

    def _send(self, cost: Cost, signed: ExclusionStatement) -> None:
        try:
            calls = self._call()
        except KeyboardInterrupt:
            messages.print(
                f"exclusion {signed.number} is signed and in exclusions.json, but too few replicas may have it; to "
                f"send it: asyncfl rollback {escape(self.files.quoted)} --resend",
                soft_wrap=True,
            )
            raise
        self._tell(calls, cost, signed)

    def _tell(self, calls: Calls, cost: Cost | None, signed: ExclusionStatement) -> None:
        """Say who has the exclusion. Ends the program with 1 where another one counts, or too few have it."""
        number, needed = signed.number, self.files.deployment.parameters.quorum
        have = [
            name
            for name, call in calls.items()
            if call.answer is not None and signed in call.answer.statements
        ]
        newest = self.held.held[-1]
        if self.manner.json:
            write_json(self._facts(signed, cost, calls, have), Path("-"))
        else:
            show_replicas(calls, have, f"exclusion {number}")
        root = escape(str(self.files.root))
        if newest != signed:
            messages.print(
                f"[bold red]not in force:[/] another exclusion {newest.number}, signed elsewhere with this key, "
                f"counts: it {describe_change(self._said(newest))}. What you asked for does not; run the command "
                f"again, and it becomes exclusion {self.held.highest + 1}",
                soft_wrap=True,
            )
            raise typer.Exit(int(ExitCode.FAILED))
        if len(have) < needed:
            fail_for_want_of_replicas(
                f"{len(have)} of {len(calls)} replicas have exclusion {number}, {needed} are needed",
                "exclusions.json; start the others, which take it from each other",
                f"asyncfl rollback {self.files.quoted} --resend",
            )
        if self.manner.json:
            return
        output.print(
            f"[bold green]done[/]: {len(have)} of {len(calls)} replicas have exclusion {number}, and give out "
            f"no model but under it: asyncfl model list {root}",
            soft_wrap=True,
        )
        for name in self._still_enrolled():
            output.print(
                f"  {escape(name)} is asked for nothing any more, but still enrolled: [bold]asyncfl retire "
                f"{root} {escape(name)}[/]",
                soft_wrap=True,
            )

    def _still_enrolled(self) -> list[str]:
        deployment = self.files.deployment
        return [
            name for name in deployment.members if deployment.client(name).key in self.held.in_force.clients
        ]

    def _said(self, statement: ExclusionStatement) -> dict[str, Any]:
        """A statement that is held, with what has become of it."""
        from node.exclusion_history import describe, read_history

        change = next(each for each in read_history(self.held) if each.statement == statement)
        return describe(change, self.files.deployment.names)

    def _facts(
        self, signed: ExclusionStatement, cost: Cost | None, calls: Calls, have: list[str]
    ) -> dict[str, Any]:
        deployment, newest = self.files.deployment, self.held.held[-1]
        return {
            **self._said(signed),
            "cost": None
            if cost is None
            else {
                "entries": cost.entries,
                "counted_before": cost.counted,
                "leaves_out": cost.leaves_out,
                "puts_back": cost.puts_back,
                "uploads_of_the_named": cost.blamed,
                "uploads_of_others": cost.others,
                "others": [deployment.names.get(key, key.hex()) for key in cost.others_names],
                "share_of_all_work": cost.share,
            },
            "replicas": {
                name: {"has_it": name in have, "problem": call.problem} for name, call in calls.items()
            },
            "have_it": len(have),
            "needed": deployment.parameters.quorum,
            "taken_over": self.taken_over,
            "instead": None if newest == signed else newest.number,
        }
