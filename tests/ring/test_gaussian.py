"""The sampler draws the discrete Gaussian: exact boundaries, chi-square over many samples, no torch
generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import log, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.ring import Gaussian, SecretStream
from asyncfl.ring.gaussian import LARGEST_SIGMA, SMALL_SIGMA, cumulative
from tests.spec import ring_reference as reference


class Scripted(SecretStream):
    """A stream that gives what the test wants."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: bytes) -> None:
        super().__init__(bytes(32))
        self._parts: Iterator[bytes] = iter(parts)

    def take(self, size: int) -> memoryview:
        part = next(self._parts)
        assert len(part) == size
        return memoryview(part)


@pytest.mark.parametrize("sigma", [1.0, 4.5, 31.9, 200.25])
def test_boundaries_are_the_exact_distribution_to_80_bits(sigma: float) -> None:
    boundaries = cumulative(Decimal(sigma), 80)
    reach = len(boundaries) // 2
    exact = reference.gaussian_probabilities(sigma, reach)
    running = Decimal(0)
    # The reference sums to 1 with the tails beyond `reach`, which the sampler folds in: below 2^-80 each.
    for outcome, boundary in zip(range(-reach, reach), boundaries, strict=True):
        running += exact[outcome]
        assert abs(boundary - int(running * 2**80)) <= 2


def scripted_outcome(sigma: float, number: int) -> int:
    """What the sampler makes of one 80-bit number."""
    sampler = Gaussian.of(sigma)
    high, low = divmod(number, 1 << 64)
    return int(sampler.sample(Scripted(high.to_bytes(2, "little"), low.to_bytes(8, "little")), 1)[0])


@pytest.mark.parametrize("sigma", [1.0, 4.5, 20.0])
def test_numbers_on_both_sides_of_every_boundary_fall_to_the_right_outcome(sigma: float) -> None:
    boundaries = cumulative(Decimal(sigma), 80)
    lowest = -(len(boundaries) // 2)
    for index, boundary in enumerate(boundaries):
        if boundary in (0, 1 << 80) or boundaries.count(boundary) > 1:
            continue
        assert scripted_outcome(sigma, boundary - 1) == lowest + index
        assert scripted_outcome(sigma, boundary) == lowest + index + 1


def test_a_bucket_without_a_boundary_needs_no_further_bits() -> None:
    sampler = Gaussian.of(4.5)
    decided = int(np.flatnonzero(sampler.narrow._below == sampler.narrow._reach)[0])
    sampler.sample(Scripted(decided.to_bytes(2, "little")), 1)  # the script holds no more


def chi_square(samples: np.ndarray, sigma: float, width: int) -> tuple[float, int]:
    """Statistic and degrees of freedom over bins of `width` outcomes that expect at least 50 samples each."""
    reach = int(4 * sigma)
    outcomes = np.arange(-int(12 * sigma), int(12 * sigma) + 1)
    weights = np.exp(-(outcomes.astype(np.float64) ** 2) / (2 * sigma**2))
    exact = dict(zip(outcomes.tolist(), (weights / weights.sum()).tolist(), strict=True))
    total, cells, seen, expected_seen = 0.0, 0, 0, 0.0
    for start in range(-reach, reach - width + 1, width):
        expected = len(samples) * sum(exact[x] for x in range(start, start + width))
        if expected < 50:
            continue
        observed = int(((samples >= start) & (samples < start + width)).sum())
        total += (observed - expected) ** 2 / expected
        cells, seen, expected_seen = cells + 1, seen + observed, expected_seen + expected
    rest = len(samples) - expected_seen
    if rest > 5:
        total += (len(samples) - seen - rest) ** 2 / rest
        cells += 1
    return total, cells - 1


@pytest.mark.parametrize(
    ("sigma", "width"), [(1.0, 1), (4.5, 1), (31.0, 1), (40.0, 1), (700.0, 30), (19000.5, 1000)]
)
def test_samples_follow_the_distribution(sigma: float, width: int) -> None:
    samples = Gaussian.of(sigma).sample(SecretStream(b"chi-square".ljust(32)), 400_000).numpy()
    statistic, freedom = chi_square(samples, sigma, width)
    assert freedom > 5
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_the_convolution_leaves_no_trace_of_its_stretch() -> None:
    """Residues mod k of x1 + k x2 are those of x1 alone: they are uniform only if x1 is wide enough."""
    sampler = Gaussian.of(5000.0)
    samples = sampler.sample(SecretStream(b"residues".ljust(32)), 400_000).numpy().astype(np.int64)
    counts = np.bincount(samples % sampler.stretch, minlength=sampler.stretch)
    expected = len(samples) / sampler.stretch
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < sampler.stretch + 5 * (2 * sampler.stretch) ** 0.5


@given(st.floats(SMALL_SIGMA, LARGEST_SIGMA, exclude_min=True))
@settings(max_examples=25, deadline=None)
def test_the_smoothing_condition_holds_for_every_large_sigma(sigma: float) -> None:
    stretch, narrow, wide = Gaussian.split(sigma)
    assert abs((narrow**2 + stretch**2 * wide**2).sqrt() / Decimal(sigma) - 1) < Decimal(10) ** -26
    smoothing = (log(2 * (1 + 2.0**51)) / (2 * pi * pi)) ** 0.5
    assert 1 / float(narrow) ** 2 + 1 / (stretch * float(wide)) ** 2 <= 1 / (stretch * smoothing) ** 2
    # and the largest conceivable sample is exact in float32
    assert 10.7 * (float(narrow) + stretch * float(wide)) + stretch + 2 < 1 << 24


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.1e6, float("nan")])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="not between"):
        Gaussian(sigma)


@pytest.mark.parametrize("sigma", [4.5, 1000.0])
def test_samples_never_come_from_torchs_generator(sigma: float) -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        state = torch.get_rng_state()
        draws.append(Gaussian.of(sigma).sample(SecretStream(), 100))
        assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(draws[0], draws[1])


def test_a_seeded_stream_gives_the_same_samples() -> None:
    one, two = (Gaussian.of(300.0).sample(SecretStream(bytes(32)), 5000) for _ in range(2))
    assert torch.equal(one, two)
