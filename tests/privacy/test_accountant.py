"""Epsilon: against closed forms, against exact divergences of sums of discrete Gaussians, against PLD."""

from __future__ import annotations

from math import erf, exp, inf, log, sqrt

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.errors import ParameterError
from asyncfl.parameters import Parameters
from asyncfl.privacy.accountant import Mechanism, approximate_epsilon, epsilon, renyi_divergence

ROUNDING = 1e-12
multipliers = st.floats(0.3, 100)
deltas = st.floats(1e-12, 1e-2)


def mechanism(multiplier: float, members: int = 32, dimension: int = 4810) -> Mechanism:
    return Mechanism(multiplier, members, 1 << 12, dimension)


def discrete_gaussian(sigma: float) -> npt.NDArray[np.float64]:
    """Probabilities on -reach..reach, which hold all but 1e-300 of the mass."""
    reach = int(38 * sigma) + 2
    weights = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    return weights / weights.sum()


def sum_of_members(sigma: float, members: int) -> npt.NDArray[np.float64]:
    total = np.ones(1)
    for _ in range(members):
        total = np.convolve(total, discrete_gaussian(sigma))
    return total


def exact_divergence(noise: npt.NDArray[np.float64], shift: int, order: float) -> float:
    """Renyi divergence of the noise from itself moved by `shift`, by summation over all outcomes.

    Outcomes with probability under 1e-290 on either side are left out: that can only lower it.
    """
    p, q = noise[shift:], noise[: len(noise) - shift]
    kept = (p > 1e-290) & (q > 1e-290)
    exponents = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
    return float(np.logaddexp.reduce(exponents)) / (order - 1)


def analytic_epsilon(mu: float, delta: float) -> float:
    """Exact epsilon of one continuous Gaussian of sensitivity/sigma = mu (Balle and Wang 2018, Theorem 5)."""

    def phi(value: float) -> float:
        return (1 + erf(value / sqrt(2))) / 2

    def delta_at(eps: float) -> float:
        return phi(mu / 2 - eps / mu) - exp(eps) * phi(-mu / 2 - eps / mu)

    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize("members", [1, 2, 3, 5])
@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8, 1.5])
@pytest.mark.parametrize("sensitivity", [1, 2, 4])
def test_the_bound_holds_for_exact_sums_of_discrete_gaussians(
    members: int, sigma: float, sensitivity: int
) -> None:
    noise = sum_of_members(sigma, members)
    bound = Mechanism(sigma * sqrt(members) / sensitivity, members, sensitivity, 1)
    for order in (1.5, 2.0, 4.0, 8.0):
        exact = exact_divergence(noise, sensitivity, order)
        assert 0 < exact <= renyi_divergence(bound, order) * (1 + 1e-9)


def test_one_discrete_gaussian_meets_its_bound_at_integer_orders() -> None:
    # Renyi divergence at integer shifts is exactly order * shift^2 / 2 sigma^2 where order * shift is integral.
    exact = exact_divergence(discrete_gaussian(1.0), 1, 2.0)
    assert exact == pytest.approx(renyi_divergence(Mechanism(1.0, 1, 1, 1), 2.0), rel=1e-9)


def test_without_the_correction_sums_of_narrow_noise_would_be_undercounted() -> None:
    exact = exact_divergence(sum_of_members(0.5, 2), 1, 8.0)
    pretended = 8.0 / (2 * 2 * 0.5**2)
    assert exact > pretended * 1.001
    assert exact <= renyi_divergence(Mechanism(0.5 * sqrt(2), 2, 1, 1), 8.0)


def test_two_coordinates_cost_no_more_than_the_bound() -> None:
    noise = sum_of_members(0.6, 3)
    exact = 2 * exact_divergence(noise, 1, 3.0)
    # The bound is in terms of an integer norm L; (1, 1) has norm sqrt(2) < 2.
    assert exact <= renyi_divergence(Mechanism(0.6 * sqrt(3) / 2, 3, 2, 2), 3.0)


