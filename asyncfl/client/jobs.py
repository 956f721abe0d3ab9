"""The client's heavy work, run off the event loop: train, then protect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from asyncfl import masking
from asyncfl.client.upload import NOTHING, Measured, compose
from asyncfl.client.work import normalised
from asyncfl.digest import content_digest
from asyncfl.effects import Blobs
from asyncfl.errors import UpdateError
from asyncfl.federation import Federation
from asyncfl.identity import Identity, seal
from asyncfl.messages import Manifest, Settings
from asyncfl.model import TrainingResult
from asyncfl.ring import SecretStream


class Trainer(Protocol):
    """The user's side: trains the flat model on this client's own data."""

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult: ...


@runtime_checkable
class Measuring(Protocol):
    """A trainer that knows how well a flat model does on this client's own test data."""

    def measure(self, model: bytes) -> Measured: ...


@dataclass(frozen=True, slots=True)
class Trained:
    """A protected upload; its payload is on disk already, under its digest."""

    manifest: Manifest
    examples: int
    loss: float
    steps: int
    planned: int
    norm: float
    """L2 norm of the update, normalised to the planned steps, before clipping."""
    zeroed: bool
    """The update held NaN or infinities, and zeros go out in its place."""

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values for the client's log."""
        facts = {"loss": round(self.loss, 4), "norm": round(self.norm, 4), "examples": self.examples}
        return {**facts, "steps": self.steps, "planned": self.planned} if self.steps else facts


@dataclass(frozen=True, slots=True)
class TrainAndProtect:
    """Measure the model blob where metrics are on, train from it, normalise, mask, add noise.

    Raises `UpdateError` for an unusable update without DP.

    With DP on, data never decides whether a client sends: an update with NaN or infinities goes out as zeros
    plus noise (protocol section 7).
    """

    model: bytes
    trainer: Trainer
    settings: Settings
    context: masking.UploadContext
    identity: Identity
    federation: Federation
    stream: SecretStream | None = None
    """None outside of simulations: the operating system's randomness, as with `seal_with`."""
    seal_with: Callable[[bytes, bytes], bytes] = seal

    def run(self, blobs: Blobs) -> Trained:
        base, measured = blobs.read(self.model), NOTHING
        if self.federation.parameters.metrics and isinstance(self.trainer, Measuring):
            measured = self.trainer.measure(base)
        result = self.trainer.train(base, self.settings, self.context.epoch)
        update, zeroed = normalised(result, self.federation.weights), False
        if not bool(torch.isfinite(update).all()):
            if self.federation.parameters.noise_multiplier == 0:
                raise UpdateError(
                    "the update holds NaN or infinities: training diverged; lower the learning rate"
                )
            update, zeroed = torch.zeros_like(update), True
        upload = compose(update, result.examples, measured, self.federation)
        protected = masking.protect(
            upload, self.context, self.identity, self.federation, device=str(update.device),
            stream=self.stream, seal_with=self.seal_with,
        )  # fmt: skip
        blobs.write(protected.payload)
        if content_digest(protected.payload) != protected.manifest.core.upload:
            raise UpdateError("the payload does not match its manifest: this is a bug")
        norm = float(torch.linalg.vector_norm(update.to(torch.float64)))
        return Trained(
            protected.manifest, result.examples, result.loss, result.steps, result.planned, norm, zeroed
        )
