"""Public polynomials are a function of the deployment, the kind and the block's number, of nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyncfl.parameters import STANDARD, TINY, Preset
from asyncfl.ring import batch_blocks, public_polynomials, transform
from asyncfl.ring.public import Kind
from tests.spec import ring_reference as reference

CPU = torch.device("cpu")
DEPLOYMENT = bytes(range(32))


def spectra(preset: Preset, kind: Kind, blocks: int, deployment: bytes = DEPLOYMENT) -> Tensor:
    return torch.cat(public_polynomials(deployment, kind, blocks, preset, CPU), dim=1)


@pytest.mark.parametrize("kind", ["check", "payload"])
@pytest.mark.parametrize("preset", [TINY, STANDARD], ids=lambda preset: preset.name)
def test_spectra_are_the_references(preset: Preset, kind: Kind) -> None:
    found = spectra(preset, kind, 3)
    for block in range(3):
        expected = reference.public_spectrum(DEPLOYMENT, kind, block, preset.degree, preset.modulus)
        natural = found[:, block].T.flatten() % preset.modulus  # k = r + 32 m: m major
        assert natural.tolist() == expected


def test_the_polynomial_behind_a_spectrum_is_the_references() -> None:
    engine = transform(TINY.degree, TINY.modulus, CPU)
    polynomial = engine.inverse(spectra(TINY, "payload", 1).to(torch.float64)).flatten().to(torch.int64)
    assert (polynomial % TINY.modulus).tolist() == reference.public_polynomial(
        DEPLOYMENT, "payload", 0, TINY.degree, TINY.modulus
    )


def test_more_blocks_change_no_polynomial() -> None:
    assert torch.equal(spectra(TINY, "payload", 3), spectra(TINY, "payload", 1500)[:, :3])


def test_batches_have_the_cache_size_and_cover_all_blocks() -> None:
    size = batch_blocks(TINY.degree, CPU)
    batches = public_polynomials(DEPLOYMENT, "payload", size + 5, TINY, CPU)
    assert [batch.shape[1] for batch in batches] == [size, 5]


def test_kinds_blocks_deployments_and_degrees_are_separate() -> None:
    payload = spectra(TINY, "payload", 2)
    assert not torch.equal(payload[:, 0], payload[:, 1])
    assert not torch.equal(payload, spectra(TINY, "check", 2))
    assert not torch.equal(payload, spectra(TINY, "payload", 2, bytes(32)))
    assert not torch.equal(payload[:, 0].flatten(), spectra(STANDARD, "payload", 1).flatten()[:64])


def test_values_are_uniform_over_all_residues() -> None:
    values = spectra(STANDARD, "payload", 100).to(torch.float64).flatten()
    assert float(values.abs().max()) <= STANDARD.modulus // 2
    counts = torch.histc(values, bins=64, min=-(STANDARD.modulus // 2), max=STANDARD.modulus // 2)
    expected = len(values) / 64
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 63 + 6 * (2 * 63) ** 0.5


def test_the_expansion_is_cached() -> None:
    arguments = (DEPLOYMENT, "payload", 3, TINY, CPU)
    assert public_polynomials(*arguments) is public_polynomials(*arguments)
