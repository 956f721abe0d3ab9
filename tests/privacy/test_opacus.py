"""A second accountant, by other people, agrees to 1 %. Runs where Opacus is installed (pip install opacus)."""

from __future__ import annotations

import warnings

import pytest

from asyncfl.privacy.accountant import Mechanism, epsilon

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # What importing Opacus warns of is not ours.
    opacus = pytest.importorskip("opacus.accountants")


@pytest.mark.parametrize(
    ("multiplier", "uploads", "delta"),
    [
        (1.0, 1, 1e-5),
        (2.0, 10, 1e-6),
        (5.0, 50, 1e-5),
        (10.0, 120, 1e-5),
        (44.313, 120, 1e-5),
        (8.0, 20, 1e-9),
    ],
)
def test_opacus_agrees_to_one_percent(multiplier: float, uploads: int, delta: float) -> None:
    other = opacus.RDPAccountant()
    other.history = [(multiplier, 1.0, uploads)]
    expected = other.get_epsilon(delta, alphas=[1 + x / 20 for x in range(1, 4000)])
    assert epsilon(Mechanism(multiplier, 32, 1 << 12, 4810), uploads, delta) == pytest.approx(
        expected, rel=0.01
    )
