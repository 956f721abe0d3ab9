"""`asyncfl audit`: everything that replicas have on disk, checked anew from its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from node.commands.common import Directory, ExitCode, JsonFile, counted, output, write_json
from node.commands.exclusion_page import describe_exclusion, show_lacking
from node.commands.roster_page import listed, waiting
from node.commands.settings_page import describe_settings

if TYPE_CHECKING:
    from node.audit_report import Report


MOST_PROBLEMS: Final = 40
"""As many are shown, the first ones; later ones often follow from these."""


def audit(*, directory: Directory, json: JsonFile = None) -> None:
    """Check what the replicas of DIR have on disk, and show who took part in what.

    Verifies every signature (locks, attestations, certificates, the operator's statements) and computes the model of
    every certified version anew from the entries. DIR is a deployment's directory, or one replica's in it
    (DIR/state/NAME). Nodes may run meanwhile; nothing is changed. Nothing is shown of any single update but whose it
    is. Fails (exit code 1) when something is wrong, 3 when a state cannot be read.

    [bold]Examples[/]

    asyncfl audit run

    asyncfl audit run --json audit.json
    """
    from node.audit_report import check, load, replicas_here
    from node.evidence_files import find_nodes

    files, nodes = find_nodes(directory)
    report = load(files, replicas_here(files, nodes))
    with waiting(shown=json is None or str(json) != "-") as say:
        check(report, say)
    if json is not None:
        write_json(report.facts, json)
    if json is None or str(json) != "-":
        _show(report)
    if report.unread:
        from asyncfl.errors import StorageError

        raise StorageError("; ".join(report.unread.values()))
    if report.problems:
        raise typer.Exit(int(ExitCode.FAILED))


def _show(report: Report) -> None:
    facts = report.facts
    output.print(f"[bold]{escape(facts['name'])}[/], deployment {facts['deployment'][:16]}")
    output.print(_replicas(facts["replicas"], with_exclusions=bool(facts["exclusions"])))
    output.print(escape("; ".join(describe_settings(facts["settings"]))), soft_wrap=True)
    _show_rows(facts)
    if facts["clients"]:
        output.print(_clients(facts["clients"]))
    for each in facts["exclusions"]:
        output.print(describe_exclusion(each), soft_wrap=True)
    show_lacking(facts["exclusions"])
    proven = [piece for piece in facts["evidence"] if piece["verified"]]
    for piece in proven:
        output.print(f"[red]proven:[/] {escape(piece['culprit'])} {escape(piece['what'])}", soft_wrap=True)
    if not proven:
        output.print("no evidence: nobody was proven to have lied")
    for each in facts["remarks"]:
        output.print(f"[yellow]note:[/] {escape(each['replica'])}: {escape(each['remark'])}", soft_wrap=True)
    for each in facts["problems"][:MOST_PROBLEMS]:
        output.print(
            f"[bold red]wrong:[/] {escape(each['replica'])}: {escape(each['problem'])}", soft_wrap=True
        )
    if more := facts["problems"][MOST_PROBLEMS:]:
        names = sorted({each["replica"] for each in more})
        output.print(f"[red]and {len(more)} more, of {escape(listed(names))}:[/] --json has all")
    if facts["verified"]:
        models = f"models of {len(facts['versions'])} certified versions"
        if len(facts["versions"]) == 1:
            models = "model of 1 certified version"
        signatures = sum(each["signatures"] for each in facts["replicas"].values())
        output.print(
            f"[bold green]verified:[/] {counted(len(facts['entries']), 'entry', 'entries')}, the "
            f"{models}, {counted(signatures, 'signature')}",
            soft_wrap=True,
        )
    else:
        found = [f"the state of {listed(list(facts['unread']))} cannot be read"] if facts["unread"] else []
        if count := len(facts["problems"]):
            found.append(counted(count, "problem"))
        output.print(f"[bold red]not verified:[/] {escape(', '.join(found))}", soft_wrap=True)


def _replicas(replicas: dict[str, dict[str, Any]], *, with_exclusions: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("replica", no_wrap=True)
    for heading in (
        "entries",
        "locks",
        "certified",
        "signatures",
        *(("exclusion",) if with_exclusions else ()),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("version", no_wrap=True)
    for name, said in replicas.items():
        cells = [str(said[key]) for key in ("entries", "locked", "versions", "signatures")]
        if with_exclusions:
            cells.append(str(said["exclusion"] or "–"))
        table.add_row(name, *cells, (said["version"] or "–")[:12])
    return table


def _show_rows(facts: dict[str, Any]) -> None:
    rows = facts["rows"]
    if not rows:
        output.print("no entry yet")
        return
    members = sorted(sum(row["groups"]) for row in rows)
    sizes = ", ".join(f"{count} of {size}" for size, count in facts["cohorts"].items())
    output.print(
        f"{counted(len(rows), 'row')} (epochs {rows[0]['epoch']} to {rows[-1]['epoch']}) of {members[0]} to "
        f"{members[-1]} uploads, {members[len(members) // 2]} in the middle; groups: {sizes}",
        soft_wrap=True,
    )
    judged = [row["rule"] for row in rows if row["rule"] is not None]
    if judged:
        idle = sum(not each["groups"] for each in judged)
        groups = sorted(each["groups"] for each in judged)
        allowed = max(each["byzantine"] for each in judged)
        output.print(
            f"the rule saw {groups[0]} to {groups[-1]} groups at a row, up to {counted(allowed, 'bad one')} allowed "
            f"for; {counted(idle, 'row')} had too few groups for it and {'counts' if idle == 1 else 'count'} zero",
            soft_wrap=True,
        )


def _clients(clients: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("client", no_wrap=True)
    for heading in ("uploads", "count", "first", "last"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any("suspicion" in said for said in clients.values()):
        table.add_column("suspicion", justify="right", no_wrap=True)
        table.add_column("weight", justify="right", no_wrap=True)
    for name, said in clients.items():
        epochs = said["epochs"]
        counts = str(said["counts"])
        shown = counts if said["counts"] == len(epochs) else f"[yellow]{counts}[/]"
        cells = [escape(name[:24]), str(len(epochs)), shown, str(epochs[0]), str(epochs[-1])]
        if suspicion := said.get("suspicion"):
            cells += [f"{suspicion['mean']:.2f} ± {suspicion['deviation']:.2f}", f"{suspicion['weight']:.2f}"]
        table.add_row(*cells)
    return table
