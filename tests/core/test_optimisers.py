"""Server optimisers are fold rules: as published, exact to the last bit, bounded whatever comes in."""

from dataclasses import replace
from fractions import Fraction
from math import inf, nextafter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from asyncfl import optimisers
from asyncfl.errors import ParameterError
from asyncfl.federation import Federation
from asyncfl.fold import FoldState, compute_contribution
from asyncfl.optimisers import FRACTION, LIMIT
from asyncfl.parameters import OPTIMIZER_SETTINGS, Parameters
from asyncfl.rows import sum_row
from tests.core.builders import make_federation
from tests.spec import optimisers_reference

RULES = ("sgd", "momentum", "adam")
UNIT = 1 << 32


def make(rule: str, *, weights: int = 5, buffers: int = 2, **options: float) -> Federation:
    """A federation with this optimiser; settings that do not concern it are left out."""
    used = {name: value for name, value in options.items() if rule in OPTIMIZER_SETTINGS.get(name, RULES)}
    parameters = Parameters.for_clients(16, preset="tiny", server_optimizer=rule, **used)
    return replace(make_federation(), parameters=parameters, weights=weights, buffers=buffers)


def run(federation: Federation, rows: NDArray[np.int64]) -> FoldState:
    """The state after contributions [rows, d] in units of 2^-32."""
    state = FoldState.start(federation)
    for row in rows:
        state = state.after(torch.from_numpy(row), federation)
    return state


numbers = st.one_of(st.integers(-(10**9), 10**9), st.integers(-int(LIMIT), int(LIMIT)), st.integers(-9, 9))
matrices = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=8)
)
rates = st.sampled_from([1.0, 0.1, 0.3, 0.01, 1e-6, 1e6])
betas = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1 - 2**-53])


