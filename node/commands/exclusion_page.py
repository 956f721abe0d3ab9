"""What is shown of the operator's exclusions: one in a line, all of them, and what the next one costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from asyncfl.errors import StorageError
from node.commands.common import output, show_left_aside, write_json
from node.commands.roster_page import listed

if TYPE_CHECKING:
    from asyncfl.deployment import Deployment
    from node.deployment_files import DeploymentDirectory
    from node.rollback import Cost, Known


def describe_exclusion(said: dict[str, Any]) -> str:
    """One line about a statement of the operator's, and what has become of it."""
    state = _state(said)
    return f"exclusion {said['number']} {describe_change(said)}{f': {state}' if state else ''}"


def describe_change(said: dict[str, Any]) -> str:
    """What a statement changes, and why."""
    leaves_out, puts_back = describe_content(said["leaves_out"]), describe_content(said["puts_back"])
    parts = [f"leaves out {leaves_out}"] if leaves_out else []
    parts += [f"puts back {puts_back}"] if puts_back else []
    what = ", and ".join(parts) or "changes nothing"
    if numbers := [str(number) for number in said["takes_back"]]:
        head, last = ", ".join(numbers[:-1]), numbers[-1]
        what = f"takes back exclusion{'s' if head else ''} {f'{head} and {last}' if head else last}: {what}"
    return f"{what} ({escape(said['reason'])})" if said["reason"] else what


def describe_content(said: dict[str, Any]) -> str:
    """Entries, clients and epochs in words; empty where there is none."""
    return describe_parts(len(said["entries"]), said["clients"], said["spans"])


def describe_parts(count: int, clients: list[str], spans: list[list[int]]) -> str:
    """So many entries, clients by name, and first and last epochs, in words."""
    parts = [f"{count} entries" if count != 1 else "1 entry"] if count else []
    parts += [escape(listed(clients))] if clients else []
    parts += [f"epochs {first} to {last}" if first != last else f"epoch {first}" for first, last in spans]
    return ", ".join(parts)


def _state(said: dict[str, Any]) -> str:
    match said["state"]:
        case "in force":
            return "[bold]in force[/]"
        case "partly in force":
            return "[yellow]partly in force[/]"
        case "taken back":
            return f"[dim]taken back by exclusion {said['taken_back_by']}[/]"
        case "signed":
            return f"[yellow]signed, 0 of {len(said['lacking'])} replicas here have it[/]"
        case "does not count":
            return "[red]signed as well under this number: does not count[/]"
    return ""


def show_lacking(exclusions: list[dict[str, Any]]) -> None:
    """Which replicas' states here lack the newest statement."""
    newest = next((each for each in reversed(exclusions) if each["state"] != "does not count"), None)
    if newest is not None and newest["lacking"] and newest["state"] != "signed":
        output.print(
            f"  [yellow]{escape(listed(newest['lacking']))} had not heard of exclusion {newest['number']}[/] when this "
            "was read; a replica takes it from the others when it runs",
            soft_wrap=True,
        )


