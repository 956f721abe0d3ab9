"""Trains twice with real processes: once with all replicas honest, once with some of them malicious; and compares.

The same data, initial model, keys and cells; the malicious replicas have each other's keys. By default one of them
drops the updates that clients send it, and the other injects biased values wherever it can: into its sums of shares,
into entries, as ledger items of its own making, and as the model that clients are given. Fails (exit code 1) unless
honest replicas agree, training went on, and accuracy ends at most --tolerance points below that of the honest run.

    python scripts/byzantine_demo.py
    python scripts/byzantine_demo.py --attack silent --attack frame-up --json demo.json
    python scripts/byzantine_demo.py --data mnist.npz --clients 28 --seeds 3

`asyncfl simulate --attack list` lists the attacks.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from asyncfl.adversary import ATTACKERS
from asyncfl.errors import ConfigurationError
from node.commands.common import ExitCode, JsonFile, messages, write_json
from node.commands.supervise import store_results, watched_run
from node.commands.up import ClientProcesses
from node.deployment_creation import NewDeployment, create_deployment
from node.deployment_files import DeploymentDirectory
from node.evidence_files import read_evidence
from node.supervisor.demonstration import fresh_directory
from node.supervisor.drill import Drill
from node.supervisor.live import sparkline
from node.supervisor.plan import ScriptedPlan
from node.supervisor.record import Record
from node.supervisor.report import size
from node.supervisor.watch import Phase

EXTRA: Final = Path(__file__).resolve().parents[1] / "misbehaviour"
DROPPING: Final = "drop-updates"
BIASING: Final = "wrong-sums,altered-entries,invented-items,forged-models"
HELD_OUT: Final = 90
"""Digits of each class to measure with: 900 images, half of all, so that one of them is 0.11 points."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One run, and where it was."""

    files: DeploymentDirectory
    record: Record

    @property
    def accuracy(self) -> float | None:
        return self.record.accuracy

    @property
    def rate(self) -> float | None:
        """Entries a second, from the first one until the last client was done."""
        record = self.record
        if record.trained is None or len(record.entries) < 2:
            return None
        (first, count), last = record.entries[1], record.trained
        made = max(entries for seconds, entries in record.entries if seconds <= last) - count
        return made / (last - first) if last > first else None

    @property
    def opened(self) -> int:
        """Uploads of clients that behave, in the ledger."""
        deployment, record = self.files.deployment, self.record
        counts = record.snapshot.inclusion
        keys = {client.key.hex() for client in deployment.clients if client.name not in record.misbehaving}
        return sum(count for key, count in counts.items() if key in keys)

    def figures(self) -> dict[str, Any]:
        """What it came to, as JSON."""
        record, snapshot = self.record, self.record.snapshot
        return {
            "accuracy": record.accuracy,
            "entries": snapshot.entries,
            "entries_per_second": self.rate,
            "uploads": {
                "made": snapshot.sent,
                "opened": self.opened,
                "wasted": snapshot.sent - self.opened,
            },
            "seconds": round(record.seconds, 2),
            "longest_stall_s": round(record.longest_stall, 2),
            "failures": list(record.failures),
            "evidence": self.evidence(),
            "nodes": {
                replica.name: {
                    "misbehaving": record.misbehaving.get(replica.name),
                    "entries": replica.entries,
                    "model": None if replica.certified is None else replica.certified.model,
                    "bytes_in": replica.bytes_in,
                    "bytes_out": replica.bytes_out,
                    "evidence_held": len(replica.evidence),
                }
                for replica in snapshot.replicas
            },
            "accuracies": [
                {"seconds": round(point.seconds, 2), "entries": point.entries, "accuracy": point.accuracy}
                for point in record.accuracies
            ],
        }

    def evidence(self) -> list[dict[str, Any]]:
        """What honest replicas have on disk: kind, culprit by name, digest, and whether it verifies offline."""
        replicas = (replica.name for replica in self.files.deployment.replicas)
        honest = [name for name in replicas if name not in self.record.misbehaving]
        return [
            {
                "kind": piece.kind,
                "culprit": piece.culprit,
                "digest": piece.digest,
                "verified": piece.objection is None,
            }
            for piece in read_evidence(self.files, honest)[0]
        ]


