"""How reliable inputs look: FedAOT's features, every one seen across the cohort and higher for who looks better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from asyncfl.rules.arithmetic import Arithmetic

FEATURES: Final = ("past", "median", "holdout", "length", "others")
"""Cosine to the moving average of aggregates, to the coordinate-wise median (over a sample of coordinates), to minus
the hold-out gradient; how near its length is to the median length; mean cosine to the other inputs."""
SAMPLE: Final = 8
"""The median is taken of one coordinate in so many: of all it would cost more than everything else together."""
SQUASH: Final = 3.0
_NOTHING: Final = 1e-30


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """What one epoch's inputs show. `features` float64 [n, 5]; `lengths` and `limit` (the median length) are norms.

    `standstill` float64 [1, 5]: how an update of zero would look among them, at no angle to anything.
    `agreement` float64 [n]: inner products with the coordinate-wise median, over every eighth coordinate.
    """

    features: Tensor
    standstill: Tensor
    lengths: Tensor
    limit: float
    agreement: Tensor


def measure(
    updates: Tensor, past: Tensor | None, gradient: Tensor | None, epoch: int, arithmetic: Arithmetic
) -> Cohort:
    """Features of `updates` float32 [n, d]. What is not known yet (`past`, `gradient`) tells nobody apart: zero.

    Two passes over the inputs. With fast `arithmetic` last bits can differ between machines.
    """
    lengths = arithmetic.lengths(updates)
    limit = float(torch.sort(lengths).values[(len(lengths) - 1) // 2])
    inverse = torch.where(lengths > _NOTHING, 1.0 / lengths, torch.zeros_like(lengths))
    directions = arithmetic.weighted_sum(updates, inverse)
    zero = torch.zeros_like(directions)
    looked_at = torch.stack(
        [zero if past is None else past, zero if gradient is None else -gradient, directions]
    )
    products = arithmetic.products(updates, looked_at) * inverse[:, None]
    sizes = arithmetic.lengths(looked_at[:2]).clamp(min=_NOTHING)
    others = (products[:, 2] - (inverse > 0).double()) / max(1, len(updates) - 1)
    place = slice(epoch % min(SAMPLE, updates.shape[1]), None, SAMPLE)
    sampled = np.ascontiguousarray(updates[:, place].numpy())
    middle = np.sort(sampled, axis=0)
    median = torch.from_numpy((middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2)
    part = torch.from_numpy(sampled)
    spans = arithmetic.lengths(part) * arithmetic.lengths(median[None])
    agreement = arithmetic.products(part, median[None])[:, 0]
    near = agreement / spans.clamp(min=_NOTHING)
    odds = -arithmetic.log(lengths.clamp(min=_NOTHING) / max(limit, _NOTHING)).abs()
    raw = torch.stack([products[:, 0] / sizes[0], near, products[:, 1] / sizes[1], odds, others], dim=1)
    nothing = torch.zeros((1, len(FEATURES)), dtype=torch.float64)
    nothing[0, FEATURES.index("length")] = torch.sort(odds).values[(len(odds) - 1) // 2]
    features, standstill = (standardise(part, raw, arithmetic) for part in (raw, nothing))
    return Cohort(features, standstill, lengths, limit, agreement)


def standardise(judged: Tensor, raw: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Each column of `judged` [m, k] centred by `raw`'s [n, k] median, scaled by its median deviation, in (-3, 3).

    By medians, so that fewer than half of the inputs cannot choose the scale on which they are judged.
    """
    middle = torch.sort(raw, dim=0).values[(len(raw) - 1) // 2]
    deviation = torch.sort((raw - middle).abs(), dim=0).values[len(raw) // 2]
    scaled = (judged - middle) / (1.4826 * deviation).clamp(min=1e-9)
    return SQUASH * arithmetic.tanh(scaled / SQUASH)
