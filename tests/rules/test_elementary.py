"""Elementary functions that are the same everywhere are near those of the library, and FedAOT with them near itself."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.rules import FedAOT, elementary
from asyncfl.rules.arithmetic import EXACT
from asyncfl.rules.exact import CHUNK


@given(st.floats(-600, 600))
def test_exp_is_the_exponential(x: float) -> None:
    assert elementary.exp(x) == pytest.approx(math.exp(x), rel=1e-15)


@given(st.floats(1e-300, 1e300))
def test_log_is_the_logarithm(x: float) -> None:
    assert elementary.log(x) == pytest.approx(math.log(x), rel=1e-15, abs=1e-300)


@given(st.floats(-1e300, 1e300))
def test_tanh_is_the_hyperbolic_tangent(x: float) -> None:
    assert elementary.tanh(x) == pytest.approx(math.tanh(x), rel=0, abs=1e-15)


def inputs(epoch: int, dimension: int = 3001) -> torch.Tensor:
    drawn = np.random.Generator(np.random.PCG64(epoch)).normal(size=(9, dimension))
    drawn += np.linspace(-1, 1, dimension)
    drawn[0] *= -4.0
    return torch.tensor(drawn, dtype=torch.float32)


def test_fedaot_with_exact_arithmetic_is_fedaot_and_its_bits_are_those_of_every_machine() -> None:
    """The digest is that of vector units and of none (ATEN_CPU_CAPABILITY=default), and of any number of threads."""
    fast, exact, learned = FedAOT(), FedAOT(arithmetic=EXACT), hashlib.sha256()
    for epoch in range(5):
        quick, same = fast.step(inputs(epoch), 2), exact.step(inputs(epoch), 2)
        assert torch.allclose(quick.aggregate, same.aggregate, atol=1e-3)
        assert torch.allclose(quick.weights, same.weights, atol=2**-12)
        assert int(same.weights.argmin()) == 0
        learned.update(same.aggregate.numpy().tobytes() + repr(same.trust.weights).encode())
        fast, exact = FedAOT(trust=quick.trust), FedAOT(trust=same.trust, arithmetic=EXACT)
    assert learned.hexdigest()[:16] == "1de00d4ad8be1f1f"


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": torch.Tensor.contiguous,
    "columns": lambda updates: updates.T.contiguous().T,
    "every other column": lambda updates: updates.repeat_interleave(2, dim=1)[:, ::2],
    "float64": torch.Tensor.double,
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_over_several_chunks_exact_bits_depend_on_no_thread_and_no_memory_layout(
    layout: str, threads: int
) -> None:
    """Two epochs, the second with references and learned weights."""
    rule, learned, before = FedAOT(arithmetic=EXACT), hashlib.sha256(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for epoch in range(2):
            weighed = rule.step(LAYOUTS[layout](inputs(epoch, 3 * CHUNK + 5)), 2)
            rule = replace(rule, trust=weighed.trust)
            learned.update(weighed.aggregate.float().numpy().tobytes())
            learned.update(repr((weighed.trust.weights, weighed.trust.temperature)).encode())
            learned.update(weighed.weights.numpy().tobytes() + weighed.features.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert learned.hexdigest()[:16] == "14eef66086b7a599"
