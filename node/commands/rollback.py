"""`asyncfl rollback`: the operator takes entries out of the model, or puts them back, while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError
from node.commands.audit import describe_exclusion
from node.commands.common import Directory, ExitCode, JsonFlag, confirm, messages, output, write_json
from node.commands.enroll import Wait, Yes
from node.commands.roster_page import show_replicas, waiting

if TYPE_CHECKING:
    from asyncfl.exclusions import Exclusions
    from asyncfl.identity import Identity
    from asyncfl.messages import ExclusionStatement
    from node.deployment_files import DeploymentDirectory
    from node.operator_calls import Call
    from node.rollback import Cost, Known

CONFIRMED: Final = "a signed exclusion is replaced by another one only (--undo)"


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
        str | None, typer.Option(metavar="VERSION", help="Leave out what came after this certified version.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the newest exclusion back.")] = False,
    reason: Annotated[str, typer.Option(help="For the audit trail.")] = "",
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
    divided, so with a client go all uploads of its groups. Nothing is deleted, and --undo puts it back.

    [bold]Examples[/]

    asyncfl rollback run --exclude-client client-3 --reason "labels flipped"

    asyncfl rollback run --exclude-entry 9f3a1c02 --yes

    asyncfl rollback run --to 5d21aa90

    asyncfl rollback run --undo
    """
    from node.rollback import Wish

    wish = Wish(exclude_entry or (), exclude_client or (), to, reason)
    changes = sum((bool(wish.entries or wish.clients or wish.to), undo, send_again))
    if changes != 1:
        raise ConfigurationError(
            "say what to leave out (--exclude-entry, --exclude-client, --to), or --undo, or --resend: one of the three"
        )
    _Rollback.open(directory, Manner(wait, yes, json)).run(None if undo or send_again else wish, undo, reason)


