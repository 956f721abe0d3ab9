"""`asyncfl simulate`: the real state machines under seeded misfortune and malice, watched for broken promises."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from asyncfl.errors import ConfigurationError
from node.commands.common import ExitCode, JsonFile, messages, output, write_json

if TYPE_CHECKING:
    from asyncfl.simulation.trial import Outcome

SHOWN = 40
"""Lines of a failing run's trace."""


def simulate(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs.")] = 100,
    first_seed: Annotated[int, typer.Option(min=0, help="The first run's seed.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, max=16, help="Replicas, n.")] = 4,
    byzantine: Annotated[int, typer.Option(min=0, help="Malicious ones among them, at most (n-1)/3.")] = 1,
    attack: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="All attackers do this; absent: each seed draws its own. `list` lists."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; absent: one for each core.", show_default=False)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Run seeded simulations of whole deployments: crashes, partitions, delays, new rosters, exclusions, attackers.

    After every event it is checked that nothing but sums of whole locked groups is opened (S1), that honest replicas
    agree on the model (S2), that clients train on honest models only (S3), that no promise precedes its disk write
    (S4); at the end, that training went on (L). A failing seed is shrunk and told with its last events.

    [bold]Examples[/]

    asyncfl simulate --seeds 1000 --replicas 7 --byzantine 2

    asyncfl simulate --attack differencing --seeds 50 --json -
    """
    if attack == "list":
        _list_attacks()
        return
    from node.simulations import Campaign, run_campaign

    if replicas < 3 * byzantine + 1:
        raise ConfigurationError(
            f"{replicas} replicas tolerate at most {(replicas - 1) // 3} malicious ones: use --byzantine "
            f"{(replicas - 1) // 3}, or --replicas {3 * byzantine + 1}"
        )
    if attack is not None:
        _check_attack(attack, byzantine)
    campaign = Campaign(seeds, first_seed, replicas, byzantine, attack, workers or os.cpu_count() or 1)
    started = time.perf_counter()
    outcomes = []
    for outcome in run_campaign(campaign):
        outcomes.append(outcome)
        if outcome.kind is not None:
            told = f"seed {outcome.scenario.seed}: {escape(_verdict(outcome))}"
            messages.print(told, soft_wrap=True, highlight=False)
        elif len(outcomes) % 50 == 0:
            messages.print(f"{len(outcomes)} of {seeds} seeds, {time.perf_counter() - started:.0f} s")
    failing = [outcome for outcome in outcomes if outcome.kind is not None]
    result = _result(outcomes, failing, attack, time.perf_counter() - started)
    if failing:
        _explain(failing[0], attack)
    if json is not None:
        write_json(result, json)
    if str(json) != "-":
        output.print(
            f"{seeds} seeds, {result['entries']} entries, {result['events']} events in {result['wall_seconds']} s: "
            f"[bold]{result['violations']} violations, {result['stalled']} stalled[/]",
            soft_wrap=True,
        )
    if failing:
        raise typer.Exit(int(ExitCode.FAILED))


def _check_attack(name: str, byzantine: int) -> None:
    from asyncfl.adversary import ATTACKERS

    if name not in ATTACKERS:
        raise ConfigurationError(f"there is no attack {name!r}; `asyncfl simulate --attack list` lists them")
    least = ATTACKERS[name].least_byzantine
    if byzantine < least:
        raise ConfigurationError(
            f"{name} takes {least} malicious replica{'s' * (least > 1)}: use --byzantine {least}, and --replicas "
            f"{3 * least + 1} at least"
        )


def _list_attacks() -> None:
    from rich.table import Table

    from asyncfl.adversary import ATTACKERS

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("name", "of a", "what it tries", "what stops it"):
        table.add_column(heading, no_wrap=heading in {"name", "of a"})
    for attacker in sorted(ATTACKERS.values(), key=lambda a: (a.role, a.name)):
        table.add_row(attacker.name, attacker.role, attacker.tries, attacker.rule)
    output.print(table)


def _verdict(outcome: Outcome) -> str:
    if outcome.violations:
        return str(outcome.violations[0])
    return f"stalled: {outcome.stalled}"


def _result(
    outcomes: list[Outcome], failing: list[Outcome], attack: str | None, seconds: float
) -> dict[str, Any]:
    from asyncfl.simulation.telling import command_of

    return {
        "seeds": len(outcomes),
        "violations": sum(bool(outcome.violations) for outcome in outcomes),
        "stalled": sum(outcome.kind == "L" for outcome in outcomes),
        "entries": sum(outcome.entries for outcome in outcomes),
        "events": sum(outcome.events for outcome in outcomes),
        "uploads": {
            "sent": sum(outcome.sent for outcome in outcomes),
            "included": sum(outcome.included for outcome in outcomes),
        },
        "failing": [
            {
                "seed": outcome.scenario.seed,
                "rule": outcome.kind,
                "what": _verdict(outcome),
                "command": command_of(outcome, attack),
            }
            for outcome in failing
        ],
        "wall_seconds": round(seconds, 1),
    }


def _explain(outcome: Outcome, attack: str | None) -> None:
    """The failing run made as small as possible, what happened last in it, and how to run it again."""
    from rich.table import Table

    from asyncfl.simulation.shrinking import TRIES, shrink
    from asyncfl.simulation.telling import HEARTBEATS, command_of, last_events

    scenario = outcome.scenario
    messages.print(
        f"\nseed {scenario.seed}, made smaller as long as it breaks the same rule (at most {TRIES} runs) …"
    )
    small = shrink(outcome)
    messages.print(f"before  {scenario}", highlight=False, soft_wrap=True)
    messages.print(f"after   {small.scenario}", highlight=False, soft_wrap=True)
    for thing in (*small.scenario.attacks, *small.scenario.faults):
        messages.print(f"  {escape(str(thing))}", highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("seconds", justify="right", no_wrap=True)
    for heading in ("who", "to whom"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what", overflow="fold")
    for line in last_events(small, SHOWN):
        kind = escape(line.kind) if line.target else f"[cyan]{escape(line.kind)}[/]"
        table.add_row(f"{line.time:.3f}", line.node, line.target or "", f"{kind} [dim]{escape(line.said)}[/]")
    messages.print(f"\nits last events, without {', '.join(HEARTBEATS[:-1])} and {HEARTBEATS[-1]}:\n")
    messages.print(table)
    messages.print(f"\n{escape(_verdict(small))}", style="bold red", soft_wrap=True)
    messages.print(
        f"\nthe whole run again: {escape(command_of(outcome, attack))}", highlight=False, soft_wrap=True
    )
    messages.print(
        f"the small one, in Python: run({escape(repr(small.scenario))})", highlight=False, soft_wrap=True
    )
