"""The same function on many arguments, side by side in worker processes, which end with this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def map_in_workers(
    function: Callable[[Argument], Result], arguments: Sequence[Argument], workers: int, *, chunk: int = 1
) -> Iterator[Result]:
    """Results in the order of `arguments`, which go to workers `chunk` at a time; with one worker, in this process.

    What is not begun when the iterator is closed is not done. With two and more, all must be picklable.
    """
    if workers <= 1 or len(arguments) <= 1:
        yield from map(function, arguments)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(arguments)), mp_context=context, initializer=_begin) as pool:
        yield from pool.map(function, arguments, chunksize=chunk)


def _begin() -> None:
    """The workers share the machine's cores, and end with Ctrl-C, without a word, or when their parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        # A pool's workers hold both ends of its pipes: left alone they would wait for work for ever.
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
