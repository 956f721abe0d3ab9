"""The processes of a localhost deployment. However the supervisor ends, none of them outlives it.

Each child runs in a session of its own, so that Ctrl-C reaches the supervisor alone, which then ends the
children in order; and each holds the read end of a pipe as standard input and ends itself when that closes
(`node.parent`), which the kernel sees to when the supervisor is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from asyncfl.errors import AsyncflError, ConfigurationError, StorageError

ENDINGS: Final[dict[int | None, type[AsyncflError]]] = {2: ConfigurationError, 3: StorageError}
"""Exit codes of `asyncfl node` and of the evaluator that stand for the user's mistakes."""
STOP_SECONDS: Final = 8.0
"""From SIGTERM to SIGKILL when everything is stopped."""
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Many processes share the machine's cores: more threads each would only take turns."""


class ChildFailed(AsyncflError):
    """A process of the deployment ended by itself."""


class Child:
    """One process, which may be killed and started again. Output goes to the end of `log`."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, stdout: int | None = None) -> None:
        """`stdout`: `subprocess.PIPE` to read it; otherwise it goes to the log, as standard error does."""
        self.name: Final = name
        self.log: Final = log
        self._command: Final = list(command)
        self._stdout: Final = stdout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the running or last process; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def stdin(self) -> IO[bytes]:
        """Of the started process."""
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def output(self) -> IO[bytes]:
        """Standard output of the started process, where that is a pipe."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def start(self) -> None:
        """Start the process. Raises `StorageError` when its log cannot be written."""
        if self.running:
            raise ValueError(f"{self.name} is running already")
        self._close_pipe()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=log if self._stdout is None else self._stdout,
                    stderr=log,
                    env={**os.environ, **ONE_THREAD},
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(
                f"{error.filename or self.log}: {error.strerror}; cannot start {self.name}"
            ) from None

    def kill(self) -> None:
        """SIGKILL: no chance to write anything more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close_pipe()

    def ask_to_stop(self) -> None:
        """SIGTERM. Its standard input stays open: a second request would mean "at once"."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended within `seconds`."""
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))
        return not self.running

    def last_words(self, lines: int = 12) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 8192))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()


class Children:
    """All processes of a run, by name. As a context manager it ends them on the way out."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children: Final = {child.name: child for child in children}

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        for child in self._children.values():
            child.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """SIGTERM to all at once, SIGKILL to those left after `seconds`; nobody is left after this."""
        try:
            for child in self._children.values():
                child.ask_to_stop()
            deadline = time.monotonic() + seconds
            for child in self._children.values():
                child.wait(deadline - time.monotonic())
        finally:
            # Also on a second Ctrl-C in the wait.
            for child in self._children.values():
                child.kill()


def ended(child: Child) -> AsyncflError:
    """What to raise for a process that ended by itself: the kind of error that it ended with."""
    if child.returncode in ENDINGS:
        words = child.last_words().rpartition("error: ")[2].strip()
        return ENDINGS[child.returncode](f"{child.name}: {words}")
    return ChildFailed(
        f"{child.name} ended by itself with status {child.returncode}; the end of {child.log}:\n{child.last_words()}"
    )
