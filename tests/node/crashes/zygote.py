"""Starts the processes of a test quickly: everything is imported once, and each process is a fork of that.

    python -m tests.node.crashes.zygote

One request a line on standard input, one answer a line on standard output. A process is a real one: it opens its
state from the disk, listens on its socket, and ends itself when this one is gone. With a fault it dies, or finds its
disk full, where the fault says; without, it is `asyncfl node` word for word, but for what a liar signs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

if TYPE_CHECKING:
    from asyncfl.effects import Blobs

LAST_EPOCH: Final = 100_000


def main() -> None:
    import torch

    import node.processes
    import node.training.digits
    import node.training.loader
    import node.training.workbench  # noqa: F401

    torch.set_num_threads(1)
    # Children read it; its end comes with this process.
    lifeline, _held_open = os.pipe()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer: Any = _fork(request, lifeline, _held_open)
        else:
            answer = _ended()
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _fork(request: dict[str, Any], lifeline: int, held_open: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.close(held_open)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for target, source in ((0, lifeline), (1, log), (2, log)):
            os.dup2(source, target)
        code = _serve(request)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve(request: dict[str, Any]) -> int:
    """One node's whole life; returns its exit code."""
    from asyncfl.errors import AsyncflError
    from node import cli, runtime
    from node.commands.common import exit_code, show_error
    from node.processes import ProcessOptions, run_aggregator, run_clients
    from tests.node.crashes import witness
    from tests.node.crashes.faults import Fault

    if request["lies"]:
        _answer_wrongly()
    names: list[str] = request["names"]
    root, is_client = Path(request["root"]), request["role"] == "client"
    listening = witness.listen(Path(request["heard"]), runtime.Runtime.message)
    patch.object(runtime.Runtime, "message", listening).start()
    if request["fault"] is None:
        arguments = ["node", "--role", request["role"], "--deployment", str(root), "--exit-with-parent"]
        arguments += ["--epochs", str(LAST_EPOCH)] if is_client else []
        for name in names:
            arguments += ["--name", name]
        try:
            cli.app(arguments, prog_name="asyncfl")
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    options = ProcessOptions(exit_with_parent=True, observe=Fault.decode(request["fault"]).observer())
    try:
        if is_client:
            run_clients(root, names, options, last_epoch=LAST_EPOCH)
        else:
            run_aggregator(root, names[0], options)
    except (AsyncflError, OSError) as error:
        show_error(error)
        return int(exit_code(error))
    return 0


def _answer_wrongly() -> None:
    """From now on this process signs sums of shares that are not those of its shares."""
    from asyncfl.replica.jobs import SumShares

    sum_up = SumShares.run

    def run(job: SumShares, blobs: Blobs) -> bytes:
        right = sum_up(job, blobs)
        return right[:1] + bytes([right[1] ^ 1]) + right[2:]

    patch.object(SumShares, "run", run).start()


def _ended() -> dict[str, int]:
    """Processes that have ended since last asked, with their exit code or, negative, signal."""
    found: dict[str, int] = {}
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not child:
            return found
        found[str(child)] = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
