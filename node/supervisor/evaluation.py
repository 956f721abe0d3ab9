"""The supervisor's side of the evaluator: one process, one request at a time, answers as they come."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from asyncfl.errors import AsyncflError, DeadlineExceeded
from node.deployment_files import DeploymentDirectory
from node.supervisor.children import Child, ChildFailed, ended
from node.supervisor.watch import Certified

ANSWER_SECONDS: Final = 120.0
"""How long the evaluator may say nothing while something is asked of it."""
ENDING_SECONDS: Final = 5.0
"""Between the end of its answers and that of the process."""
NAME: Final = "evaluator"


class Evaluator(Child):
    """Evaluates certified models, one at a time, the newest first; those in between are skipped."""

    def __init__(self, directory: DeploymentDirectory) -> None:
        super().__init__(
            NAME,
            [sys.executable, "-P", "-m", "node.supervisor.evaluator", str(directory.root)],
            directory.log_file(NAME),
            stdout=subprocess.PIPE,
        )
        self._directory: Final = directory
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._asked: Certified | None = None
        self._done: set[str] = set()
        self._ready = False
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        super().start()
        self._reader = threading.Thread(
            target=self._read, args=(self.output,), daemon=True, name="evaluator-answers"
        )
        self._reader.start()

    def kill(self) -> None:
        super().kill()
        if self._reader is not None:
            self._reader.join()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def offer(self, model: Certified | None) -> None:
        """Evaluate this model, unless it was evaluated before or the process is busy."""
        if model is None or not self._ready or self._asked is not None or model.model in self._done:
            return
        paths = self._paths(model)
        if paths:
            self._asked = model
            self._ask({"evaluate": model.model, "paths": paths})

    def collect(self) -> list[tuple[Certified, float]]:
        """Accuracies that have come in since. Raises `ChildFailed`, or the user's mistake that ended the process."""
        found: list[tuple[Certified, float]] = []
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return found
            accuracy = self._take(answer)
            if accuracy is not None:
                found.append(accuracy)

    def accuracy(self, model: Certified) -> float:
        """The accuracy of this model, waited for. Raises `ChildFailed`, `DeadlineExceeded`, or as `collect`."""
        while not self._ready or self._asked is not None:
            self._take(self._next("to be ready"))
        self._done.discard(model.model)
        paths = self._paths(model)
        if not paths:
            raise ChildFailed(f"no replica has the final model {model.model[:16]} on disk")
        answer = self._answer({"evaluate": model.model, "paths": paths}, "to evaluate the final model")
        return float(answer["accuracy"])

    def save(self, model: Certified, target: Path, metadata: dict[str, str]) -> None:
        """Write the model as safetensors."""
        paths = self._paths(model)
        request = {"save": model.model, "paths": paths, "to": str(target), "metadata": metadata}
        self._answer(request, "to write the final model")

    def baseline(self, rounds: int, progress: Callable[[int, int], None]) -> float:
        """Accuracy of FedAvg after this many rounds of all clients."""
        return float(self._answer({"baseline": rounds}, "to train the FedAvg baseline", progress)["baseline"])

    def _paths(self, model: Certified) -> list[str]:
        return [str(path) for path in find_blobs(self._directory, model.model)]

    def _answer(
        self, request: dict[str, Any], what: str, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        self._ask(request)
        while True:
            answer = self._next(what)
            if "failed" in answer:
                raise ChildFailed(f"the evaluator was asked {what}: {answer['failed']}")
            if "progress" not in answer:
                return answer
            if progress is not None:
                progress(answer["progress"], answer["of"])

    def _ask(self, request: dict[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _next(self, what: str) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise DeadlineExceeded(
                f"waited {ANSWER_SECONDS:g} s for the evaluator {what}; see {self.log}"
            ) from None
        if answer is None:
            raise self._ended()
        return answer

    def _take(self, answer: dict[str, Any] | None) -> tuple[Certified, float] | None:
        if answer is None:
            raise self._ended()
        self._ready = self._ready or "ready" in answer
        asked = self._asked
        if asked is None or answer.get("evaluate") != asked.model:
            return None
        self._asked = None
        if "accuracy" not in answer:
            return None  # The blob went away in between; a newer model is on its way.
        self._done.add(asked.model)
        return asked, answer["accuracy"]

    def _ended(self) -> AsyncflError:
        self.wait(ENDING_SECONDS)
        return ended(self)


def find_blobs(directory: DeploymentDirectory, digest: str) -> list[Path]:
    """Files of this digest in replicas' stores, running or not; stores of other users are passed over."""
    found: list[Path] = []
    for replica in directory.deployment.replicas:
        path = directory.state(replica.name) / "blobs" / digest[:2] / digest
        with suppress(PermissionError):
            if path.is_file():
                found.append(path)
    return found
