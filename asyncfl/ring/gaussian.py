"""The discrete Gaussian over the integers, exact to 2^-80 a sample, from a secret stream.

Small sigma: inversion of the cumulative distribution, given as integers on a scale of 2^80. The first 16 of
80 random bits index a table that holds the outcome wherever those bits alone decide it; for the others (about
one sample in two thousand at sigma 4.5) 64 more bits are drawn and compared exactly.

Large sigma: x1 + k*x2 with sigma^2 = s1^2 + k^2 s2^2 (Micciancio and Walter, CRYPTO 2017; Peikert 2010,
convolution theorem). The sum is within 2^-50 of the discrete Gaussian when s1 and s2 satisfy
1/s1^2 + 1/(k s2)^2 <= 1/(k eta)^2, eta the smoothing parameter of Z (as a standard deviation) for 2^-51.

Not constant-time: look-ups by secret bits leave traces in the cache of the machine that draws.
"""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal, localcontext
from functools import lru_cache
from math import ceil, log, pi, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asyncfl.ring.stream import SecretStream

SMALL_SIGMA: Final = 32.0
"""Largest standard deviation that is sampled from one table."""
LARGEST_SIGMA: Final = 1e6
_TABLE_BITS: Final = 16
_REFINING_BITS: Final = 64
_SCALE_BITS: Final = _TABLE_BITS + _REFINING_BITS
_TAIL: Final = 10.6
"""Outcomes beyond 10.6 standard deviations have probability below 2^-80 together."""
_SMOOTHING: Final = sqrt(log(2 * (1 + 2.0**51)) / (2 * pi * pi))
"""eta_eps(Z) for eps = 2^-51, divided by sqrt(2 pi): 1.35."""
_NARROW: Final = 1.5
"""s1 = 1.5 k eta; then s2 >= 1.35 eta satisfies the condition."""


class Gaussian:
    """A sampler of one standard deviation. Build with `Gaussian.of`, which caches the tables."""

    def __init__(self, sigma: float) -> None:
        if not 1.0 <= sigma <= LARGEST_SIGMA:
            raise ValueError(f"sigma {sigma} is not between 1 and {LARGEST_SIGMA:.0f}")
        self.sigma = sigma
        if sigma <= SMALL_SIGMA:
            self.stretch = 1
            self.narrow = self.wide = _Table(Decimal(sigma))
        else:
            self.stretch, narrow, wide = self.split(sigma)
            self.narrow, self.wide = _Table(narrow), _Table(wide)

    @staticmethod
    def split(sigma: float) -> tuple[int, Decimal, Decimal]:
        """k, s1 and s2 with sigma^2 = s1^2 + k^2 s2^2, balanced so that both tables stay small."""
        with localcontext() as context:
            context.prec = 60
            stretch = int(sqrt(sigma / (_NARROW * _SMOOTHING)))
            narrow = Decimal(_NARROW * _SMOOTHING) * stretch
            return stretch, narrow, (Decimal(sigma) ** 2 - narrow**2).sqrt() / stretch

    @staticmethod
    @lru_cache(maxsize=32)
    def of(sigma: float) -> Gaussian:
        """The sampler for `sigma` in [1, 1e6]."""
        return Gaussian(sigma)

    def sample(self, stream: SecretStream, count: int) -> Tensor:
        """`count` independent samples, integral float32 [count] on the CPU.

        None is larger than 15 sigma, hence below 2^24: all are exact.
        """
        return Source(self, stream, count).draw(count)


