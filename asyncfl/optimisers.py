"""Server optimisers as fold rules: how a row's contribution moves the model's weights.

`sgd` adds the contribution. `momentum` is FedAvgM (Hsu, Qi, Brown 2019, arXiv 1909.06335)::

    m = beta m + delta,    w = w + rate m

`adam` is FedAdam (Reddi et al. 2021, arXiv 2003.00295, algorithm 2; no bias correction, v starts at tau^2)::

    m = beta m + (1 - beta) delta,    v = beta2 v + (1 - beta2) delta^2,    w = w + rate m / (sqrt(v) + tau)

delta is the row's mean update, rate `server_learning_rate`, beta `server_momentum`, tau `server_epsilon`.

Exact like the rest of the fold. Every operation is one of +, -, *, /, sqrt and rint on float64, each of which
IEEE 754 defines to the last bit; each is a NumPy call of its own, so that no compiler can fuse two, and there is
no torch.sqrt, which a vector library may replace by an approximation. What goes on to the next row is rounded
to integers of 2^-32. Of v it is the root that is kept: the squares of small updates would vanish at that
resolution.

Nothing here can become NaN or infinite: a contribution is finite (its sums are clipped and its weights bounded), m is
at most the largest contribution over 1 - beta (momentum) or the largest contribution (Adam), sqrt(v) at most
the largest contribution or tau, tau is positive, and whatever is stored stays within `LIMIT`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asyncfl.parameters import Parameters

FRACTION: Final = float(1 << 32)
"""The fold's numbers are integers in units of 2^-32."""
LIMIT: Final = float(1 << 52)
"""They stay within +-2^52 units, 2^20 in the model's: exact in float64, far beyond what a clip lets through."""
CHUNK: Final = 1 << 14
"""Coordinates at a time: the few arrays of a step stay in a core's cache."""

Moments = tuple[Tensor | None, Tensor | None]


def start_moments(parameters: Parameters, weights: int) -> Moments:
    """First moment and root of the second before the first row, int64 [weights]; None for those not needed."""
    if parameters.server_optimizer == "sgd":
        return None, None
    first = torch.zeros(weights, dtype=torch.int64)
    if parameters.server_optimizer == "momentum":
        return first, None
    return first, torch.full((weights,), round(parameters.server_epsilon * FRACTION), dtype=torch.int64)


def advance(parameters: Parameters, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
    """What a row adds to the weights, and the moments after it.

    `delta` int64 [weights] in units of 2^-32, within `LIMIT`, is the row's contribution (for `sgd` with the
    rate in it, for the others without). All returned tensors are int64 [weights] and new.
    """
    first, second = moments
    if first is None:
        return delta, moments
    step, new_first = torch.empty_like(delta), torch.empty_like(first)
    if second is None:
        for part in _parts(delta):
            _momentum(parameters, part, _arrays(delta, first), _arrays(step, new_first))
        return step, (new_first, None)
    new_second = torch.empty_like(second)
    for part in _parts(delta):
        _adam(parameters, part, _arrays(delta, first, second), _arrays(step, new_first, new_second))
    return step, (new_first, new_second)


Array = NDArray[Any]


def _arrays(*tensors: Tensor) -> tuple[Array, ...]:
    return tuple(tensor.numpy() for tensor in tensors)


def _parts(values: Tensor) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, values.numel(), CHUNK)]


def _momentum(parameters: Parameters, part: slice, old: tuple[Array, ...], new: tuple[Array, ...]) -> None:
    delta, first = (array[part].astype(np.float64) for array in old)
    step, new_first = (array[part] for array in new)
    first *= parameters.server_momentum
    first += delta
    _store(first, new_first)
    first *= parameters.server_learning_rate
    _store(first, step)


def _adam(parameters: Parameters, part: slice, old: tuple[Array, ...], new: tuple[Array, ...]) -> None:
    delta, first, root = (array[part].astype(np.float64) for array in old)
    step, new_first, new_root = (array[part] for array in new)
    beta, beta2 = parameters.server_momentum, parameters.server_beta2
    first *= beta
    first += delta * (1.0 - beta)
    _store(first, new_first)
    root *= root
    root *= beta2
    delta *= delta
    delta *= 1.0 - beta2
    root += delta
    np.sqrt(root, out=root)
    _store(root, new_root)
    root += parameters.server_epsilon * FRACTION
    first /= root
    first *= parameters.server_learning_rate * FRACTION
    _store(first, step)


def _store(values: Array, target: Array) -> None:
    """Round `values` to integers within `LIMIT`, in place, and write them to the int64 `target`."""
    np.rint(values, out=values)
    np.clip(values, -LIMIT, LIMIT, out=values)
    target[...] = values
