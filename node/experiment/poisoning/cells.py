"""Every cell of an experiment, each in a file of its own: an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from asyncfl.digest import content_digest
from asyncfl.errors import StorageError
from node.experiment.poisoning.configuration import Cell, Poisoning
from node.experiment.poisoning.course import run_cell
from node.experiment.provenance import made_with
from node.whole_files import write_whole
from node.workers import map_in_workers

Run = Callable[[Poisoning, Cell, Path], dict[str, Any]]


def run_cells(
    experiment: Poisoning,
    data: Path,
    out: Path | None,
    on_cell: Callable[[dict[str, Any], bool], None],
    run: Run = run_cell,
    *,
    workers: int = 1,
) -> dict[str, Any]:
    """The result, as plain JSON values. `data` holds the archive; `out/cells` keeps what is done, under None nothing.

    A cell that is there, made with the same settings, is not run again, whatever program made it: `made_with` tells.
    `on_cell` is called with the facts of each, and
    whether they were there. `workers` processes run cells, at one thread each. Raises `StorageError`;
    `ConfigurationError` for the data.
    """
    torch.set_num_threads(1)
    one = partial(_find_or_run, experiment, data, out, run)
    cells = []
    for facts, done in map_in_workers(one, experiment.cells(), workers):
        cells.append(facts)
        on_cell(facts, done)
    return {"experiment": experiment.model_dump(mode="json", exclude_none=True), "cells": cells}


def _find_or_run(
    experiment: Poisoning, data: Path, out: Path | None, run: Run, cell: Cell
) -> tuple[dict[str, Any], bool]:
    """The facts of a cell, and whether they were there. Written here: an interruption loses no other cell."""
    mark = content_digest(json.dumps(experiment.settings(), sort_keys=True).encode()).hex()
    path = None if out is None else out / "cells" / f"{cell.name}.json"
    found = None if path is None else _read(path, mark)
    if found is not None:
        return found, True
    found = {**run(experiment, cell, data), "made_with": made_with(), "settings": mark}
    if path is not None:
        _write(path, found)
    return found, False


def _read(path: Path, mark: str) -> dict[str, Any] | None:
    """The facts in `path`, unless there are none, or they were made with other settings."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path}: not a cell's result ({error}); delete it, and it is made again"
        ) from None
    return found if found.get("settings") == mark else None


def _write(path: Path, found: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found, indent=1).encode())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}; name another --out") from None
