"""A deployment of real processes under everything at once, for half an hour: does anything grow, or stay behind?

Every link runs through a proxy. Drawn from the seed: processes are killed, paused and started again, up to t replicas
at a time; links are slow, corrupt, reset, half-open, black holes; replicas are cut off, now and then more than t of
them; clients join and retire; one replica and two clients attack, with one attack after the other. Memory,
descriptors and threads of every process are sampled all the time.

    python scripts/soak.py --minutes 30 --seed 1 --json soak.json --plot soak.png
    python scripts/soak.py --minutes 5 --replicas 4 --byzantine 1 --liars 0
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Final

import typer
from chaos import soak
from chaos.deployment import ChaoticDeployment
from chaos.plan import Cast
from chaos.soak_plot import draw
from chaos.soak_view import growth_table
from chaos.verdict import SHORTEST_SECONDS, WARM_UP_SECONDS

from asyncfl.adversary import ATTACKERS
from asyncfl.errors import ConfigurationError
from node.commands.common import ExitCode, JsonFile, messages, write_json
from node.deployment_creation import NewDeployment
from node.supervisor.demonstration import fresh_directory

MISBEHAVIOUR: Final = Path(__file__).parents[1] / "misbehaviour"
"""What `asyncfl node --misbehave` needs, for the processes that are started here."""
MALICIOUS: Final = "malicious"
PARTIES: Final = 4
"""Processes of honest clients."""
MINUTES_PER_JOINER: Final = 5


def main(
    *,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Made anew for the run.")] = Path(
        "soak-run"
    ),
    minutes: Annotated[float, typer.Option(min=1.0)] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all that happens, and of the training.")] = 1,
    replicas: Annotated[int, typer.Option(min=4, help="n")] = 7,
    byzantine: Annotated[int, typer.Option(min=1, help="t")] = 2,
    liars: Annotated[int, typer.Option(min=0, help="Replicas that attack, at most t.")] = 1,
    clients: Annotated[int, typer.Option(min=8, help="The last two of them attack.")] = 18,
    json: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture as PNG.")] = None,
) -> None:
    """Run a deployment under kills, bad links, attacks and changes of members, and judge what it takes."""
    if liars > byzantine:
        raise ConfigurationError(f"--liars {liars}: at most --byzantine {byzantine} replicas may attack")
    fresh_directory(directory)
    # Of the processes that are started here; installing the extra would do the same for all.
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{MISBEHAVIOUR}{os.pathsep}{kept}" if kept else str(MISBEHAVIOUR)
    wanted = NewDeployment(
        replicas=replicas,
        byzantine=byzantine,
        clients=clients,
        seed=seed,
        allow_misbehaviour=True,
        training={"local_steps": 8},
    )
    parties = _parties(clients)
    deployment = ChaoticDeployment(directory.resolve(), wanted, parties, seed=seed)
    cast = _cast(wanted, tuple(parties), list(deployment.replicas), liars=liars, minutes=minutes)
    outcome = asyncio.run(soak.run(deployment, cast, seed=seed, seconds=60 * minutes, console=messages))
    messages.print()
    messages.print(growth_table(outcome.growths))
    messages.print()
    if plot is not None:
        size = f"n = {replicas}, t = {byzantine}, {clients} clients"
        title = f"{minutes:g} minutes of kills, bad links and attacks ({size})"
        draw(outcome.story, cast.liars + cast.malicious, title, plot)
    if json is not None:
        given = {"minutes": minutes, "seed": seed, "replicas": replicas, "byzantine": byzantine}
        write_json({**given, "liars": liars, "clients": clients, **outcome.facts()}, json)
    _conclude(outcome)


def _parties(clients: int) -> dict[str, list[str]]:
    """Who shares a process."""
    names = [f"client-{index}" for index in range(clients)]
    honest, attacking = names[:-2], names[-2:]
    return {f"party-{number}": honest[number::PARTIES] for number in range(PARTIES)} | {MALICIOUS: attacking}


def _cast(
    wanted: NewDeployment, parties: tuple[str, ...], replicas: list[str], *, liars: int, minutes: float
) -> Cast:
    joiners = max(1, int(minutes) // MINUTES_PER_JOINER)
    return Cast(
        honest=tuple(replicas[: len(replicas) - liars]),
        liars=tuple(replicas[len(replicas) - liars :]),
        byzantine=wanted.byzantine,
        parties=tuple(name for name in parties if name != MALICIOUS),
        malicious=(MALICIOUS,),
        spared=(replicas[0], parties[0]),
        joiners=tuple(f"client-{wanted.clients + number}" for number in range(joiners)),
        replica_attacks=_attacks("replica"),
        client_attacks=_attacks("client"),
    )


def _attacks(role: str) -> tuple[str, ...]:
    return tuple(sorted(name for name, attacker in ATTACKERS.items() if attacker.role == role))


def _conclude(outcome: soak.Outcome) -> None:
    messages.print(
        f"{outcome.entries} entries; {len(outcome.story.happened)} misfortunes, {outcome.kills} kills among them; "
        f"accuracy {outcome.accuracy:.3f}, at first {outcome.first_accuracy:.3f}; the replicas agreed "
        f"{outcome.settled_s:.1f} s after the last misfortune",
        highlight=False,
        soft_wrap=True,
    )
    for failure in outcome.failures:
        messages.print("[red]✗[/]", failure, markup=True, soft_wrap=True, highlight=False)
    if outcome.failures:
        raise typer.Exit(int(ExitCode.FAILED))
    if all(growth.mib_per_hour is None for growth in outcome.growths):
        least = (WARM_UP_SECONDS + SHORTEST_SECONDS) / 60
        messages.print(
            f"[yellow]![/] no process lived for {least:g} minutes, so that its growth could be judged; nobody died, "
            "nothing stayed behind",
            soft_wrap=True,
        )
        return
    messages.print(
        "[green]✓[/] memory, descriptors and threads are within bounds; nobody died, nothing stayed behind"
    )


if __name__ == "__main__":
    from node.cli import run_program

    run_program(main)
