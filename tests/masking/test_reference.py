"""The fast upload agrees with the slow reference: packing, masks, shares, projections, sums."""

from __future__ import annotations

import pytest
import torch

from asyncfl import masking
from asyncfl.digest import content_digest
from asyncfl.masking.sharing import lagrange_weights
from asyncfl.ring import SecretStream
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
from tests.spec import masking_reference, ring_reference

Q = 8380417


def dealt_shares(manifest: masking.Protected) -> dict[int, list[int]]:
    """Every replica's share, unsealed and unpacked the slow way, after its digest was checked."""
    core = manifest.manifest.core
    shares = {}
    for index, identity in enumerate(replica_identities(core.replicas)):
        salted = identity.unseal(core.boxes[index])
        digest = ring_reference.digest("asyncfl/1/share", core.client, salted[:16], salted[16:])
        assert digest == core.share_digests[index]
        shares[index + 1] = ring_reference.unpack(salted[16:], core.degree)
    return shares


@pytest.mark.parametrize(
    ("replicas", "byzantine", "weights"), [(4, 1, 150), (7, 2, 64), (7, 1, 1), (1, 0, 70)]
)
def test_an_upload_is_what_the_reference_says(replicas: int, byzantine: int, weights: int) -> None:
    federation = make_federation(weights, replicas=replicas, byzantine=byzantine)
    upload = protect_members(federation, 1)[0]
    core = upload.manifest.core
    assert core.upload == content_digest(upload.payload)

    polynomials = masking_reference.sharing_polynomials(dealt_shares(upload), Q)
    threshold = federation.parameters.threshold
    assert all(not any(polynomial) for polynomial in polynomials[threshold:])  # degree n-2t-1
    assert masking_reference.projections(core, polynomials[:threshold]) == upload.manifest.projections

    image = masking.quantise(random_update(federation, 0), federation.segments, core.payload_blocks * 64)
    for block in range(core.payload_blocks):
        opened = masking_reference.unmask(core, upload.payload, polynomials[0], block)
        plain = image[64 * block : 64 * block + 64].to(torch.int64).tolist()
        assert all(abs(got - want) <= 48 for got, want in zip(opened, plain, strict=True))
    for block in range(core.payload_blocks, core.payload_blocks + 4):
        errors = masking_reference.unmask(core, upload.payload, polynomials[0], block)
        assert max(map(abs, errors)) <= 48
        assert any(errors)


def test_a_standard_upload_at_spot_checked_blocks_is_what_the_reference_says() -> None:
    federation = make_federation(66_000, preset="standard")  # 65 blocks: one batch of 64 and a rest
    upload = protect_members(federation, 1)[0]
    core = upload.manifest.core
    secret = masking_reference.sharing_polynomials(dealt_shares(upload), Q)[0]
    image = masking.quantise(random_update(federation, 0), federation.segments, core.payload_blocks * 1024)
    for block in (0, 64, 65):
        opened = masking_reference.unmask(core, upload.payload, secret, block)
        plain = image[1024 * block : 1024 * block + 1024].to(torch.int64).tolist() or [0] * 1024
        assert all(abs(got - want) <= 48 for got, want in zip(opened, plain, strict=True))


def test_openings_are_what_the_reference_says() -> None:
    federation = make_federation(100, replicas=7, byzantine=2)
    uploads = protect_members(federation, 3)
    answers = share_sums(federation, uploads)
    points = {index + 1: ring_reference.unpack(answer, 64) for index, answer in answers.items()}
    expected = masking_reference.sharing_polynomials({point: points[point] for point in (2, 4, 7)}, Q)[0]
    secret = masking.find_secret(loads(uploads), answers, federation)
    assert ring_reference.unpack(secret, 64) == expected

    opened = masking.open_sum((upload.payload for upload in uploads), secret, federation)
    total = [0] * len(ring_reference.unpack(uploads[0].payload, 64))
    for upload in uploads:
        total = [a + b for a, b in zip(total, ring_reference.unpack(upload.payload, 64), strict=True)]
    payload = ring_reference.pack([value % Q for value in total], 64)
    slow = [
        value
        for block in range(2)
        for value in masking_reference.unmask(uploads[0].manifest.core, payload, expected, block)
    ]
    assert opened.tolist() == slow[:100]


@pytest.mark.parametrize("at", [0, 5, Q - 3])
def test_lagrange_weights_interpolate_like_the_reference(at: int) -> None:
    points = {1: 17, 3: 8380400, 4: 5, 16: 0}
    coefficients = masking_reference.interpolate(points, Q)
    assert all(ring_reference.value_at(coefficients, x, Q) == y for x, y in points.items())
    weights = lagrange_weights(list(points), at, Q)
    value = sum(weight * y for weight, y in zip(weights, points.values(), strict=True)) % Q
    assert value == ring_reference.value_at(coefficients, at, Q)


def test_a_seeded_stream_gives_the_same_upload_but_for_the_boxes() -> None:
    """Sealed boxes have ephemeral keys of their own; everything else follows from the stream."""
    federation = make_federation(200)
    one, two = (
        masking.protect(
            random_update(federation, 1),
            CONTEXT,
            client_identity(0),
            federation,
            stream=SecretStream(b"s" * 32),
        )
        for _ in range(2)
    )
    assert one.payload == two.payload
    assert one.manifest.core.share_digests == two.manifest.core.share_digests


def test_without_a_seed_nothing_comes_from_torchs_generator() -> None:
    federation = make_federation(200)
    payloads = set()
    for _ in range(2):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        payloads.add(masking.protect(torch.zeros(200), CONTEXT, client_identity(0), federation).payload)
        assert torch.equal(state, torch.get_rng_state())
    assert len(payloads) == 2


def test_timings_cover_every_stage_when_a_clock_is_given() -> None:
    federation, ticks = make_federation(200), iter(range(1000))
    timed = masking.protect(
        torch.zeros(200), CONTEXT, client_identity(0), federation, clock=lambda: float(next(ticks))
    )
    stages = ["quantise", "noise", "mask", "share", "prove", "seal", "pack", "total"]
    assert list(timed.timings) == stages
    assert all(value > 0 for value in timed.timings.values())
    assert timed.timings["total"] == sum(timed.timings[stage] for stage in stages[:-1])
    assert masking.protect(torch.zeros(200), CONTEXT, client_identity(0), federation).timings == {}