@dataclass(frozen=True, slots=True)
class _Rollback:
    files: DeploymentDirectory
    operator: Identity
    manner: Manner

    @classmethod
    def open(cls, root: Path, manner: Manner) -> _Rollback:
        from node.enrolment import open_as_operator

        files, operator = open_as_operator(root)
        return cls(files, operator, manner)

    def run(self, wish: Any, undo: bool, reason: str) -> None:
        from node import rollback as planning
        from node.enrolment import operator_at_work
        from node.exclusion_file import read_exclusions, write_exclusions

        root, deployment = self.files.root, self.files.deployment
        with operator_at_work(root):
            held = read_exclusions(root, deployment)
            if wish is None and not undo:
                if not held.held:
                    raise ConfigurationError("no exclusion was ever signed here: there is nothing to send")
                self._send(held, None)
                return
            # Replicas that missed an earlier one get it on this occasion.
            self._call(held)
            known = self._known()
            statement = planning.undo(held, reason) if undo else planning.plan(deployment, held, known, wish)
            cost = self._announce(statement, held, known)
            if not self.manner.yes:
                confirm(CONFIRMED)
            signed = planning.sign(self.operator, deployment.digest, statement)
            write_exclusions(root, (*held.held, signed))
            held.add(signed)
            self._send(held, cost)

    def _known(self) -> Known:
        """The ledger and the versions of the replica with the most entries on this machine."""
        from asyncfl.audit import Audit
        from asyncfl.ledger import Ledger
        from node.audit_report import load
        from node.rollback import Known

        here = [
            entry.name
            for entry in self.files.deployment.replicas
            if (self.files.state(entry.name) / "state.sqlite").exists()
        ]
        audits: list[Audit] = list(load(self.files, here).audits.values())
        for audit in audits:
            audit.read()
        if not audits:
            return Known(Ledger(self.files.deployment.digest))
        furthest = max(audits, key=lambda audit: len(audit.items))
        return Known(furthest.ledger, [version for audit in audits for version in audit.versions])

    def _announce(self, statement: ExclusionStatement, held: Exclusions, known: Known) -> Cost:
        """What is about to be signed, and what it costs."""
        from asyncfl.exclusions import Exclusion
        from node.audit_report import describe_statement
        from node.rollback import compute_cost

        deployment = self.files.deployment
        cost = compute_cost(known.ledger, held.in_force, Exclusion.of(statement))
        if self.manner.json:
            return cost
        said = {**describe_statement(statement, deployment.names), "counts": True, "in_force": True}
        output.print(describe_exclusion(said).rpartition(":")[0], soft_wrap=True)
        if not known.ledger.items:
            output.print(
                "  no replica keeps its state on this machine: what this costs cannot be told here",
                soft_wrap=True,
            )
            return cost
        output.print(f"  [dim]{cost.counted} of {cost.entries} entries count now[/]")
        if cost.leaves_out:
            named = (
                f"{cost.blamed} uploads of {escape(', '.join(said['clients']))}, and " if cost.blamed else ""
            )
            output.print(
                f"  [bold]{cost.leaves_out}[/] entries more are left out: {named}[bold]{cost.others}[/] uploads of "
                f"{len(cost.others_names)} other clients, {100 * cost.share:.1f} % of all work",
                soft_wrap=True,
            )
        if cost.puts_back:
            output.print(f"  [bold]{cost.puts_back}[/] entries are put back", soft_wrap=True)
        if not (cost.leaves_out or cost.puts_back):
            output.print("  no entry of the ledger here is concerned; those to come may be", soft_wrap=True)
        return cost

    def _call(self, held: Exclusions) -> dict[str, Call[ExclusionStatement]]:
        from node.operator_calls import EXCLUSIONS, Caller

        caller = Caller(EXCLUSIONS, self.files.deployment, self.operator)
        with waiting(shown=not self.manner.json) as say:
            calls = caller.call(held.statements(0), after=held.highest, deadline=self.manner.wait, say=say)
        for name, call in calls.items():
            newest = None if call.answer is None else call.answer.newest
            if newest is not None and newest.number > held.highest:
                raise ConfigurationError(
                    f"{self.files.root / 'exclusions.json'} is not the newest: {name} holds exclusion "
                    f"{newest.number}, signed with this operator's key, and the file ends with {held.highest}; bring "
                    "the newest file here, or two exclusions would have the same number"
                )
        return calls

    def _send(self, held: Exclusions, cost: Cost | None) -> None:
        """Give the replicas the newest exclusion, and say who has it."""
        number, needed = held.highest, self.files.deployment.parameters.quorum
        calls = self._call(held)
        have = [
            name for name, call in calls.items() if call.answer is not None and call.answer.number >= number
        ]
        if self.manner.json:
            write_json(self._facts(held, cost, calls, have), Path("-"))
        else:
            show_replicas(calls, have, f"exclusion {number}")
        root = escape(str(self.files.root))
        if len(have) >= needed:
            if not self.manner.json:
                output.print(
                    f"[bold green]done[/]: {len(have)} of {len(calls)} replicas have exclusion {number}, and give out "
                    f"no model but under it: asyncfl model list {root}",
                    soft_wrap=True,
                )
                for name in self._still_enrolled(held):
                    output.print(
                        f"  {escape(name)} is asked for nothing any more, but still enrolled: [bold]asyncfl retire "
                        f"{root} {escape(name)}[/]",
                        soft_wrap=True,
                    )
            return
        messages.print(
            f"[bold red]not yet in force:[/] {len(have)} of {len(calls)} replicas have exclusion {number}, {needed} "
            "are needed. It is signed and in exclusions.json; start the others, which take it from each other, or send "
            f"it again: asyncfl rollback {root} --resend",
            soft_wrap=True,
        )
        raise typer.Exit(int(ExitCode.FAILED))

    def _still_enrolled(self, held: Exclusions) -> list[str]:
        deployment = self.files.deployment
        return [name for name in deployment.members if deployment.client(name).key in held.in_force.clients]

    def _facts(
        self,
        held: Exclusions,
        cost: Cost | None,
        calls: Mapping[str, Call[ExclusionStatement]],
        have: list[str],
    ) -> dict[str, Any]:
        from node.audit_report import describe_statement

        deployment = self.files.deployment
        return {
            **describe_statement(held.held[-1], deployment.names),
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
        }
