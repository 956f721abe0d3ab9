"""`asyncfl model`: the certified versions on this machine, one of them, or what differs between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from node.commands.common import Directory, JsonFile, output, show_left_aside, write_json
from node.commands.exclusion_page import describe_exclusion
from node.commands.roster_page import listed
from node.commands.settings_page import describe_settings

if TYPE_CHECKING:
    from pathlib import Path

    from node.audit_report import Report

model = typer.Typer(
    help="Certified versions of the model: list them, show one, compare two.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Name = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="First digits of its name, or newest.", show_default=False),
]


@model.command("list")
def list_versions(
    *,
    directory: Directory,
    last: Annotated[int, typer.Option(min=1, help="How many to show; --json has all.")] = 20,
    json: JsonFile = None,
) -> None:
    """Show every certified version of the model: when, of how many entries, under which exclusion, how accurate.

    Accuracy is that on clients' own test data, where the deployment collects it. DIR is a deployment's directory, or
    one replica's in it (DIR/state/NAME); nodes may run meanwhile. Nothing is checked: see asyncfl audit.

    [bold]Examples[/]

    asyncfl model list run

    asyncfl model list run --json -
    """
    from node.exclusion_report import describe_exclusions

    report = _open(directory)
    versions = _described(report)
    if json is not None:
        write_json({"versions": versions, "exclusions": describe_exclusions(report)}, json)
    if json is None or str(json) != "-":
        output.print(_table(versions[-last:]))
        if len(versions) > last:
            output.print(f"[dim]and {len(versions) - last} before: --last {len(versions)}[/]")
        for each in describe_exclusions(report):
            output.print(describe_exclusion(each), soft_wrap=True)


@model.command("show")
def show_version(*, directory: Directory, version: Name, json: JsonFile = None) -> None:
    """Show one certified version: its entries and members, the settings it was made with, and who certified it.

    [bold]Examples[/]

    asyncfl model show run newest

    asyncfl model show run 5d21aa90 --json -
    """
    from node.audit_report import describe_clients, describe_group
    from node.versions import find_version

    report = _open(directory)
    found = find_version(report, version)
    names = report.files.deployment.names
    said = next(each for each in _described(report) if each["version"] == found.certificate.version.hex())
    counting = {name for link in found.counted.back() if link.row is not None for name in link.row.items}
    entries = [
        {
            "entry": name.hex(),
            **describe_group(found.audit.ledger.items[name], names),
            "counts": name in counting,
        }
        for link in reversed(list(found.link.back()))
        if link.row is not None
        for name in link.row.items
    ]
    facts = {
        **said,
        "settings": report.files.deployment.parameters.model_dump(),
        "clients": describe_clients(entries),
        "entries_in_it": entries,
    }
    if json is not None:
        write_json(facts, json)
    if json is None or str(json) != "-":
        _show(facts)


@model.command("diff")
def diff_versions(
    *,
    directory: Directory,
    first: Annotated[
        str, typer.Argument(metavar="VERSION", help="First digits of one, or newest.", show_default=False)
    ],
    second: Annotated[
        str,
        typer.Argument(metavar="VERSION", help="First digits of the other, or newest.", show_default=False),
    ],
    json: JsonFile = None,
) -> None:
    """Compare two certified versions: entries and members that differ, and by layer how far the weights lie apart.

    A version whose model is not on disk any more is computed from the entries.

    [bold]Examples[/]

    asyncfl model diff run 5d21aa90 newest
    """
    from node.versions import describe_difference, find_version

    report = _open(directory)
    facts = describe_difference(report.files, find_version(report, first), find_version(report, second))
    if json is not None:
        write_json(facts, json)
    if json is None or str(json) != "-":
        _show_difference(facts)


def _open(directory: Path) -> Report:
    from node.evidence_files import find_nodes
    from node.versions import open_versions

    report = open_versions(*find_nodes(directory))
    show_left_aside(report.unread.values())
    return report


def _described(report: Report) -> list[dict[str, Any]]:
    """The versions, each with the accuracy that the next row's members measured on it."""
    from node.audit_report import describe_versions
    from node.version_accuracy import measure_versions

    measured = measure_versions(report) if report.files.deployment.parameters.metrics else {}
    versions = describe_versions(report)
    for each in versions:
        del each["recomputed"]
        each["accuracy"] = measured.get(bytes.fromhex(each["version"]))
    return versions