@dataclass(frozen=True, slots=True)
class Pair:
    """The two runs of one seed."""

    seed: int
    honest: Ended
    attacked: Ended

    @property
    def difference(self) -> float | None:
        """Points of accuracy that the attacked run is better."""
        if self.honest.accuracy is None or self.attacked.accuracy is None:
            return None
        return 100 * (self.attacked.accuracy - self.honest.accuracy)


def main(
    *,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Made anew for the runs.")] = Path(
        "byzantine-run"
    ),
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="What a malicious replica does; the next one for the next replica, the last one for all others.",
            show_default=f"{DROPPING}; {BIASING}",
        ),
    ] = None,
    malicious: Annotated[int, typer.Option(min=1, help="Malicious replicas; more than t are too many.")] = 2,
    replicas: Annotated[int, typer.Option(min=4, max=16, help="n")] = 7,
    clients: Annotated[int, typer.Option(min=4)] = 21,
    epochs: Annotated[int, typer.Option(min=2, help="Every client takes part up to this epoch.")] = 16,
    seeds: Annotated[int, typer.Option(min=1, help="So many pairs of runs; accuracies are means.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the first pair: initial weights, data partition.")] = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Images, as MNIST.", show_default="digits")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Points of accuracy that may be lost.")] = 0.5,
    client_processes: ClientProcesses = None,
    json: JsonFile = None,
) -> None:
    """Train with 7 replicas of which 2 are malicious, and again with 7 honest ones; compare."""
    drill = cast_roles(attack or [DROPPING, BIASING], malicious, replicas)
    # The children find the extra that makes them misbehave here, installed or not.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(EXTRA), os.environ.get("PYTHONPATH")]))
    fresh_directory(directory)
    messages.print(introduction(drill, replicas))
    pairs = []
    for number in range(seed, seed + seeds):
        wanted = NewDeployment(
            replicas=replicas,
            byzantine=(replicas - 1) // 3,
            clients=clients,
            seed=number,
            task="digits" if data is None else f"npz:{data.resolve()}",
            task_options={"held_out": HELD_OUT} if data is None else {},
            # Towards the end steps get small: what is compared is where training ends, not its last step.
            training={"decay": "cosine", "decay_epochs": epochs},
            allow_misbehaviour=True,
        )
        root = directory / f"seed-{number}"
        create_deployment(root / "honest", wanted)
        shutil.copytree(root / "honest", root / "attacked")
        ended = []
        for name, cast in (("honest", Drill()), ("attacked", drill)):
            files = DeploymentDirectory.load(root / name)
            messages.print(
                f"\n[bold]seed {number}: {'everybody is honest' if name == 'honest' else 'under attack'}[/]"
            )
            record = watched_run(
                files, epochs=epochs, client_processes=client_processes, plan=ScriptedPlan([], []),
                baseline=False, drill=cast,
            )  # fmt: skip
            ended.append(Ended(files, record))
            store_results(files, record, more={"misbehaving": record.misbehaving})
        pairs.append(Pair(number, *ended))
    failures = judge(pairs, tolerance)
    messages.print(summary(pairs, drill, failures, tolerance))
    if json is not None:
        write_json(result(pairs, drill, failures), json)
    if failures:
        raise typer.Exit(int(ExitCode.FAILED))


