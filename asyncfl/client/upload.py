"""What a client's flat upload holds: its update, and the coordinates beyond the model's.

    update (times the weight) | weight | correct, count

All of it is quantised, noised and masked as one vector: one upload, one privacy event, one sensitivity. The update
is clipped first and weighted then, so that its norm is at most the clip whatever the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Final

import torch
from torch import Tensor

from asyncfl.errors import UpdateError
from asyncfl.federation import Federation
from asyncfl.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Measured:
    """How many of `count` own test examples a model got right. Fractions are allowed; zeros: no test data."""

    correct: float = 0.0
    count: float = 0.0

    @property
    def is_valid(self) -> bool:
        return isfinite(self.count) and 0 <= self.correct <= self.count


NOTHING: Final = Measured()


def compute_weight(examples: int, parameters: Parameters) -> float:
    """An upload's weight in [0, 1]: its client's examples, in parts of `examples_cap` and at most that many."""
    if parameters.weighting == "uniform":
        return 1.0
    return min(max(examples, 0), parameters.examples_cap) / parameters.examples_cap


def compose(update: Tensor, examples: int, measured: Measured, federation: Federation) -> Tensor:
    """The flat upload, float32 [upload dimension] on the update's device.

    `update`: float32 [dimension], finite. `examples` held by the client. Where the count of `measured` exceeds
    `metrics_cap`, both of its numbers are scaled down together. Raises `UpdateError` for a `measured` or `examples` out
    of range with noise off; with noise on these count as zero, so that data never decides whether a client sends.
    """
    parameters, dimension = federation.parameters, federation.dimension
    if parameters.weighting == "uniform" and not parameters.extra_coordinates:
        return update
    if parameters.weighting == "examples" and examples < 0 and parameters.noise_multiplier == 0:
        raise UpdateError(f"the task says that this client holds {examples} examples; it must be 0 or more")
    if parameters.metrics and not measured.is_valid:
        if parameters.noise_multiplier == 0:
            raise UpdateError(
                f"the task counts {measured.correct:g} of {measured.count:g} test examples as right: "
                "0 <= correct <= count is needed; correct what it returns for this client's own test data"
            )
        measured = NOTHING
    flat = torch.empty(federation.upload_dimension, dtype=torch.float32, device=update.device)
    flat[:dimension] = update
    weight = compute_weight(examples, parameters)
    if parameters.weighting == "examples":
        for segment in federation.model_segments:
            part = flat[segment.start : segment.stop]
            norm = float(torch.linalg.vector_norm(part, dtype=torch.float64))
            part *= weight * segment.clip / max(segment.clip, norm)
    if federation.weight_segment is not None:
        flat[federation.weight_segment.start] = weight
    if (place := federation.metrics_segment) is not None:
        scale = parameters.metrics_cap / max(parameters.metrics_cap, measured.count)
        flat[place.start] = measured.correct * scale
        flat[place.start + 1] = measured.count * scale
    return flat
