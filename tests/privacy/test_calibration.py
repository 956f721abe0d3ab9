"""Noise from a budget, uploads from a budget: never over it, and hardly under."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.errors import ParameterError
from asyncfl.privacy.accountant import Mechanism, epsilon
from asyncfl.privacy.calibration import Budget, affordable_uploads, calibrate


def mechanism(multiplier: float) -> Mechanism:
    return Mechanism(multiplier, 32, 1 << 12, 4810)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 50), st.floats(1e-9, 1e-3), st.integers(1, 1000))
def test_calibrated_noise_meets_the_budget_and_a_little_less_breaks_it(
    target: float, delta: float, uploads: int
) -> None:
    multiplier = calibrate(Budget(target, delta), uploads, mechanism)
    assert epsilon(mechanism(multiplier), uploads, delta) <= target
    assert epsilon(mechanism(multiplier * 0.9999), uploads, delta) > target


def test_the_value_that_the_documentation_names() -> None:
    assert calibrate(Budget(1.0, 1e-5), 120, mechanism) == pytest.approx(44.31, abs=0.01)


@pytest.mark.parametrize("multiplier", [3.0, 10.0, 44.32])
def test_affordable_uploads_are_the_most_that_fit(multiplier: float) -> None:
    budget = Budget(1.0, 1e-5)
    count = affordable_uploads(budget, mechanism(multiplier))
    assert epsilon(mechanism(multiplier), count, 1e-5) <= 1.0
    assert epsilon(mechanism(multiplier), count + 1, 1e-5) > 1.0


def test_a_budget_below_one_upload_affords_none() -> None:
    assert affordable_uploads(Budget(0.1, 1e-5), mechanism(1.0)) == 0


def test_a_budget_that_never_ends_is_capped() -> None:
    assert affordable_uploads(Budget(1e9, 1e-5), mechanism(1e5)) == 1 << 40


def test_a_budget_beyond_all_noise_is_refused() -> None:
    with pytest.raises(ParameterError, match="fewer epochs"):
        calibrate(Budget(1e-5, 1e-12), 10**6, mechanism)


@pytest.mark.parametrize(("target", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (float("nan"), 1e-5), (1.0, 0.0)])
def test_a_budget_that_is_none_is_refused(target: float, delta: float) -> None:
    with pytest.raises(ParameterError):
        Budget(target, delta)


def test_calibrating_for_no_uploads_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least one"):
        calibrate(Budget(1.0, 1e-5), 0, mechanism)
