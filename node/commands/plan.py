"""`asyncfl plan`: what a privacy budget means for training, before anybody trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from node.commands.common import JsonFlag, output, write_json

_COLOURS: Final = {"usable": "green", "doubtful": "yellow", "not usable": "red"}
_MEANING: Final = {
    "usable": "training should come within about 5 points of the accuracy without noise",
    "doubtful": "training will lose clearly more than 5 points of accuracy, or needs another server learning rate",
    "not usable": "the noise drowns the model: expect less than half of what training gains without it",
}


def plan(
    *,
    epsilon: Annotated[float, typer.Option(help="Privacy budget of each client, for the whole run.")],
    delta: Annotated[float, typer.Option(help="Probability outside the guarantee.")] = 1e-5,
    epochs: Annotated[int, typer.Option(help="Uploads of each client.")] = 120,
    clients: Annotated[int, typer.Option(help="Clients in the roster, all present.")] = 1000,
    min_group: Annotated[int, typer.Option(help="Members of the smallest group that is opened.")] = 32,
    dim: Annotated[int, typer.Option(help="Parameters of the model; 4810: the digits task.")] = 4810,
    clip: Annotated[float, typer.Option(help="L2 norm that updates are clipped to.")] = 1.0,
    server_lr: Annotated[float, typer.Option(help="The server's learning rate.")] = 1.0,
    malicious_fraction: Annotated[
        float, typer.Option(help="Part of the clients that may collude and add no noise.")
    ] = 0.0,
    replicas: Annotated[int, typer.Option(min=1, help="Aggregators, n.")] = 4,
    json: JsonFlag = False,
) -> None:
    """Tell how much noise a privacy budget needs, whether a model still trains under it, and what would help.

    User-level differential privacy: the budget covers everything a client sends in the whole run.

    [bold]Examples[/]

    asyncfl plan --epsilon 1 --delta 1e-5 --epochs 120 --clients 1000 --min-group 32

    asyncfl plan --epsilon 8 --epochs 60 --clients 300 --min-group 60 --dim 100000 --json
    """
    from asyncfl.privacy.calibration import Budget
    from asyncfl.privacy.plan import Wish
    from asyncfl.privacy.plan import plan as make_plan

    facts = make_plan(
        Wish(
            budget=Budget(epsilon, delta),
            epochs=epochs,
            clients=clients,
            min_group=min_group,
            dimension=dim,
            clip=clip,
            server_learning_rate=server_lr,
            malicious_fraction=malicious_fraction,
            replicas=replicas,
        )
    )
    if json:
        write_json(facts, Path("-"))
        return
    _show(facts)


def _show(facts: dict[str, Any]) -> None:
    verdict = facts["verdict"]
    output.print(
        f"[bold {_COLOURS[verdict]}]{verdict}[/]: {_MEANING[verdict]}", soft_wrap=not output.is_terminal
    )
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("noise multiplier z", f"{facts['noise_multiplier']:.4g}")
    table.add_row(
        "epsilon",
        f"{facts['epsilon']:.4g} at delta {facts['delta']:g} after {facts['epochs']} uploads "
        f"(PLD approximation: {facts['epsilon_pld_approximation']:.4g})",
    )
    table.add_row("noise per parameter", f"{facts['noise_per_parameter']:.3g} in the mean of a row")
    table.add_row(
        "its L2 norm",
        f"{facts['noise_norm']:.3g}, which is {facts['error']:.3g} times the clip of {facts['clip']:g}; "
        f"usable up to {facts['largest_usable_error']:.3g} times",
    )
    table.add_row(
        "server learning rate",
        f"{facts['server_lr']:g}; suits best: about {facts['suitable_server_lr']:.2g} ({facts['best_verdict']})",
    )
    table.add_row("malicious allowance", _allowance(facts))
    table.add_row("usable from", _usable_from(facts))
    output.print(table)
    if facts["obstacle"]:
        output.print(
            f"[yellow]refused by this version:[/] {escape(facts['obstacle'])}",
            soft_wrap=not output.is_terminal,
        )
    output.print(
        "\n[bold]With one thing changed[/] (noise: per parameter of a row's mean; / clip: its L2 norm)",
        soft_wrap=not output.is_terminal,
    )
    output.print(_sweep(facts))
    output.print(
        "* refused by this version: sums are opened of 16 (fewer need a flag) to 63 uploads. "
        "Noise falls with the square root of clients times group size, and grows with that of the parameters. "
        "The clip scales signal and noise alike: a smaller one acts like a lower server learning rate. "
        "The verdict rests on measurements with evenly spread data (docs/results/dp-noise.md).",
        soft_wrap=not output.is_terminal,
        style="dim",
    )


def _usable_from(facts: dict[str, Any]) -> str:
    """The group that would do; where it cannot be had, why, and what can be had instead."""
    group, largest = facts["smallest_usable_group"], facts["largest_group"]
    if facts["usable_group_in_reach"] is not None:
        return f"groups of {facts['usable_group_in_reach']}, with a suitable server learning rate"
    if group is None:
        told = f"no group size: not even all {facts['clients']} clients in one group suffice"
    elif group > largest:
        told = f"groups of {group}, which is out of reach: sums of at most {largest} uploads can be opened"
    else:
        told = f"groups of {group}, which is out of reach: {facts['usable_group_obstacle']}"
    needed = facts["clients_needed"]
    if needed is None:
        return f"{told}; groups of {largest} may be filled by colluders"
    return f"{told}; groups of {largest} would do from {needed} clients on"


def _allowance(facts: dict[str, Any]) -> str:
    if facts["malicious_fraction"] == 0:
        return "0, because no client is assumed to collude (--malicious-fraction)"
    return (
        f"{facts['malicious_allowance']} members of a group are not counted on; chance that a coordinator "
        f"with {facts['malicious_fraction']:.0%} colluding clients gets anybody alone in the whole run: "
        f"{facts['isolation_probability']:.1g} at most"
    )


def _sweep(facts: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("option", "value", "z", "noise", "/ clip"):
        table.add_column(heading, justify="left" if heading == "option" else "right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("at best server lr", no_wrap=True)
    for row in facts["sweep"]:
        refused = " [yellow]*[/]" if row["obstacle"] and row["obstacle"] != facts["obstacle"] else ""
        table.add_row(
            f"--{row['change'].replace('_', '-')}",
            f"{row['value']:g}{refused}",
            f"{row['noise_multiplier']:.3g}",
            f"{row['noise_per_parameter']:.2g}",
            f"{row['error']:.3g}",
            _coloured(row["verdict"]),
            _coloured(row["best_verdict"]),
        )
    return table


def _coloured(verdict: str) -> str:
    return f"[{_COLOURS[verdict]}]{verdict}[/]"
