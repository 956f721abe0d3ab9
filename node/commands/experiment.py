"""`asyncfl experiment`: seeded virtual-time runs with real training, side by side with FedBuff and FedAvg."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from asyncfl.errors import StorageError
from node.commands.common import JsonFile, messages, output, write_json
from node.whole_files import write_whole


def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="What to run.", show_default=False)],
    *,
    reduced: Annotated[
        bool,
        typer.Option(
            "--reduced", help="With the keys of the file's table \\[reduced]: seconds or minutes, to try it."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write results.json and the plots there. With malicious clients also every run as it ends: the same "
            "command goes on where it was interrupted.",
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", help="With malicious clients: where the archive is that the file names."
        ),
    ] = Path("data"),
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With malicious clients: processes that share the runs; absent: one for each core, one with a GPU.",
            show_default=False,
        ),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Run an experiment on virtual time: the real state machines, real training, chosen speeds and failures.

    The same file gives the same course of events again; masks and noise are drawn anew. A file of kind "poisoning" sets
    attacks on learning against aggregation rules, in the clear and under groups.

    [bold]Examples[/]

    asyncfl experiment experiments/balance.toml --out balance

    asyncfl experiment experiments/throughput.toml --reduced --json -

    asyncfl experiment experiments/poisoning/mnist.toml --data archives --out mnist
    """
    from node.experiment.configuration import parse_experiment, read_file
    from node.experiment.plots import draw_plots
    from node.experiment.poisoning.configuration import is_poisoning
    from node.experiment.runner import run_experiment

    text = read_file(file)
    if is_poisoning(text, source=str(file)):
        _poisoning(text, file, reduced=reduced, out=out, data=data, workers=workers, json=json)
        return
    wanted = parse_experiment(text, source=str(file), reduced=reduced)
    _make(out)
    result = run_experiment(wanted, _tell)
    result["reduced"] = reduced
    if out is not None:
        write_json(result, out / "results.json")
        for path in draw_plots(result, out):
            messages.print(f"wrote {escape(str(path))}", soft_wrap=True)
    if json is not None:
        write_json(result, json)
    if str(json) != "-":
        output.print(_table(result))
        if "comparison" in result:
            output.print()
            output.print(_comparison(result["comparison"]))


def _make(out: Path | None) -> None:
    """The directory of results. Raises `StorageError`."""
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}; name another --out") from None


def _poisoning(
    text: str,
    file: Path,
    *,
    reduced: bool,
    out: Path | None,
    data: Path,
    workers: int | None,
    json: Path | None,
) -> None:
    import torch

    from node.experiment.poisoning.cells import run_cells
    from node.experiment.poisoning.configuration import parse_poisoning
    from node.experiment.poisoning.map_plot import draw_map, is_map
    from node.experiment.poisoning.plots import draw_poisoning
    from node.experiment.poisoning.report import drop_table, markdown, table
    from node.experiment.poisoning.trade_plot import draw_trade, is_trade

    wanted = parse_poisoning(text, source=str(file), reduced=reduced)
    _make(out)
    left = len(wanted.cells())

    def tell(facts: dict[str, Any], there: bool) -> None:
        nonlocal left
        left -= 1
        how = "was there" if there else f"{facts['wall_seconds']} s"
        messages.print(
            f"{escape(facts['attack'])}, {100 * facts['malicious']:g} %, groups of {facts['group']}, "
            f"noise {facts['noise_multiplier']:g}, {facts['rule']}, seed {facts['seed']}: "
            f"accuracy {facts['accuracy']:.4f} ({how}; {left} left)",
            soft_wrap=True,
        )

    # A GPU trains all clients of a run side by side, and is no faster for several processes.
    usual = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    result = run_cells(wanted, data, out, tell, workers=workers or usual)
    result["reduced"] = reduced
    if out is not None:
        write_json(result, out / "results.json")
        pictures = [draw_poisoning(result, out), *(draw_map(result, out) if is_map(result) else ())]
        if is_trade(result):
            pictures.append(draw_trade(result, out))
        write_whole(out / "tables.md", markdown(result).encode())
        for path in (*pictures, out / "tables.md"):
            messages.print(f"wrote {escape(str(path))}", soft_wrap=True)
    if json is not None:
        write_json(result, json)
    if str(json) != "-":
        output.print(table(result))
        if wanted.unseen:
            output.print()
            output.print(drop_table(result))


