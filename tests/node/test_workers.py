"""Work on several cores: results in order, and nobody left behind when the one who asked is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.workers import map_in_workers

from .cli.test_children import eventually, gone

# Each names its process once it works, and would go on for ten minutes.
PROGRAM = """
import os, sys, time
from functools import partial
from collections.abc import Callable
from pathlib import Path
from node.workers import map_in_workers

def work(folder, number):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(map_in_workers(partial(work, sys.argv[1]), [1, 2, 3], 2))
"""


def test_results_come_in_the_order_of_the_arguments() -> None:
    assert list(map_in_workers(abs, [-3, 2, -1], 2)) == [3, 2, 1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(tmp_path: Path, number: signal.Signals) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "pids"
    program.write_text(PROGRAM)
    folder.mkdir()
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, str(program), str(folder)], env=environment) as parent:
        assert eventually(lambda: len(list(folder.iterdir())) == 2)
        parent.send_signal(number)
    workers = [int(path.name) for path in folder.iterdir()]
    assert eventually(lambda: all(gone(pid) for pid in workers))
