"""Weights that are the same on every machine: multiples of 2^-16 that sum to one exactly."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from asyncfl.rules.exact import tree_sum

UNITS: Final = 1 << 16


def round_weights(raw: Tensor) -> Tensor:
    """`raw` [n], nonnegative and not all zero, in proportion: multiples of 2^-16, float64, with sum 1.

    What rounding leaves over goes to the largest weight (the earliest of equal ones). A last bit of `raw` that differs
    between machines shows only where a weight is just between two multiples (protocol section 6).
    """
    values = raw.to(torch.float64)
    shares = values / tree_sum(values)
    units = (shares * UNITS).round_().to(torch.int64)
    largest = int(torch.sort(units, descending=True, stable=True).indices[0])
    units[largest] += UNITS - int(units.sum())
    return units.to(torch.float64) / UNITS