@pytest.mark.parametrize("rule", RULES)
@given(rows=matrices, rate=rates, beta=betas, beta2=betas, tau=st.sampled_from([1e-3, 1e-6, 0.1]))
@settings(max_examples=60, deadline=None)
@example(rows=[[int(LIMIT)] * 3] * 4, rate=1e6, beta=1 - 2**-53, beta2=0.0, tau=1e-6)
def test_every_bit_is_that_of_the_reference_in_pure_python(
    *, rule: str, rows: list[list[int]], rate: float, beta: float, beta2: float, tau: float
) -> None:
    deltas = np.array(rows, dtype=np.int64)
    federation = make(
        rule, weights=deltas.shape[1], buffers=0,
        server_learning_rate=rate, server_momentum=beta, server_beta2=beta2, server_epsilon=tau,
    )  # fmt: skip
    state = run(federation, deltas)
    for column in range(deltas.shape[1]):
        expected = optimisers_reference.bitwise(federation.parameters, [int(d) for d in deltas[:, column]])
        assert int(state.total[column]) == expected


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(st.integers(-UNIT, UNIT), min_size=1, max_size=9), st.sampled_from([1.0, 0.1, 0.03]))
@settings(max_examples=60, deadline=None)
def test_rounding_aside_it_is_the_published_optimiser(rule: str, deltas: list[int], rate: float) -> None:
    federation = make(rule, weights=1, buffers=0, server_learning_rate=rate)
    exact = optimisers_reference.published(federation.parameters, deltas)
    state = run(federation, np.array(deltas, dtype=np.int64)[:, None])
    # A unit in a moment of Adam weighs rate / tau units of 2^-32.
    allowed = len(deltas) * 10 * (1 + rate / federation.parameters.server_epsilon)
    assert abs(int(state.total[0]) - exact) <= allowed


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_bits_do_not_depend_on_how_many_coordinates_are_worked_on_at_a_time(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = np.random.default_rng(1).integers(-UNIT, UNIT, (5, 1000))
    federation = make(rule, weights=1000, buffers=0)
    whole = run(federation, deltas)
    for chunk in (1, 7, 999, 4096):
        monkeypatch.setattr(optimisers, "CHUNK", chunk)
        assert torch.equal(run(federation, deltas).total, whole.total)


@pytest.mark.parametrize("rule", RULES)
def test_buffers_move_by_the_mean_alone(rule: str) -> None:
    """Momentum would carry a running variance below zero."""
    state = run(make(rule, weights=3, buffers=2), np.full((4, 5), UNIT // 8, dtype=np.int64))
    assert state.total[3:].tolist() == [UNIT // 2, UNIT // 2]


def test_sgd_allocates_no_moments() -> None:
    state = run(make("sgd"), np.ones((2, 7), dtype=np.int64))
    assert (state.first, state.second) == (None, None)


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_malicious_sums_of_any_size_leave_the_moments_within_what_the_clip_allows(rule: str) -> None:
    federation = make(rule)
    used = federation.parameters
    state, largest = FoldState.start(federation), 0
    generator = torch.Generator().manual_seed(3)
    for _ in range(40):
        opened = torch.randint(-(2**22), 2**22, (federation.dimension,), generator=generator).to(torch.int32)
        contribution = compute_contribution(sum_row([(opened, 4)], federation), 4.0, federation)
        largest = max(largest, int(contribution[: federation.weights].abs().max()))
        state = state.after(contribution, federation)
    assert largest < 10 * used.clip * FRACTION
    assert state.first is not None
    bound = largest / (1 - used.server_momentum) if rule == "momentum" else largest
    assert int(state.first.abs().max()) <= bound + 40
    if state.second is not None:
        assert int(state.second.max()) <= max(largest, used.server_epsilon * FRACTION) + 40
        assert int(state.second.min()) >= 0


@pytest.mark.parametrize("rule", RULES)
def test_the_largest_settings_that_are_accepted_saturate_and_make_no_nan(rule: str) -> None:
    federation = make(rule, clip=1e6, buffer_clip=1e6, server_learning_rate=1e6, server_epsilon=1e-6)
    state = FoldState.start(federation)
    for sign in (1, 1, -1, 1):
        opened = torch.full((federation.dimension,), sign * 2**22, dtype=torch.int32)
        state = state.after(
            compute_contribution(sum_row([(opened, 4)], federation), 4.0, federation), federation
        )
        for tensor in (state.total, state.first, state.second):
            assert tensor is None or int(tensor.abs().max()) <= LIMIT


@pytest.mark.parametrize(
    "options",
    [
        {"server_momentum": 1.0}, {"server_momentum": -0.1}, {"server_beta2": 1.0}, {"server_epsilon": 0.0},
        {"clip": 1e7}, {"server_learning_rate": 1e300}, {"server_optimizer": "rmsprop"},
    ],
)  # fmt: skip
def test_settings_that_could_diverge_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Parameters.for_clients(16, **{"server_optimizer": "adam", **options})


@pytest.mark.parametrize(
    ("rule", "option"), [("sgd", "server_momentum"), ("sgd", "server_beta2"), ("momentum", "server_epsilon")]
)
def test_a_setting_of_another_optimiser_is_refused_when_a_deployment_is_made(rule: str, option: str) -> None:
    with pytest.raises(ParameterError, match=f"{option}.*server_optimizer"):
        Parameters.for_clients(16, server_optimizer=rule, **{option: 0.5})


def test_roots_are_correctly_rounded_on_this_machine() -> None:
    """What equality across machines rests on: the operations are IEEE 754's, sqrt included."""
    values = [int(value) for value in np.random.default_rng(0).integers(1, 2**52, 2000)]
    roots = np.sqrt(np.array([float(value) * float(value) * 0.99 for value in values]))
    for value, root in zip(values, roots, strict=True):
        square, near = Fraction(float(value) * float(value) * 0.99), float(root)
        below, above = (Fraction(near) + Fraction(nextafter(near, side)) for side in (0.0, inf))
        assert below**2 <= 4 * square <= above**2