def test_known_values_of_the_gaussian_mechanism() -> None:
    # zCDP of one Gaussian with z = 1 is 1/2; epsilon by rho + 2 sqrt(rho log(1/delta)) is an upper bound.
    loose = 0.5 + 2 * sqrt(0.5 * log(1e5))
    assert analytic_epsilon(1.0, 1e-5) < epsilon(mechanism(1.0), 1, 1e-5) < loose
    assert epsilon(mechanism(1.0), 1, 1e-5) == pytest.approx(4.7287, abs=2e-3)
    assert analytic_epsilon(1.0, 1e-5) == pytest.approx(4.3772, abs=1e-3)


@pytest.mark.parametrize(("multiplier", "uploads"), [(1.0, 1), (5.0, 20), (44.3, 120), (10.0, 120)])
def test_the_approximation_is_the_exact_gaussian_and_below_the_bound(multiplier: float, uploads: int) -> None:
    approximation = approximate_epsilon(multiplier, uploads, 1e-5)
    exact = analytic_epsilon(sqrt(uploads) / multiplier, 1e-5)
    assert approximation == pytest.approx(exact, rel=2e-3, abs=1e-3)
    bound = epsilon(mechanism(multiplier), uploads, 1e-5)
    assert approximation <= bound * (1 + 1e-3) <= approximation * 1.15


@settings(deadline=None, max_examples=60)
@given(multipliers, st.floats(1.01, 3), st.integers(1, 2000), deltas)
def test_more_noise_costs_less(multiplier: float, factor: float, uploads: int, delta: float) -> None:
    less = epsilon(mechanism(multiplier * factor), uploads, delta)
    assert less <= epsilon(mechanism(multiplier), uploads, delta) + ROUNDING


@settings(deadline=None, max_examples=60)
@given(multipliers, st.integers(0, 2000), st.integers(1, 100), deltas)
def test_more_uploads_cost_more(multiplier: float, uploads: int, more: int, delta: float) -> None:
    spent = epsilon(mechanism(multiplier), uploads, delta)
    assert spent <= epsilon(mechanism(multiplier), uploads + more, delta) + ROUNDING


@settings(deadline=None, max_examples=60)
@given(multipliers, st.integers(1, 2000), deltas, st.floats(1.01, 1e3))
def test_a_smaller_delta_costs_more(multiplier: float, uploads: int, delta: float, factor: float) -> None:
    larger = epsilon(mechanism(multiplier), uploads, delta)
    assert larger <= epsilon(mechanism(multiplier), uploads, delta / factor) + ROUNDING


@settings(deadline=None, max_examples=60)
@given(multipliers, st.integers(1, 500), deltas)
def test_the_grid_of_orders_is_fine_enough(multiplier: float, uploads: int, delta: float) -> None:
    rho = uploads / (2 * multiplier**2)
    orders = 1 + np.geomspace(1e-3, 1e7, 20_000)
    values = rho * orders + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    best = max(0.0, float(values.min()))
    assert epsilon(mechanism(multiplier), uploads, delta) <= best * 1.001 + 1e-5


def test_of_a_deployment_takes_the_honest_members_and_the_scale_of_the_parameters() -> None:
    parameters = Parameters.for_clients(
        96, cell_size=24, min_group=20, max_group=40, malicious_allowance=4, noise_multiplier=2.0
    )
    made = Mechanism.of(parameters, 1000)
    assert (made.members, made.sensitivity, made.dimension) == (16, parameters.scale, 1000)
    assert made.sigma == pytest.approx(parameters.payload_sigma)
    assert made.tau == 0.0


def test_no_uploads_cost_nothing() -> None:
    assert epsilon(mechanism(1.0), 0, 1e-5) == approximate_epsilon(1.0, 0, 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, inf])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(ParameterError, match="probability"):
        epsilon(mechanism(1.0), 1, delta)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, inf, float("nan")])
def test_no_noise_is_refused(multiplier: float) -> None:
    with pytest.raises(ParameterError, match="without noise"):
        mechanism(multiplier)
    with pytest.raises(ParameterError, match="without noise"):
        approximate_epsilon(multiplier, 1, 1e-5)


def test_noise_too_narrow_for_the_theorem_is_refused() -> None:
    with pytest.raises(ParameterError, match="no bound is known below"):
        Mechanism(0.1, 16, 10, 1)
