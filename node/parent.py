"""Lets a process end with the one that started it, however that one ends.

The parent holds the write end of the child's standard input. When the parent is gone, even by SIGKILL, the
kernel closes it, the child reads end-of-file, and ends itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

GRACE_SECONDS: Final = 5.0
"""How long an orderly end may take before the process is ended anyway."""


def end_with_parent(*, grace: float = GRACE_SECONDS) -> None:
    """Start a thread that sends this process SIGTERM when standard input ends, and ends it after `grace`."""
    # Taken over, so that nothing else in this process can read or close it.
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def watch() -> None:
        try:
            while os.read(pipe, 4096):
                pass
        except OSError:
            pass  # As good as the end.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
