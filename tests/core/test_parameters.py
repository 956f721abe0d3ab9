"""What a deployment may not be, and what follows from what it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.errors import ParameterError
from asyncfl.parameters import MAX_GROUP, MAX_REPLICAS, MAX_SCALE, OPENING_BOUND, Parameters


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"replicas": 3}, "n >= 3t\\+1"),
        ({"replicas": 6, "byzantine": 2}, "use --replicas 7 or --byzantine 1"),
        ({"replicas": 17, "byzantine": 1}, "at most 16"),
        ({"cell_size": 99}, "exceeds the 16 clients"),
        ({"min_group": 5, "max_group": 8}, "exceeds cell_size"),
        ({"cell_size": 8, "min_group": 3}, "minority"),
        ({"cell_size": 2, "min_group": 1}, "single clients"),
        ({"max_group": 64}, "max_group 64 must lie"),
        ({"max_group": 2}, "max_group 2 must lie"),
        ({"malicious_allowance": 3}, "no honest member"),
        ({"noise_multiplier": 1.0}, "min_group 3: with noise.*cell_size=24"),
        ({"noise_multiplier": 1e5, "allow_small_private_groups": True}, "does not fit the modulus"),
    ],
)
def test_what_cannot_be_safe_or_cannot_work_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        Parameters.for_clients(16, **options)


@given(st.integers(2, 250), st.integers(0, 5))
def test_the_defaults_of_any_roster_open_no_single_client(clients: int, byzantine: int) -> None:
    parameters = Parameters.for_clients(clients, replicas=3 * byzantine + 1, byzantine=byzantine)
    assert parameters.min_group >= 2
    assert parameters.threshold >= byzantine + 1
    assert parameters.cell_size <= clients


@given(st.floats(0, 30), st.integers(2, MAX_GROUP), st.integers(0, 10))
def test_the_modulus_budget_holds_for_every_accepted_group(noise: float, group: int, allowance: int) -> None:
    try:
        parameters = Parameters(
            cell_size=group, min_group=group, max_group=group, noise_multiplier=noise,
            malicious_allowance=allowance, allow_small_private_groups=True,
        )  # fmt: skip
    except ParameterError:
        return
    tail = 6.5 * parameters.payload_sigma * group**0.5
    assert parameters.scale <= MAX_SCALE
    assert parameters.scale & (parameters.scale - 1) == 0
    assert group * parameters.scale + (tail if noise else 0) <= parameters.modulus / 2
    assert group * OPENING_BOUND <= parameters.modulus / 8


def test_thresholds_follow_from_n_and_t() -> None:
    parameters = Parameters.for_clients(70, replicas=7, byzantine=1)
    assert (parameters.quorum, parameters.threshold, parameters.certifiers) == (6, 5, 2)
    assert MAX_REPLICAS == 16


def test_clip_groups_share_the_sensitivity() -> None:
    parameters = Parameters.for_clients(16, clip=2.0, buffer_clip=5.0)
    (alone,) = parameters.segments(100, 0)
    assert (alone.clip, alone.bound) == (2.0, parameters.scale)
    weights, buffers = parameters.segments(100, 20)
    assert (weights.start, weights.stop, buffers.start, buffers.stop) == (0, 100, 100, 120)
    assert (weights.clip, buffers.clip) == (2.0, 5.0)
    assert weights.bound**2 + buffers.bound**2 <= parameters.scale**2