def _tell(facts: dict[str, Any]) -> None:
    messages.print(
        f"{escape(facts['run'])}, seed {facts['seed']}: accuracy {facts['accuracy']:.4f} after "
        f"{facts['virtual_seconds']:.0f} virtual s ({facts['wall_seconds']} s)",
        soft_wrap=True,
    )


def _table(result: dict[str, Any]) -> Table:
    chosen = result["experiment"].get("classes")
    target = result["experiment"].get("target_accuracy")
    noisy = any(run["epsilon"] for run in result["runs"])
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("run", no_wrap=True)
    headings = [
        "seed",
        "accuracy",
        *(["classes"] if chosen else []),
        f"to {target:g}" if target else "seconds",
    ]
    for heading in [*headings, "uploads", "Jain", "spread", "stale", *(["epsilon"] if noisy else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in result["runs"]:
        end = f"{run['virtual_seconds']:.0f} s" + ("" if run["finished"] else ", cut")
        if target:
            reached = run["target_reached_s"]
            end = "never" if reached is None else f"{reached:.0f} s"
        uploads, staleness = run["uploads"], run["staleness"]
        table.add_row(
            escape(run["run"]),
            str(run["seed"]),
            f"{run['accuracy']:.4f}",
            *([f"{run['accuracy_on_classes']:.4f}"] if chosen else []),
            end,
            f"{uploads['included']}/{uploads['sent']}",
            "-" if run["jain"] is None else f"{run['jain']:.3f}",
            str(run["largest_difference"]),
            "-" if staleness is None else f"{staleness['median']:.0f}",
            *([_epsilon(run)] if noisy else []),
        )
    table.caption = "spread: largest difference of inclusion counts; stale: median of uploads"
    if noisy:
        table.caption += "; epsilon: largest, and how much less others present throughout have spent at most"
    table.caption_justify = "left"
    return table


def _epsilon(run: dict[str, Any]) -> str:
    if not run["epsilon"]:
        return "none"
    # Smallest and largest, so that nobody has to work out a spread.
    return f"{min(run['epsilon']):,.1f}–{max(run['epsilon']):,.1f}"


def _comparison(comparison: dict[str, Any]) -> Table:
    reached = list(comparison["runs"][0]["epochs_to"])
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("run", no_wrap=True)
    for heading in [
        "seeds",
        "accuracy",
        "difference",
        *(f"to {accuracy}" for accuracy in reached),
        "bytes",
        "epsilon",
    ]:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in comparison["runs"]:
        difference, error = run["difference"], run["standard_error"]
        table.add_row(
            escape(run["run"]),
            str(len(run["seeds"])),
            f"{run['accuracy']:.4f}",
            ("" if difference is None else f"{difference:+.2f}")
            + ("" if error is None else f" ± {error:.2f}"),
            *(_epochs(run, at) for at in reached),
            "-" if run["upload_bytes"] is None else f"{run['upload_bytes']:,.0f}",
            "none" if run["epsilon"] is None else f"{run['epsilon']:,.1f}",
        )
    table.caption = (
        f"difference to {escape(comparison['reference'])} in points, mean and standard error; to: epochs until that "
        "accuracy, or how many of the seeds reached it; bytes: of one upload"
    )
    table.caption_justify = "left"
    return table


def _epochs(run: dict[str, Any], accuracy: str) -> str:
    """A mean over the seeds that came so far would compare different seeds."""
    if run["epochs_to"][accuracy] is not None:
        return f"{run['epochs_to'][accuracy]:.1f}"
    return f"{run['reached'][accuracy]} of {len(run['seeds'])}" if run["reached"][accuracy] else "never"
