"""The float64 transform is exact: it agrees with integer arithmetic on random and on extreme inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyncfl.parameters import STANDARD, TINY, Preset
from asyncfl.ring import Transform, centre_, from_lanes, residues_, to_lanes, transform
from tests.spec import ring_reference as reference

CPU = torch.device("cpu")
Q = 8380417
PRESETS = pytest.mark.parametrize("preset", [TINY, STANDARD], ids=lambda preset: preset.name)


def engine_of(preset: Preset) -> Transform:
    return transform(preset.degree, preset.modulus, CPU)


def lanes_of(preset: Preset, *polynomials: list[int]) -> Tensor:
    flat = torch.tensor([c for polynomial in polynomials for c in polynomial], dtype=torch.float64)
    return to_lanes(centre_(flat, preset.modulus), preset.degree).contiguous()


def integers(lanes: Tensor) -> list[list[int]]:
    return (from_lanes(lanes).to(torch.int64) % Q).tolist()


def draw(preset: Preset, blocks: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, preset.modulus, (blocks, preset.degree), generator=generator).tolist()


def multiply_add(preset: Preset, publics: Tensor, s: Tensor, addend: Tensor) -> Tensor:
    engine = engine_of(preset)
    workspace = engine.workspace(publics.shape[1])
    return engine.multiply_add(publics, engine.multiplier(s), addend, workspace)


def test_forward_gives_the_values_at_odd_powers_of_the_root() -> None:
    polynomials = draw(TINY, 3, seed=1)
    spectra = engine_of(TINY).forward(lanes_of(TINY, *polynomials))
    rows, blocks, columns = spectra.shape
    for block in range(blocks):
        expected = reference.spectrum(polynomials[block], Q)
        for r in range(rows):
            for m in range(columns):
                assert int(spectra[r, block, m]) % Q == expected[r + rows * m]


def test_forward_at_standard_size_agrees_at_spot_checked_frequencies() -> None:
    (polynomial,) = draw(STANDARD, 1, seed=2)
    spectra = engine_of(STANDARD).forward(lanes_of(STANDARD, polynomial))
    root = reference.root_of_unity(STANDARD.degree, Q)
    for k in (0, 1, 31, 32, 517, 1023):
        point = pow(root, 2 * k + 1, Q)
        assert int(spectra[k % 32, 0, k // 32]) % Q == reference.value_at(polynomial, point, Q)


@PRESETS
@pytest.mark.parametrize("blocks", [1, 2, 7, 65])
def test_inverse_undoes_forward(preset: Preset, blocks: int) -> None:
    polynomials = draw(preset, blocks, seed=blocks)
    engine = engine_of(preset)
    assert integers(engine.inverse(engine.forward(lanes_of(preset, *polynomials)))) == polynomials


@pytest.mark.parametrize("seed", range(5))
def test_product_is_the_schoolbook_product(seed: int) -> None:
    left, right = draw(TINY, 2, seed)
    publics = engine_of(TINY).forward(lanes_of(TINY, left))
    product = multiply_add(TINY, publics, lanes_of(TINY, right), torch.zeros(1))
    assert integers(product) == [reference.multiply(left, right, Q)]


def test_product_at_standard_size_is_the_schoolbook_product() -> None:
    left, right = draw(STANDARD, 2, seed=5)
    publics = engine_of(STANDARD).forward(lanes_of(STANDARD, left))
    product = multiply_add(STANDARD, publics, lanes_of(STANDARD, right), torch.zeros(1))
    assert integers(product) == [reference.multiply(left, right, Q)]


@PRESETS
@pytest.mark.parametrize("sign", [1, -1])
def test_products_of_the_largest_residues_stay_exact(preset: Preset, sign: int) -> None:
    """Constant spectra of magnitude q/2 make every sum of 32 products as large as it can be."""
    largest = (Q - 1) // 2
    spectra = torch.full((32, 3, preset.degree // 32), largest, dtype=torch.int32)
    # A constant spectrum is the constant polynomial.
    s = torch.zeros(32, 1, preset.degree // 32, dtype=torch.float64)
    s[0, 0, 0] = sign * largest
    addend = torch.full(spectra.shape, float(largest), dtype=torch.float64)
    result = integers(multiply_add(preset, spectra, s, addend))
    constant = sign * largest * largest
    expected = [(constant + largest) % Q] + [largest] * (preset.degree - 1)
    assert result == [expected] * 3


def test_every_row_of_the_inverse_matrices_survives_adversarial_signs() -> None:
    """For each row the worst operand copies the signs of the row: the partial sums reach their bound."""
    engine = engine_of(STANDARD)
    largest = (Q - 1) // 2
    for r in range(0, 32, 5):
        signs = torch.sign(engine._inverse_columns[r]).T * largest  # row b: signs of column b
        spectra = torch.zeros(32, 32, 32, dtype=torch.float64)
        spectra[r] = signs
        exact = engine._inverse_columns[r].to(torch.int64)
        expected = signs.to(torch.int64) @ exact
        assert int(expected.abs().max()) < 1 << 53
        assert torch.equal(torch.bmm(spectra, engine._inverse_columns)[r].to(torch.int64), expected)


@given(
    st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1, max_size=40),
    st.lists(st.integers(-(2**30), 2**30), max_size=40),
)
@settings(max_examples=60)
def test_centre_is_exact_below_2_to_53(values: list[int], multiples: list[int]) -> None:
    values = values + [Q * k for k in multiples] + [Q * k + Q // 2 for k in multiples]
    result = centre_(torch.tensor(values, dtype=torch.float64), Q).to(torch.int64).tolist()
    for value, residue in zip(values, result, strict=True):
        assert (value - residue) % Q == 0
        assert abs(residue) <= Q // 2 + 2


@given(
    st.lists(st.integers(-(2**49) + 1, 2**49 - 1), min_size=1, max_size=40),
    st.lists(st.integers(-(2**26) + 1, 2**26 - 1), max_size=40),
)
@settings(max_examples=60)
def test_residues_are_the_integer_residues_also_next_to_multiples_of_q(
    values: list[int], multiples: list[int]
) -> None:
    values = values + [Q * k + off for k in multiples for off in (-1, 0, 1)]
    result = residues_(torch.tensor(values, dtype=torch.float64), Q).to(torch.int64).tolist()
    assert result == [value % Q for value in values]


def test_lane_form_round_trips() -> None:
    flat = torch.arange(3 * 64)
    assert torch.equal(from_lanes(to_lanes(flat, 64)).flatten(), flat)


def test_a_degree_without_a_root_of_unity_is_refused() -> None:
    with pytest.raises(ValueError, match="2N must divide"):
        Transform(32, 37, CPU)


def test_a_multiplier_never_shows_its_secret() -> None:
    assert "redacted" in repr(engine_of(TINY).multiplier(lanes_of(TINY, [7] * 64)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@PRESETS
def test_cuda_gives_the_same_integers(preset: Preset) -> None:
    left, right = draw(preset, 2, seed=9)
    device = torch.device("cuda")
    engine = transform(preset.degree, preset.modulus, device)
    publics = engine.forward(lanes_of(preset, left).to(device))
    product = engine.multiply_add(
        publics,
        engine.multiplier(lanes_of(preset, right).to(device)),
        torch.zeros(1, device=device),
        engine.workspace(1),
    )
    cpu = multiply_add(
        preset, engine_of(preset).forward(lanes_of(preset, left)), lanes_of(preset, right), torch.zeros(1)
    )
    assert integers(product.cpu()) == integers(cpu)