def show_history(exclusions: list[dict[str, Any]], root: Path, *, with_states: bool) -> None:
    """All statements, and what is left out now; `with_states`: as far as the replicas' states here tell."""
    from node.audit_report import told_time
    from node.exclusion_report import explain_unsent

    if not exclusions:
        output.print("nothing was ever left out")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("when (UTC)", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("state", overflow="fold")
    for said in exclusions:
        when = said["signed_at"] or said["certified_at"]
        time = "–" if when is None else told_time(when)[:16]
        table.add_row(str(said["number"]), time, describe_change(said), _state(said))
    output.print(table)
    newest = next(each for each in reversed(exclusions) if each["state"] != "does not count")
    heard = [each for each in exclusions if each["state"] not in {"does not count", "signed"}]
    now = describe_content(heard[-1]) if heard else ""
    output.print(f"left out now: [bold]{now or 'nothing'}[/]", soft_wrap=True)
    if newest["state"] == "signed":
        unsent = explain_unsent(newest["number"], len(newest["lacking"]), root)
        output.print(f"[yellow]{escape(unsent)}[/]", soft_wrap=True)
    elif not with_states:
        output.print(
            f"[dim]no replica's state is here: whether they have it, asyncfl rollback {escape(str(root))} --resend "
            "says[/]",
            soft_wrap=True,
        )
    show_lacking(exclusions)


def list_exclusions(root: Path, *, json: bool) -> None:
    """What the file and the replicas' states here say. No key is needed, and nobody is called."""
    from node.audit_report import load
    from node.deployment_files import DeploymentDirectory
    from node.exclusion_file import read_exclusions
    from node.exclusion_report import describe_exclusions

    files = DeploymentDirectory.load(root)
    signed = read_exclusions(root, files.deployment)
    report = load(files, states_here(files))
    for audit in report.audits.values():
        audit.read()
    told = describe_exclusions(report, signed)
    if report.unread and not told:
        raise StorageError("; ".join(report.unread.values()))
    show_left_aside(report.unread.values())
    if json:
        write_json({"exclusions": told}, Path("-"))
    else:
        show_history(told, root, with_states=bool(report.audits))


def states_here(files: DeploymentDirectory) -> list[str]:
    """The replicas that keep a state on this machine."""
    from node.evidence_files import keeps_state

    return [entry.name for entry in files.deployment.replicas if keeps_state(files, entry.name)]


def announce(said: dict[str, Any], cost: Cost, known: Known, deployment: Deployment) -> None:
    """What is about to be signed, and what it costs."""
    output.print(f"[bold]exclusion {said['number']}[/] {describe_change(said)}", soft_wrap=True)
    then = describe_content(said)
    if then != describe_content(said["leaves_out"]):
        output.print(f"  left out then: {then or 'nothing'}", soft_wrap=True)
    if said["leaves_out"]["spans"] and known.under_way is not None:
        output.print(
            f"  [dim]entries of the ledger here reach to epoch {known.ledger.last_epoch}; up to epoch "
            f"{known.under_way} uploads may be under way; later epochs count[/]",
            soft_wrap=True,
        )
    if not known.ledger.items:
        output.print(
            "  no replica keeps its state on this machine: what this costs cannot be told here",
            soft_wrap=True,
        )
    else:
        _show_cost(said, cost)
    _warn_of_the_end(said, deployment)


def warn_of_return(said: dict[str, Any]) -> None:
    """Whom going back to a version lets in again, not in that version alone."""
    if clients := said["puts_back"]["clients"]:
        output.print(
            f"  [yellow]{escape(listed(clients))} counts in that version, and so in epochs to come[/]: "
            "--exclude-client beside --to keeps a client out, of that version too",
            soft_wrap=True,
        )


def _show_cost(said: dict[str, Any], cost: Cost) -> None:
    output.print(f"  [dim]{cost.counted} of {cost.entries} entries count now[/]")
    if cost.leaves_out:
        named = (
            f"{cost.blamed} uploads of {escape(listed(said['leaves_out']['clients']))}, and "
            if cost.blamed
            else ""
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
    if cost.leaves_out == cost.counted + cost.puts_back:
        output.print("  [yellow]then nothing counts: the model is the initial one[/]", soft_wrap=True)


def _warn_of_the_end(said: dict[str, Any], deployment: Deployment) -> None:
    """Whoever is left out is asked for nothing any more."""
    left = len(set(deployment.members) - set(said["clients"]))
    if said["leaves_out"]["clients"] and left < deployment.parameters.min_group:
        output.print(
            f"  [yellow]{left} clients are left, and a group has {deployment.parameters.min_group} at least: training "
            "stops[/] until others are enrolled, or this is taken back",
            soft_wrap=True,
        )
