"""What comes out of opened sums: the stated noise, exactly; and vectors whose norm never exceeds L."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from asyncfl import masking
from asyncfl.federation import Federation
from asyncfl.masking import quantise
from asyncfl.parameters import Parameters
from asyncfl.ring import Gaussian, SecretStream
from tests.masking.builders import CONTEXT, client_identity, loads, make_federation, share_sums

DIMENSION = 1 << 16
MEMBERS = 3
NEVER = 1e-6
"""A p-value below this fails: less than once in a million runs by chance."""


def exact_sum(sigma: float, members: int) -> npt.NDArray[np.float64]:
    """Probabilities of the sum of `members` discrete Gaussians, centred, by convolution."""
    reach = int(12 * sigma)
    weights = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    total = one = weights / weights.sum()
    for _ in range(members - 1):
        total = np.convolve(total, one)
    return total


def p_value(samples: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> float:
    """Chi-square over the outcomes that are expected at least ten times; the tails are one class each."""
    reach = len(probabilities) // 2
    expected = probabilities * len(samples)
    inner = np.flatnonzero(expected >= 10)
    first, last = int(inner[0]), int(inner[-1])
    clipped = np.clip(samples + reach, first - 1, last + 1)
    observed = np.bincount(clipped - (first - 1), minlength=last - first + 3)
    bounds = (probabilities[:first].sum(), *probabilities[first : last + 1], probabilities[last + 1 :].sum())
    scaled = np.array(bounds) / sum(bounds) * len(samples)
    return float(chisquare(observed, scaled).pvalue)


def private_federation(multiplier: float, **options: Any) -> Federation:
    values: dict[str, Any] = {"clients": 16, "min_group": 3, "allow_small_private_groups": True, **options}
    return make_federation(DIMENSION, noise_multiplier=multiplier, **values)


def opened_noise(federation: Federation, updates: list[torch.Tensor]) -> npt.NDArray[np.int64]:
    """The opened sum of these updates less the sum of their integer images."""
    uploads = [
        masking.protect(update, CONTEXT, client_identity(number), federation)
        for number, update in enumerate(updates)
    ]
    secret = masking.find_secret(loads(uploads), share_sums(federation, uploads), federation)
    opened = masking.open_sum((upload.payload for upload in uploads), secret, federation)
    plain = sum(quantise(update, federation.segments, DIMENSION) for update in updates)
    return (opened - plain).numpy().astype(np.int64)


def updates_of(members: int) -> list[torch.Tensor]:
    made = [
        torch.randn(DIMENSION, generator=torch.Generator().manual_seed(number)) for number in range(members)
    ]
    return [update / update.norm() for update in made]


# Multipliers that give noise from one table (sigma 9.5, narrow enough to tell every outcome) and from two.
@pytest.mark.parametrize("multiplier", [0.0005, 0.004])
def test_noise_in_opened_sums_has_the_exact_distribution(multiplier: float) -> None:
    federation = private_federation(multiplier)
    parameters = federation.parameters
    sigma = multiplier * parameters.scale / sqrt(parameters.honest_members)
    assert sigma == parameters.payload_sigma > 4.5
    noise = opened_noise(federation, updates_of(MEMBERS))
    assert p_value(noise, exact_sum(sigma, MEMBERS)) > NEVER


def test_the_comparison_tells_noise_that_is_five_percent_too_small() -> None:
    federation = private_federation(0.0005)
    sigma = federation.parameters.payload_sigma
    noise = opened_noise(federation, updates_of(MEMBERS))
    assert p_value(noise, exact_sum(1.05 * sigma, MEMBERS)) < NEVER
    assert p_value(noise, exact_sum(sigma, MEMBERS - 1)) < NEVER


def test_an_update_of_zeros_and_one_beyond_the_clip_get_the_same_noise() -> None:
    federation = private_federation(0.0005)
    huge = 1e6 * updates_of(1)[0]
    noise = opened_noise(federation, [torch.zeros(DIMENSION), torch.zeros(DIMENSION), huge])
    assert p_value(noise, exact_sum(federation.parameters.payload_sigma, 3)) > NEVER


def test_a_large_multiplier_supplies_z_times_l_in_every_minimal_group() -> None:
    federation = private_federation(2.0)
    parameters = federation.parameters
    noise = opened_noise(federation, updates_of(MEMBERS))
    assert noise.std() == pytest.approx(2.0 * parameters.scale, rel=5 / sqrt(2 * DIMENSION))


def test_members_beyond_the_allowance_alone_supply_the_noise() -> None:
    parameters = private_federation(2.0, min_group=4, malicious_allowance=1).parameters
    honest = parameters.min_group - 1
    assert parameters.payload_sigma * sqrt(honest) == pytest.approx(2.0 * parameters.scale)


@given(
    st.integers(1, 40),
    st.integers(0, 12),
    st.floats(1e-6, 1e6),
    st.floats(0.5, 60),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_the_integer_norm_never_exceeds_the_sensitivity(
    weights: int, buffers: int, size: float, multiplier: float, seed: int
) -> None:
    parameters = Parameters.for_clients(64, noise_multiplier=multiplier, min_group=16)
    update = size * torch.randn(weights + buffers, generator=torch.Generator().manual_seed(seed))
    image = quantise(update, parameters.segments(weights, buffers), weights + buffers)
    assert sum(int(value) ** 2 for value in image.tolist()) <= parameters.scale**2


MANY = 10**8


@pytest.mark.parametrize("samples", [10**6, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("multiplier", [1.0, 10.0, 44.3])
def test_a_full_group_never_wraps_around_the_modulus(samples: int, multiplier: float) -> None:
    """All members put L on one coordinate: the worst sum that clipping lets through, plus noise."""
    parameters = Parameters.for_clients(
        64, cell_size=32, min_group=20, max_group=63, noise_multiplier=multiplier
    )
    largest = parameters.max_group * parameters.scale
    room = parameters.modulus / 2 - largest
    assert room >= 6.5 * parameters.payload_sigma * sqrt(parameters.max_group)
    # The sum of the members' noise is drawn at once: its difference from a discrete Gaussian is below 1e-80.
    gaussian = Gaussian.of(min(1e6, parameters.payload_sigma * sqrt(parameters.max_group)))
    assert gaussian.sigma < 1e6
    stream, part, worst = SecretStream(bytes(32)), 10**6, 0
    for _ in range(samples // part):
        worst = max(worst, int(gaussian.sample(stream, part).abs().max()))
    assert worst < room


def test_the_scale_is_the_largest_power_of_two_that_fits() -> None:
    for multiplier in (0.1, 1.0, 5.0, 20.0, 44.3):
        parameters = Parameters.for_clients(64, cell_size=32, min_group=20, noise_multiplier=multiplier)
        load = parameters.max_group + 6.5 * multiplier * sqrt(parameters.max_group / 20)
        assert parameters.scale * load <= parameters.modulus / 2
        assert parameters.scale == 1 << 15 or 2 * parameters.scale * load > parameters.modulus / 2
