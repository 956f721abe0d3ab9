"""One module of a task, used again for every training and evaluation in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from asyncfl.client.upload import NOTHING, Measured
from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from asyncfl.model import Layout, TrainingResult, flat_from_bytes, model_bytes
from node.training.buffers import hold_in_evaluation, owners_of_buffers
from node.training.task import ClientEvaluation, LocalTraining, Preparable, Task

_IN_USE: Final = threading.Lock()
"""One training at a time in a process: torch's generators, which dropout draws from, are process-wide."""


class Workbench:
    """Builds the task's module once and loads models into it. Methods may be called from any thread.

    `layout` is the module's flat layout, `initial` the canonical bytes of the initial model.
    """

    def __init__(
        self,
        task: Task,
        *,
        seed: int,
        device: torch.device | str | None = None,
        frozen_buffers: bool = False,
    ) -> None:
        """`device`: CUDA when present, unless given. Raises `ConfigurationError`.

        `frozen_buffers`: floating buffers stay as initialised, and their modules compute as in evaluation.
        """
        self.task: Final = task
        self.seed: Final = seed
        self.frozen_buffers: Final = frozen_buffers
        self.device: Final = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with _IN_USE, self._seeded("model"):
            module = task.model()
        if not isinstance(module, torch.nn.Module):
            raise ConfigurationError(
                f"the task's model() returned a {type(module).__name__}, not a torch.nn.Module"
            )
        self.layout: Final = Layout.of_module(module, frozen_buffers=frozen_buffers)
        self.buffer_owners: Final = owners_of_buffers(module)
        """The modules with floating buffers of their own, frozen or not."""
        if frozen_buffers:
            for owner in self.buffer_owners:
                hold_in_evaluation(owner)
        self.initial: Final = model_bytes(self.layout.flatten(module.state_dict()))
        self._template: Final = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self._module: Final = module.to(self.device)

    def trainers(self, clients: Collection[int]) -> dict[int, Trainer]:
        """One trainer for each of the clients (numbers from 0) that this process hosts."""
        if isinstance(self.task, Preparable):
            self.task.prepare(clients)
        return {client: Trainer(self, client) for client in clients}

    def train(self, model: bytes, settings: Settings, client: int, epoch: int) -> TrainingResult:
        """Train from the canonical bytes `model` on the client's data; a function of (seed, client, epoch).

        Raises `ConfigurationError` when the model does not fit the task; passes on what the task raises.
        """
        with _IN_USE, self._seeded("train", client, epoch):
            started = time.perf_counter()
            self._load(model)
            # Not the received vector: a half-precision tensor holds its rounding, which is no update.
            before = self.layout.flatten(self._module.state_dict())
            self._module.train()
            outcome = self.task.train(self._module, client, settings, epoch)
            local = _checked(outcome)
            update = self.layout.flatten(self._module.state_dict()).sub_(before)
            seconds = time.perf_counter() - started
            return TrainingResult(update, local.examples, local.loss, seconds, local.steps, local.planned)

    def evaluate(self, model: bytes) -> float:
        """Accuracy in [0, 1] of the canonical bytes `model` on the task's held-out data."""
        with _IN_USE, self._seeded("evaluate"), torch.no_grad():
            self._load(model)
            self._module.eval()
            return float(self.task.evaluate(self._module))

    def measure(self, model: bytes, client: int) -> Measured:
        """How `model` does on the client's own test data; zeros where the task does not say.

        Raises `ConfigurationError` for what is no pair of numbers.
        """
        if not isinstance(self.task, ClientEvaluation):
            return NOTHING
        with _IN_USE, self._seeded("measure", client), torch.no_grad():
            self._load(model)
            self._module.eval()
            outcome = self.task.evaluate_client(self._module, client)
        try:
            correct, count = outcome
            return Measured(float(correct), float(count))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the task's evaluate_client() returned {outcome!r}, not (correct, count)"
            ) from error

    def state(self, model: bytes) -> dict[str, torch.Tensor]:
        """The full state dict (CPU) of the canonical bytes `model`."""
        return self.layout.unflatten(flat_from_bytes(model, self.layout.dimension), self._template)

    def _load(self, model: bytes) -> None:
        flat = flat_from_bytes(model, self.layout.dimension).to(self.device)
        state = self._module.state_dict()
        carried = {name for entry in self.layout.entries for name in (entry.name, *entry.aliases)}
        with torch.no_grad():
            for name, tensor in state.items():
                if name not in carried:
                    tensor.copy_(self._template[name])
        self.layout.write(flat, state)

    @contextmanager
    def _seeded(self, purpose: str, *numbers: int) -> Iterator[None]:
        """Seed torch's generators for one purpose, and put them back afterwards."""
        text = ",".join(map(str, (self.seed, *numbers)))
        seed = int.from_bytes(digest("asyncfl/1/training", purpose.encode(), text.encode())[:8], "little")
        devices = [self.device] if self.device.type == "cuda" else []
        reproducible = self.device.type == "cuda"
        with (
            torch.random.fork_rng(devices),
            torch.backends.cudnn.flags(
                enabled=torch.backends.cudnn.enabled,
                benchmark=torch.backends.cudnn.benchmark and not reproducible,
                deterministic=torch.backends.cudnn.deterministic or reproducible,
            ),
        ):
            torch.manual_seed(seed >> 1)
            yield


class Trainer:
    """What one client's state machine calls from a Compute job."""

    def __init__(self, workbench: Workbench, client: int) -> None:
        self.workbench: Final = workbench
        self.client: Final = client

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        """See `Workbench.train`."""
        return self.workbench.train(model, settings, self.client, epoch)

    def measure(self, model: bytes) -> Measured:
        """See `Workbench.measure`."""
        return self.workbench.measure(model, self.client)


def _checked(outcome: Any) -> LocalTraining:
    """What the task's train() returned. Raises `ConfigurationError`."""
    if not isinstance(outcome, LocalTraining):
        try:
            return LocalTraining(int(outcome[0]), float(outcome[1]))
        except (TypeError, IndexError, ValueError) as error:
            raise ConfigurationError(
                f"the task's train() returned {outcome!r}, not (examples, loss)"
            ) from error
    if (outcome.steps or outcome.planned) and not 1 <= outcome.steps <= outcome.planned:
        raise ConfigurationError(
            f"the task's train() says that it did {outcome.steps} of {outcome.planned} planned steps; at least "
            "one must be done, and none that is not planned"
        )
    return outcome
