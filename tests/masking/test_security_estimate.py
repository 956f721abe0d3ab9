"""The lattice estimate gives Kyber's published figures, and the threat model states what it gives for ours."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import pytest

from scripts.security_estimate import estimate, estimates

THREAT_MODEL = Path(__file__).parents[2] / "docs" / "threat-model.md"


@pytest.mark.parametrize(("dimension", "eta", "published"), [(512, 2, 112), (512, 3, 118), (1024, 2, 256)])
def test_the_published_core_svp_figures_of_kyber_come_out(dimension: int, eta: int, published: int) -> None:
    """CRYSTALS-Kyber, version 3.01 of the specification, section 5 and "Changes to the core Kyber design"."""
    found = estimate("Kyber", dimension, 3329, sqrt(eta / 2), samples=dimension)
    assert abs(found.bits - published) < 2, found


def test_the_threat_model_states_the_estimates() -> None:
    text = THREAT_MODEL.read_text()
    for row in estimates():
        assert f"| {row.what} | {row.block} | {row.bits:.0f} | {row.quantum_bits:.0f} |" in text, row


def test_more_noise_or_a_smaller_modulus_is_harder() -> None:
    base = estimate("base", 256, 8380417, 4.5).bits
    assert estimate("noise", 256, 8380417, 9.0).bits > base
    assert estimate("modulus", 256, 1 << 20, 4.5).bits > base