class Source:
    """Samples of one Gaussian from one stream, in memory that the next draw uses again."""

    __slots__ = ("_gaussian", "_indices", "_samples", "_stream")

    def __init__(self, gaussian: Gaussian, stream: SecretStream, size: int) -> None:
        self._gaussian, self._stream = gaussian, stream
        self._indices = np.empty(size, dtype=np.int32)
        self._samples = torch.empty((2, size), dtype=torch.float32)

    def draw(self, count: int) -> Tensor:
        """`count` fresh samples (at most `size`), valid until the next draw; otherwise as `Gaussian.sample`."""
        gaussian, indices = self._gaussian, self._indices[:count]
        samples = gaussian.narrow.sample(self._stream, indices, self._samples[0, :count])
        if gaussian.stretch > 1:
            wide = gaussian.wide.sample(self._stream, indices, self._samples[1, :count])
            samples.add_(wide, alpha=gaussian.stretch)
        return samples


class _Table:
    """Inversion sampling for one sigma by a first table and exact refinement."""

    def __init__(self, sigma: Decimal) -> None:
        boundaries = cumulative(sigma, _SCALE_BITS)
        self._lowest = -(len(boundaries) // 2)
        high = np.array([boundary >> _REFINING_BITS for boundary in boundaries], dtype=np.int64)
        self._low = np.array(
            [boundary & ((1 << _REFINING_BITS) - 1) for boundary in boundaries], dtype=np.uint64
        )
        self._boundaries: list[int] = self._low.tolist()
        buckets = np.arange(1 << _TABLE_BITS)
        # Of the boundaries, `below` lie under the bucket for certain; those up to `reach` lie inside it.
        self._below = np.searchsorted(high, buckets, side="left")
        self._reach = np.searchsorted(high, buckets, side="right")
        outcomes = (self._below + self._lowest).astype(np.float32)
        outcomes[self._below != self._reach] = np.nan
        self._outcomes = torch.from_numpy(outcomes)

    def sample(self, stream: SecretStream, indices: npt.NDArray[np.int32], out: Tensor) -> Tensor:
        """Fill the contiguous `out`; `indices` is scratch of the same length."""
        np.copyto(indices, np.frombuffer(stream.take(2 * len(indices)), dtype="<u2"))
        torch.index_select(self._outcomes, 0, torch.from_numpy(indices), out=out)
        values = out.numpy()
        undecided = np.flatnonzero(np.isnan(values))
        if len(undecided):
            values[undecided] = self._refine(stream, indices[undecided])
        return out

    def _refine(self, stream: SecretStream, buckets: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Outcomes of samples in undecided buckets, by comparison with the boundaries inside each bucket."""
        bits = np.frombuffer(stream.take(8 * len(buckets)), dtype="<u8")
        first, last = self._below[buckets], self._reach[buckets]
        passed = bits >= self._low[first]
        # Nearly all of these buckets hold one boundary; the few with several, in the tails, are searched one
        # by one.
        several = np.flatnonzero(passed & (last - first > 1))
        first += passed
        for place in several:
            first[place] = bisect_right(
                self._boundaries, int(bits[place]), int(first[place]), int(last[place])
            )
        return first + self._lowest


def cumulative(sigma: Decimal, bits: int) -> list[int]:
    """Boundaries B_i = floor(2^bits * P(X <= lowest + i)) of the discrete Gaussian, ascending.

    Outcome lowest + i has the 2^-bits-scaled uniform numbers in [B_(i-1), B_i); `lowest` is minus half the
    length of the list, whose last, B = 2^bits, is left out.
    """
    tail = ceil(_TAIL * float(sigma)) + 1
    with localcontext() as context:
        context.prec = 80
        # rho(x) = exp(-x^2 / 2 sigma^2) by the recurrence rho(x+1) = rho(x) g(x),
        # g(x+1) = g(x) exp(-1 / sigma^2).
        ratio = (-1 / (2 * sigma * sigma)).exp()
        step = ratio * ratio
        weights = [Decimal(1)]
        for _ in range(tail):
            weights.append(weights[-1] * ratio)
            ratio *= step
        total = 2 * sum(weights) - 1
        boundaries, running = [], Decimal(0)
        for outcome in range(-tail, tail):
            running += weights[abs(outcome)]
            boundaries.append(int(running / total * 2**bits))
    return boundaries
