"""Agreement with byzfl (https://byzfl.epfl.ch), where it is installed; where it defines a rule otherwise, how.

Not a dependency: `pip install --no-deps byzfl` beside torch, torchvision and seaborn, then `pytest tests/rules`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from asyncfl.rules import aggregate
from asyncfl.rules.mean import Mean

byzfl: Any = pytest.importorskip("byzfl", reason="byzfl is not installed: pip install --no-deps byzfl")

pytestmark = pytest.mark.filterwarnings("default")


def grid(seed: int, inputs: int, dimension: int, levels: int) -> np.ndarray[Any, Any]:
    """Inputs on a coarse grid: many equal coordinates, equal distances, and inputs that are there twice."""
    draw = np.random.default_rng(seed)
    values = draw.integers(-levels, levels + 1, (inputs, dimension)) / 2.0
    values[-1] = values[0]
    return values


CASES = {
    "random": [
        np.random.default_rng(seed).normal(size=(n, d)) for seed, n, d in [(0, 11, 40), (1, 9, 1), (2, 24, 7)]
    ],
    "ties": [grid(seed, n, d, 2) for seed, n, d in [(0, 11, 3), (1, 12, 1), (2, 9, 5)]],
    "far": [np.random.default_rng(3).normal(size=(11, 20)) * np.where(np.arange(11) < 2, 1e6, 1.0)[:, None]],
    "equal": [np.full((9, 4), 0.25)],
}
INPUTS = [
    pytest.param(case, id=f"{name}-{k}") for name, cases in CASES.items() for k, case in enumerate(cases)
]
BAD = [0, 1, 2]


def ours(
    name: str, updates: np.ndarray[Any, Any], byzantine: int = 0, **options: Any
) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = aggregate(
        name, torch.from_numpy(updates), byzantine=byzantine, **options
    ).numpy()
    return result


def agree(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], inputs: np.ndarray[Any, Any]) -> None:
    """Up to what rounding inputs to 20 bits and weights to 2^-16 may do, relative to the largest coordinate."""
    assert np.allclose(one, other, rtol=1e-5, atol=2.0**-15 * np.abs(inputs).max())


@pytest.mark.parametrize("inputs", INPUTS)
def test_mean_and_median(inputs: np.ndarray[Any, Any]) -> None:
    agree(ours("mean", inputs), byzfl.Average()(inputs), inputs)
    agree(ours("median", inputs), byzfl.Median()(inputs), inputs)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("inputs", INPUTS)
def test_trimmed_mean(inputs: np.ndarray[Any, Any], bad: int) -> None:
    agree(ours("trimmed_mean", inputs, bad), byzfl.TrMean(f=bad)(inputs), inputs)


def score(inputs: np.ndarray[Any, Any], one: np.ndarray[Any, Any], bad: int) -> float:
    """Krum's, of the input that `one` is."""
    index = int(np.abs(inputs - one).sum(1).argmin())
    squares = ((inputs - inputs[index]) ** 2).sum(1)
    return float(np.sort(np.delete(squares, index))[: len(inputs) - bad - 2].sum())


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("inputs", INPUTS)
def test_krum_with_one_neighbour_more_than_byzfls_own(inputs: np.ndarray[Any, Any], bad: int) -> None:
    """byzfl adds up n - f - 1 neighbours, the source (section 4) and we n - f - 2: byzfl's with f + 1.

    Of equal scores both take one; which one can differ, so scores are compared where there are ties.
    """
    one, other = ours("krum", inputs, bad), byzfl.Krum(f=bad + 1)(inputs)
    assert (inputs == one).all(axis=1).any()
    assert score(inputs, one, bad) == pytest.approx(score(inputs, other, bad), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("inputs", CASES["random"])
def test_multi_krum(inputs: np.ndarray[Any, Any], bad: int) -> None:
    """Likewise; byzfl takes n - f inputs, which is one fewer with f + 1. Without ties."""
    selected = len(inputs) - bad - 1
    agree(ours("multi_krum", inputs, bad, selected=selected), byzfl.MultiKrum(f=bad + 1)(inputs), inputs)


@pytest.mark.parametrize("inputs", CASES["random"])
def test_geometric_median(inputs: np.ndarray[Any, Any]) -> None:
    """byzfl makes 3 steps from zero, and has an absolute smoothing; both end at the same point."""
    far = byzfl.GeometricMedian(nu=1e-9, T=400)(inputs)
    near = ours("geometric_median", inputs, steps=400)
    assert np.linalg.norm(near - far) <= 1e-3 * np.linalg.norm(inputs, axis=1).max()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("inputs", INPUTS)
def test_centred_clipping(inputs: np.ndarray[Any, Any], steps: int) -> None:
    """byzfl begins at zero, or where it ended before, and we at the coordinate-wise median."""
    theirs = byzfl.CenteredClipping(L=steps, tau=1.5)
    theirs.m = np.median(inputs, axis=0)  # Its constructor refuses every `m`.
    with np.errstate(divide="ignore"):  # An input at the centre: it divides by a distance of zero.
        expected = theirs(inputs)
    agree(ours("centered_clipping", inputs, radius=1.5, steps=steps), expected, inputs)


@pytest.mark.parametrize("inputs", INPUTS)
def test_norm_clipping(inputs: np.ndarray[Any, Any]) -> None:
    clipped = byzfl.Clipping(c=1.5)(inputs.copy())  # It writes into what it is given.
    agree(ours("norm_clipping", inputs, norm=1.5), clipped.mean(axis=0), inputs)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("inputs", CASES["random"])
def test_nearest_neighbour_mixing(inputs: np.ndarray[Any, Any], bad: int) -> None:
    """Without ties: of neighbours at one distance both take any."""
    mixed = byzfl.NNM(f=bad)(inputs)
    agree(ours("nearest_neighbor_mixing", inputs, bad), byzfl.Median()(mixed), inputs)


@pytest.mark.parametrize("size", [1, 3])
def test_buckets_hold_every_input_once(size: int) -> None:
    """Both shuffle, each in a way of its own: with whole buckets the mean of both is that of the inputs."""
    inputs = np.random.default_rng(5).normal(size=(12, 6))
    theirs = byzfl.Bucketing(s=size)(inputs).mean(axis=0)
    agree(ours("bucketing", inputs, then=Mean(), size=size), theirs, inputs)
