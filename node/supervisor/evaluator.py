"""A process that evaluates models for the supervisor, which itself imports no torch.

``python -m node.supervisor.evaluator DIR`` reads one JSON request a line from standard input and writes one
JSON answer a line to standard output; it ends at end-of-file. Requests and answers::

    {"evaluate": DIGEST, "paths": [BLOB, ..]}        {"evaluate": DIGEST, "accuracy": 0.93} or {..., "failed": WHY}
    {"save": DIGEST, "paths": [BLOB, ..], "to": FILE, "metadata": {..}}   {"save": FILE}
    {"baseline": ROUNDS}                      {"baseline": 0.95, "by_round": {..}}, progress before it
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from asyncfl.digest import content_digest
from asyncfl.errors import AsyncflError, StorageError
from node.commands.common import exit_code
from node.deployment_files import DeploymentDirectory


def main(root: Path) -> None:
    """Serve requests until standard input ends."""
    answers = _own_standard_output()
    os.nice(5)  # Never at the cost of the run that it watches.

    import torch

    torch.set_num_threads(1)

    from node.training.loader import load_task
    from node.training.workbench import Workbench

    directory = DeploymentDirectory.load(root)
    deployment = directory.deployment
    task = load_task(
        deployment.task.factory,
        clients=len(deployment.first_clients),
        seed=deployment.task.seed,
        options=deployment.task.options,
    )
    workbench = Workbench(
        task, seed=deployment.task.seed, device="cpu", frozen_buffers=deployment.model.frozen_buffers
    )

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    def paths(request: dict[str, Any]) -> list[Path]:
        return [Path(path) for path in request["paths"]]

    def serve(request: dict[str, Any]) -> dict[str, Any]:
        if "evaluate" in request:
            model = read_blob(paths(request), request["evaluate"])
            return {"evaluate": request["evaluate"], "accuracy": workbench.evaluate(model)}
        if "save" in request:
            from node.training.files import write_model

            state = workbench.state(read_blob(paths(request), request["save"]))
            write_model(Path(request["to"]), workbench.layout, state, request["metadata"])
            return {"save": request["to"]}
        from node.training.baseline import fedavg_baseline

        rounds = request["baseline"]
        result = fedavg_baseline(
            task,
            len(deployment.first_clients),
            rounds,
            deployment.training,
            deployment.task.seed,
            evaluate_every=rounds,
            on_round=lambda number, _: answer({"progress": number, "of": rounds}),
            frozen_buffers=deployment.model.frozen_buffers,
        )
        return {"baseline": result["accuracy"]}

    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(serve(request))
        except AsyncflError as error:
            answer({**request, "failed": str(error)})


def read_blob(copies: Sequence[Path], digest: str) -> bytes:
    """A blob's bytes, from the first copy that is whole.

    Raises `StorageError`, which names the first, when all of them are gone or damaged.
    """
    problems: list[str] = []
    for path in copies:
        try:
            data = path.read_bytes()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if content_digest(data).hex() == digest:
            return data
        problems.append(f"{path}: damaged: its content has another digest")
    raise StorageError(problems[0] if problems else f"there is no copy of blob {digest[:16]} any more")


def _own_standard_output() -> TextIO:
    """Standard output for answers alone: whatever a task prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except AsyncflError as mistake:  # As `asyncfl node` ends: one line, and the exit code that stands for it.
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(int(exit_code(mistake)))
