"""The integer image is close to the update and its exact norm never exceeds the bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.errors import UpdateError
from asyncfl.masking import quantise
from asyncfl.parameters import Segment

L = 1 << 15


def exact_norm_square(image: torch.Tensor) -> int:
    return sum(int(value) ** 2 for value in image.tolist())


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=60),
    st.sampled_from([16, 23170, L]),
    st.floats(1e-3, 1e3),
)
@settings(max_examples=150)
def test_the_integer_norm_is_at_most_the_bound(values: list[float], bound: int, clip: float) -> None:
    image = quantise(torch.tensor(values), [Segment(0, len(values), clip, bound)], 64)
    assert exact_norm_square(image) <= bound**2
    assert torch.equal(image, image.round())
    assert not image[len(values) :].any()


@pytest.mark.parametrize("dimension", [1, 100, 70_000, 300_000])
@pytest.mark.parametrize("size", [0.3, 1.0, 50.0])
def test_the_image_is_the_clipped_and_scaled_update(dimension: int, size: float) -> None:
    update = torch.randn(dimension, generator=torch.Generator().manual_seed(dimension))
    update *= size / update.norm()
    image = quantise(update, [Segment(0, dimension, 1.0, L)], dimension)
    expected = update.double() * (L / max(1.0, size))
    # rounding lifts the norm of many coordinates; the scaling that undoes it is tiny
    assert float((image - expected).abs().max()) <= 0.5 + 1e-4 * float(expected.abs().max()) + 1e-3
    assert exact_norm_square(image) <= L**2
    if size >= 1:
        assert exact_norm_square(image) >= (0.99 * L) ** 2


def test_an_update_inside_the_clip_is_only_rounded() -> None:
    update = torch.tensor([0.5, -0.25, 1.4 / L, -1.6 / L])
    image = quantise(update, [Segment(0, 4, 1.0, L)], 4)
    assert image.tolist() == [L / 2, -L / 4, 1.0, -2.0]


def test_one_coordinate_at_the_clip_reaches_the_bound_exactly() -> None:
    assert quantise(torch.tensor([-3.0]), [Segment(0, 1, 1.0, L)], 1).tolist() == [-L]


def test_segments_are_clipped_apart() -> None:
    update = torch.cat([torch.full((100,), 1000.0), torch.full((50,), 1e-3)])
    bound = 23170
    image = quantise(update, [Segment(0, 100, 1.0, bound), Segment(100, 150, 2.0, bound)], 192)
    assert exact_norm_square(image[:100]) <= bound**2
    assert torch.equal(image[100:150], torch.full((50,), float(round(1e-3 * bound / 2))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 99_999])
def test_nan_and_infinity_are_refused(value: float, position: int) -> None:
    update = torch.zeros(100_000)
    update[position] = value
    with pytest.raises(UpdateError, match="NaN or infinities"):
        quantise(update, [Segment(0, 100_000, 1.0, L)], 100_000)


@pytest.mark.parametrize("shape", [(9,), (11,), (10, 1), ()])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UpdateError, match="shape"):
        quantise(torch.zeros(shape), [Segment(0, 10, 1.0, L)], 64)


def test_zero_stays_zero_and_the_update_is_left_alone() -> None:
    update = torch.zeros(10)
    assert not quantise(update, [Segment(0, 10, 1.0, L)], 64).any()
    update = torch.full((10,), 7.0)
    quantise(update, [Segment(0, 10, 1.0, L)], 64)
    assert torch.equal(update, torch.full((10,), 7.0))