def _table(versions: list[dict[str, Any]]) -> Table:
    from node.audit_report import told_time

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("version", no_wrap=True)
    table.add_column("certified (UTC)", no_wrap=True)
    for heading in ("entries", "epoch", "exclusion", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for each in versions:
        accuracy = each["accuracy"]
        table.add_row(
            each["version"][:8],
            told_time(each["at"]),
            str(each["entries"]),
            str(each["epoch"]),
            str(each["statement"] or "–"),
            "–" if accuracy is None else f"{accuracy:.3f}",
            each["model"][:8],
        )
    return table


def _show(facts: dict[str, Any]) -> None:
    from node.audit_report import told_time

    accuracy = facts["accuracy"]
    counting = sum(each["counts"] for each in facts["entries_in_it"])
    output.print(f"[bold]version {facts['version']}[/]")
    output.print(
        f"  certified  {told_time(facts['at'])} UTC, by {escape(', '.join(facts['certified_by']))}",
        soft_wrap=True,
    )
    output.print(f"  model      {facts['model']}", soft_wrap=True)
    output.print(f"  entries    {facts['entries']}, of which {counting} count; up to epoch {facts['epoch']}")
    if facts["statement"]:
        output.print(f"  exclusion  {facts['statement']}")
    if accuracy is not None:
        output.print(f"  accuracy   {accuracy:.4f}, as the members of the next row measured it")
    settings = Table.grid(padding=(0, 2, 0, 0))
    settings.add_column(no_wrap=True, min_width=len("  certified"))
    settings.add_column(overflow="fold")
    settings.add_row("  settings", escape("; ".join(describe_settings(facts["settings"]))))
    output.print(settings)
    output.print(_epochs(facts["entries_in_it"]))
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    table.add_column("client", no_wrap=True)
    for heading in ("uploads", "count"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, said in facts["clients"].items():
        table.add_row(escape(name[:24]), str(len(said["epochs"])), str(said["counts"]))
    output.print(table)


def _epochs(entries: list[dict[str, Any]]) -> Table:
    """The entries of a version, a line for each epoch."""
    epochs: dict[int, list[dict[str, Any]]] = {}
    for each in entries:
        epochs.setdefault(each["epoch"], []).append(each)
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for heading in ("epoch", "entries", "count"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("members", overflow="fold")
    for epoch, held in epochs.items():
        members = sorted({member["client"] for each in held for member in each["members"]})
        counting = sum(each["counts"] for each in held)
        shown = str(counting) if counting == len(held) else f"[yellow]{counting}[/]"
        table.add_row(str(epoch), str(len(held)), shown, escape(listed(members)))
    return table


def _show_difference(facts: dict[str, Any]) -> None:
    first, second = facts["first"][:12], facts["second"][:12]
    output.print(
        f"{facts['in_both']} entries count in both; {len(facts['only_in_first'])} only in [bold]{first}[/], "
        f"{len(facts['only_in_second'])} only in [bold]{second}[/]",
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("uploads of", no_wrap=True)
    table.add_column(f"only in {first}", justify="right", no_wrap=True)
    table.add_column(f"only in {second}", justify="right", no_wrap=True)
    for name, said in facts["members"].items():
        table.add_row(escape(name[:24]), str(said["only_in_first"]), str(said["only_in_second"]))
    if facts["members"]:
        output.print(table)
    layers = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    layers.add_column("layer")
    for heading in (first, second, "difference"):
        layers.add_column(heading, justify="right", no_wrap=True)
    for each in facts["layers"]:
        layers.add_row(
            escape(each["layer"]),
            f"{each['first_norm']:.4g}",
            f"{each['second_norm']:.4g}",
            f"{each['difference_norm']:.4g}",
        )
    output.print(layers)
    output.print("[dim]L2 norms of the weights[/]")
