"""From a float update to integers of bounded norm: clip, scale, round, and make the bound exact."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Final

import torch
from torch import Tensor

from asyncfl.errors import UpdateError
from asyncfl.parameters import Segment

_CHUNK: Final = 1 << 16
"""Coordinates at a time: the float64 copy that a norm needs stays in the cache."""
_SHRINK: Final = 1 - 2.0**-20
"""Extra factor when rounding has lifted the norm over the bound: the second try nearly always fits."""


def quantise(update: Tensor, segments: Sequence[Segment], padded: int) -> Tensor:
    """The integer image of a flat float32 `update` [d], as integral float32 [padded], zeros at the end.

    Each segment is clipped to L2 norm `clip`, scaled by `bound / clip` and rounded to nearest; where rounding
    lifts the integer norm above `bound`, it is scaled down and rounded again, so that the exact norm of every
    segment is at most its bound. Raises `UpdateError` for NaN, infinities or a wrong length.
    """
    length = segments[-1].stop
    if update.shape != (length,):
        raise UpdateError(
            f"the update has shape {tuple(update.shape)}, the deployment's model has ({length},)"
        )
    update = update.detach().to(torch.float32)
    image = torch.zeros(padded, dtype=torch.float32, device=update.device)
    for segment in segments:
        source, target = update[segment.start : segment.stop], image[segment.start : segment.stop]
        norm = sqrt(_squares(source))
        if not isfinite(norm):
            raise UpdateError(
                f"coordinates {segment.start} to {segment.stop} of the update hold NaN or "
                "infinities: training diverged; lower the learning rate, or send zeros"
            )
        factor = segment.bound / max(segment.clip, norm)
        while (reached := _scale_and_round(source, target, factor)) > segment.bound**2:
            factor *= segment.bound / sqrt(reached) * _SHRINK
    return image


def _squares(values: Tensor) -> float:
    wide = torch.empty(_CHUNK, dtype=torch.float64, device=values.device)
    total = 0.0
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        copy = wide[: len(part)].copy_(part)
        total += float(torch.dot(copy, copy))
    return total


def _scale_and_round(source: Tensor, target: Tensor, factor: float) -> int:
    """Write the rounded multiples and return the exact sum of their squares.

    Every integer is at most about 2^15 and so is the norm: the float64 sums stay far below 2^53 and are
    exact.
    """
    wide = torch.empty(_CHUNK, dtype=torch.float64, device=source.device)
    total = 0
    for start in range(0, len(source), _CHUNK):
        part = source[start : start + _CHUNK]
        rounded = torch.mul(part, factor, out=target[start : start + _CHUNK]).round_()
        copy = wide[: len(part)].copy_(rounded)
        total += int(torch.dot(copy, copy))
    return total