def cast_roles(attacks: list[str], malicious: int, replicas: int) -> Drill:
    """Who does what: malicious replicas lie evenly among the others. Raises `ConfigurationError`."""
    if malicious > (replicas - 1) // 3:
        raise ConfigurationError(
            f"{replicas} replicas tolerate {(replicas - 1) // 3} malicious ones, not {malicious}: use --malicious "
            f"{(replicas - 1) // 3}, or --replicas {3 * malicious + 1}"
        )
    if len(attacks) > malicious:
        raise ConfigurationError(
            f"--attack is given {len(attacks)} times, for {malicious} malicious replicas"
        )
    for name in (name for several in attacks for name in several.split(",")):
        if name not in ATTACKERS or ATTACKERS[name].role != "replica":
            raise ConfigurationError(
                f"--attack {name}: there is no such attack of a replica; `asyncfl simulate --attack list` lists them"
            )
    places = [replicas * (2 * k + 1) // (2 * malicious) for k in range(malicious)]
    return Drill({f"replica-{place}": attacks[min(k, len(attacks) - 1)] for k, place in enumerate(places)})


def judge(pairs: list[Pair], tolerance: float) -> list[str]:
    """What failed, a sentence each."""
    failures = []
    for pair in pairs:
        for name, ended in (("honest", pair.honest), ("attacked", pair.attacked)):
            failures += [f"seed {pair.seed}, {name}: {sentence}" for sentence in ended.record.failures]
        for proof in (*pair.honest.evidence(), *pair.attacked.evidence()):
            if not proof["verified"] or proof["culprit"] not in pair.attacked.record.misbehaving:
                failures.append(
                    f"seed {pair.seed}: evidence against {proof['culprit']} ({proof['kind']}) is false"
                )
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    # Counts of test images, so that 0.5 points are not 0.50000001.
    if len(differences) == len(pairs) and mean(differences) < -tolerance - 1e-9:
        failures.append(
            f"accuracy under attack is {-mean(differences):.2f} points lower; at most {tolerance:g} are allowed"
        )
    return failures


def result(pairs: list[Pair], drill: Drill, failures: list[str]) -> dict[str, Any]:
    """Everything as JSON; docs/reference/commands.md says what each key means."""
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    complete = len(differences) == len(pairs)
    attacked = [pair.attacked for pair in pairs]
    rates = [run.rate for run in attacked if run.rate is not None]
    return {
        "ok": not failures,
        "failures": failures,
        "accuracy": mean(run.accuracy or 0.0 for run in attacked) if complete else None,
        "honest_accuracy": mean(pair.honest.accuracy or 0.0 for pair in pairs) if complete else None,
        "difference_points": mean(differences) if complete else None,
        "difference_spread": stdev(differences) if complete and len(pairs) > 1 else None,
        "misbehaving": dict(drill.misbehaving),
        "evidence": [{"seed": pair.seed, **proof} for pair in pairs for proof in pair.attacked.evidence()],
        "entries": sum(run.record.snapshot.entries for run in attacked),
        "entries_per_second": mean(rates) if rates else None,
        "uploads": {
            key: sum(run.figures()["uploads"][key] for run in attacked)
            for key in ("made", "opened", "wasted")
        },
        "seconds": round(
            sum(run.record.seconds for pair in pairs for run in (pair.honest, pair.attacked)), 2
        ),
        "runs": [
            {
                "seed": pair.seed,
                "difference_points": pair.difference,
                "honest": pair.honest.figures(),
                "attacked": pair.attacked.figures(),
            }
            for pair in pairs
        ],
    }


def introduction(drill: Drill, replicas: int) -> Panel:
    """Who does what, and what for."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="magenta")
    table.add_column(style="dim")
    for index in range(replicas):
        name = f"replica-{index}"
        for number, attack in enumerate(drill.misbehaving.get(name, "").split(",")):
            table.add_row(
                name if number == 0 else "",
                attack or Text("honest", style="green"),
                ATTACKERS[attack].tries if attack else "",
            )
    title = "[bold]asyncfl[/] under attack"
    return Panel(table, title=title, title_align="left", border_style="blue", padding=(1, 2))


def summary(pairs: list[Pair], drill: Drill, failures: list[str], tolerance: float) -> Panel:
    """Both runs side by side, the replicas at the end, and what was proven against whom."""
    parts: list[Table | Text] = []
    for pair in pairs:
        if len(pairs) > 1:
            parts.append(Text(f"seed {pair.seed}", style="bold"))
        parts += [compared(pair), Text()]
    last = pairs[-1].attacked
    parts += [replicas_at_the_end(last), Text()]
    parts.append(Text.from_markup(f"[dim]evidence[/]    {escape(against(pairs))}"))
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    if differences:
        spread = f" ± {stdev(differences):.2f} over {len(differences)} seeds" if len(differences) > 1 else ""
        parts.append(
            Text.from_markup(
                f"[dim]difference[/]  [bold]{mean(differences):+.2f} points[/] of accuracy{spread}, under attack "
                f"against honest; at most {tolerance:g} may be lost"
            )
        )
    parts += [Text(sentence, style="red") for sentence in failures]
    colour, verdict = ("red", "FAILED") if failures else ("green", "passed")
    who = " and ".join(drill.misbehaving)
    return Panel(
        Group(*parts),
        title=f"[bold {colour}]{verdict}[/] with {escape(who)} malicious",
        title_align="left",
        border_style=colour,
        padding=(1, 2),
    )


def against(pairs: list[Pair]) -> str:
    """What was proven against whom, in a sentence."""
    told = []
    proofs = [proof for pair in pairs for proof in pair.attacked.evidence()]
    for culprit in sorted({proof["culprit"] for proof in proofs}):
        mine = [proof for proof in proofs if proof["culprit"] == culprit]
        kinds = ", ".join(sorted({proof["kind"] for proof in mine}))
        verified = sum(proof["verified"] for proof in mine)
        told.append(f"{len(mine)} against {culprit} ({kinds}), {verified} verified offline")
    return "; ".join(told) or "none: nothing that signatures prove"


def compared(pair: Pair) -> Table:
    """The two runs of one seed side by side."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    for heading in ("all honest", "under attack"):
        table.add_column(heading, no_wrap=True)
    runs = (pair.honest, pair.attacked)
    rising = [sparkline(spread_over([point.accuracy for point in run.record.accuracies], 20)) for run in runs]
    table.add_row(
        "[dim]accuracy[/]",
        *(
            f"[bold green]{'–' if run.accuracy is None else f'{run.accuracy:.4f}'}[/] [green]{line}[/]"
            for run, line in zip(runs, rising, strict=True)
        ),
    )
    table.add_row("[dim]entries[/]", *(str(run.record.snapshot.entries) for run in runs))
    table.add_row("[dim]entries/s[/]", *("–" if run.rate is None else f"{run.rate:.2f}" for run in runs))
    table.add_row(
        "[dim]uploads[/]",
        *(
            f"{run.opened} of {run.record.snapshot.sent} opened, {run.record.snapshot.sent - run.opened} wasted"
            for run in runs
        ),
    )
    table.add_row("[dim]time[/]", *(f"{run.record.seconds:.0f} s" for run in runs))
    return table


def spread_over(values: list[float], count: int) -> list[float]:
    """At most `count` of the values, first and last among them, evenly spaced."""
    if len(values) <= count:
        return values
    return [values[round(k * (len(values) - 1) / (count - 1))] for k in range(count)]


def replicas_at_the_end(run: Ended) -> Table:
    """What each replica did, and holds."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("replica", "does", "model"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for heading in ("entries", "received", "sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    for replica in run.record.snapshot.replicas:
        honest = replica.phase is not Phase.MISBEHAVING
        attacks = run.record.misbehaving.get(replica.name, "")
        first, _, others = attacks.partition(",")
        more = f" +{others.count(',') + 1}" if others else ""
        table.add_row(
            replica.name,
            "[green]honest[/]" if not attacks else f"[magenta]{escape(first + more)}[/]",
            replica.certified.model[:12] if honest and replica.certified is not None else "–",
            str(replica.entries) if honest else "–",
            size(replica.bytes_in),
            size(replica.bytes_out),
        )
    return table


if __name__ == "__main__":
    from node.cli import run_program

    run_program(main)
