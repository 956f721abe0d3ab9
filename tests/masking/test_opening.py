"""Opening a group gives the plain integer sum plus the members' noise, for every size of everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl import masking
from asyncfl.errors import InvalidItem, OpeningError
from asyncfl.federation import Federation
from tests.masking.builders import (
    CONTEXT,
    client_identity,
    loads,
    make_federation,
    protect_members,
    random_update,
    replica_identities,
    share_sums,
)

REPLICAS = [(4, 1), (7, 2), (7, 1), (10, 3), (1, 0)]


def assert_opens_to_the_sum(federation: Federation, members: int) -> None:
    uploads = protect_members(federation, members)
    answers = share_sums(federation, uploads)
    secret = masking.find_secret(loads(uploads), answers, federation)
    assert masking.find_wrong(answers, federation) == (tuple(range(federation.parameters.replicas)), ())
    opened = masking.open_sum((upload.payload for upload in uploads), secret, federation)
    assert opened.dtype == torch.int32
    assert opened.shape == (federation.dimension,)
    plain = sum(
        masking.quantise(random_update(federation, number), federation.segments, federation.dimension)
        for number in range(members)
    )
    noise = (opened - plain).double()
    sigma = federation.parameters.payload_sigma * members**0.5
    assert float(noise.abs().max()) < 8 * sigma
    if federation.dimension > 500:
        assert abs(float(noise.std()) / sigma - 1) < 5 / (2 * federation.dimension) ** 0.5
        assert abs(float(noise.mean())) < 5 * sigma / federation.dimension**0.5


@pytest.mark.parametrize("dimension", [1, 1023, 1024, 1025])
@pytest.mark.parametrize(("replicas", "byzantine"), REPLICAS)
def test_opening_is_the_sum_plus_noise(dimension: int, replicas: int, byzantine: int) -> None:
    federation = make_federation(dimension, replicas=replicas, byzantine=byzantine, preset="standard")
    assert_opens_to_the_sum(federation, members=3)


@pytest.mark.parametrize(("replicas", "byzantine"), [(4, 1), (7, 2)])
def test_opening_a_million_coordinates(replicas: int, byzantine: int) -> None:
    federation = make_federation(1_000_000, replicas=replicas, byzantine=byzantine, preset="standard")
    assert_opens_to_the_sum(federation, members=2)


@pytest.mark.parametrize("members", [1, 2, 8, 63])
def test_opening_any_number_of_members(members: int) -> None:
    assert_opens_to_the_sum(make_federation(300, clients=256, cell_size=32, max_group=63), members)


@given(st.integers(1, 400), st.integers(0, 200), st.integers(1, 5), st.sampled_from(REPLICAS))
@settings(max_examples=15, deadline=None)
def test_opening_random_sizes(weights: int, buffers: int, members: int, replicas: tuple[int, int]) -> None:
    n, t = replicas
    assert_opens_to_the_sum(make_federation(weights, buffers, replicas=n, byzantine=t), members)


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 4.0])
def test_private_noise_has_the_calibrated_size(multiplier: float) -> None:
    federation = make_federation(20_000, noise_multiplier=multiplier, allow_small_private_groups=True)
    assert federation.parameters.payload_sigma > 1000
    assert_opens_to_the_sum(federation, members=3)


def test_the_largest_sums_do_not_wrap() -> None:
    """Every member puts its whole norm on one coordinate: the sum is members * L and noise."""
    federation = make_federation(64, clients=256, cell_size=32, max_group=63)
    update = torch.zeros(64)
    update[5], members = 1e9, 63
    uploads = [
        masking.protect(update, CONTEXT, client_identity(number), federation) for number in range(members)
    ]
    secret = masking.find_secret(loads(uploads), share_sums(federation, uploads), federation)
    opened = masking.open_sum((upload.payload for upload in uploads), secret, federation)
    assert abs(int(opened[5]) - members * federation.parameters.scale) < 8 * 4.5 * members**0.5


def test_a_subset_of_the_members_does_not_open_with_the_groups_secret() -> None:
    federation = make_federation(100)
    uploads = protect_members(federation, 3)
    secret = masking.find_secret(loads(uploads), share_sums(federation, uploads), federation)
    with pytest.raises(InvalidItem, match="does not open"):
        masking.open_sum((upload.payload for upload in uploads[:2]), secret, federation)


def test_opening_refuses_malformed_input() -> None:
    federation = make_federation(100)
    uploads = protect_members(federation, 2)
    secret = masking.find_secret(loads(uploads), share_sums(federation, uploads), federation)
    payload = uploads[0].payload
    with pytest.raises(InvalidItem, match="upload of"):
        masking.open_sum([payload[:-1]], secret, federation)
    with pytest.raises(InvalidItem, match="not below the modulus"):
        masking.open_sum([b"\xff" * len(payload)], secret, federation)
    with pytest.raises(InvalidItem, match="ring element"):
        masking.open_sum([payload], secret[:-1], federation)
    with pytest.raises(InvalidItem, match="does not open"):
        masking.open_sum([], secret, federation)


def test_shares_below_the_threshold_do_not_open() -> None:
    federation = make_federation(100, replicas=7, byzantine=1)  # needs 5
    uploads = protect_members(federation, 2)
    answers = share_sums(federation, uploads)
    few = {index: answers[index] for index in (0, 2, 3, 6)}
    with pytest.raises(OpeningError, match="5 are needed"):
        masking.find_secret(loads(uploads), few, federation)
    exactly = few | {1: answers[1]}
    assert masking.find_secret(loads(uploads), exactly, federation) == masking.find_secret(
        loads(uploads), answers, federation
    )


def test_sums_of_shares_refuse_malformed_elements() -> None:
    federation = make_federation(10)
    with pytest.raises(InvalidItem, match="ring element"):
        masking.sum_packed([bytes(183)], federation)
    with pytest.raises(InvalidItem, match="not below"):
        masking.sum_packed([b"\xff" * 184], federation)


def test_opened_sums_have_one_encoding() -> None:
    values = torch.tensor([0, 1, -1, 4_000_000, -4_000_000], dtype=torch.int32)
    data = masking.encode_sum(values)
    assert data == b"".join(value.to_bytes(4, "little", signed=True) for value in values.tolist())
    assert torch.equal(masking.decode_sum(data, 5), values)
    with pytest.raises(InvalidItem, match="opened sum"):
        masking.decode_sum(data, 4)


def test_the_same_secret_never_masks_twice() -> None:
    """Even the same update of the same client in the same context."""
    federation = make_federation(10)
    one, two = (masking.protect(torch.zeros(10), CONTEXT, client_identity(0), federation) for _ in range(2))
    shares = [masking.open_share(one.manifest, 0, replica_identities(4)[0], federation) for one in (one, two)]
    assert shares[0] != shares[1]
    assert one.payload != two.payload
