"""The dealing proof: honest uploads pass, and the attacks that broke earlier drafts stay dead."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from asyncfl import masking
from asyncfl.digest import content_digest
from asyncfl.errors import InvalidItem, OpeningError
from asyncfl.masking.proof import (
    check_products,
    error_within_bound,
    project,
    projection_matrix,
    projections_bytes,
    read_projections,
)
from asyncfl.masking.protect import share_digest, sign_manifest
from asyncfl.messages import Manifest, ManifestCore
from asyncfl.parameters import CHECK_BLOCKS
from asyncfl.ring import centre_, from_lanes, unpack
from asyncfl.ring.packing import packed_bytes
from tests.masking.builders import (
    CPU,
    Dealer,
    client_identity,
    loads,
    make_federation,
    protect_members,
    replica_identities,
    resigned,
    share_sums,
)

Q = 8380417
protect_module = sys.modules["asyncfl.masking.protect"]  # the package's name `protect` is the function
FEDERATION = make_federation(100)
CLIENT = client_identity(0)
(HONEST,) = protect_members(FEDERATION, 1)
REPLICAS = replica_identities(4)


def check_all(upload: masking.Protected) -> None:
    masking.check_manifest(upload.manifest, FEDERATION)
    masking.verify_public(upload.manifest, upload.payload, FEDERATION)
    for index, identity in enumerate(REPLICAS):
        masking.open_share(upload.manifest, index, identity, FEDERATION)


def altered(core: ManifestCore, name: str) -> object:
    """Another valid value of a core field."""
    value = getattr(core, name)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    return (value[0][:-1] + bytes([value[0][-1] ^ 1]), *value[1:])


def resigned_for(payload: bytes) -> Manifest:
    """The honest manifest, with the digests of another payload."""
    checks = payload[-packed_bytes(CHECK_BLOCKS, 64) :]
    return resigned(
        HONEST.manifest, CLIENT, upload=content_digest(payload), check_digest=content_digest(checks)
    )


def test_honest_uploads_pass() -> None:
    check_all(HONEST)
    check_all(Dealer(FEDERATION).upload())


@pytest.mark.parametrize("name", ManifestCore.model_fields)
def test_every_core_field_changes_every_projection(name: str) -> None:
    core = HONEST.manifest.core
    if name in ("degree", "check_blocks"):  # lengths of rho as well
        other = ManifestCore.model_validate({**dict(core), name: getattr(core, name) * 2})
        assert projection_matrix(other).shape != projection_matrix(core).shape
        assert other.digest() != core.digest()
        return
    other = ManifestCore.model_validate({**dict(core), name: altered(core, name)})
    rows = zip(projection_matrix(core), projection_matrix(other), strict=True)
    assert all(not torch.equal(mine, theirs) for mine, theirs in rows)


@pytest.mark.parametrize("name", ManifestCore.model_fields)
def test_a_changed_core_field_breaks_the_signature(name: str) -> None:
    manifest = HONEST.manifest
    core = manifest.core.model_copy(update={name: altered(manifest.core, name)})
    with pytest.raises(InvalidItem):
        masking.check_manifest(manifest.model_copy(update={"core": core}), FEDERATION)


@pytest.mark.parametrize("name", ManifestCore.model_fields)
def test_a_changed_core_field_breaks_the_proof_although_the_client_signs_again(name: str) -> None:
    core = HONEST.manifest.core
    changes: dict[str, object] = {name: altered(core, name)}
    identity = CLIENT
    if name == "client":
        identity = client_identity(5)
        changes = {"client": identity.public}
    manifest = resigned(HONEST.manifest, identity, **changes)
    with pytest.raises(InvalidItem):
        check_all(masking.Protected(manifest, HONEST.payload))


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("name", ["share_digests", "boxes"])
def test_every_share_digest_and_box_is_bound(name: str, index: int) -> None:
    values = list(getattr(HONEST.manifest.core, name))
    values[index] = values[index][:-1] + bytes([values[index][-1] ^ 1])
    manifest = resigned(HONEST.manifest, CLIENT, **{name: tuple(values)})
    masking.check_manifest(manifest, FEDERATION)
    with pytest.raises(InvalidItem, match="six standard deviations"):
        masking.verify_public(manifest, HONEST.payload, FEDERATION)
    with pytest.raises(InvalidItem, match=f"share of replica {(index + 1) % 4}"):
        masking.open_share(manifest, (index + 1) % 4, REPLICAS[(index + 1) % 4], FEDERATION)


@pytest.mark.parametrize("position", [0, 40, -1])
def test_every_byte_of_y_is_bound(position: int) -> None:
    payload = bytearray(HONEST.payload)
    payload[position] ^= 1
    with pytest.raises(InvalidItem, match="digest"):
        masking.verify_public(HONEST.manifest, bytes(payload), FEDERATION)
    manifest = resigned_for(bytes(payload))
    with pytest.raises(InvalidItem):
        masking.verify_public(manifest, bytes(payload), FEDERATION)


@pytest.mark.parametrize("size", [0, -1, 1])
def test_an_upload_of_another_length_is_refused(size: int) -> None:
    payload = HONEST.payload + b"\0" if size > 0 else HONEST.payload[:size]
    with pytest.raises(InvalidItem, match="bytes instead of"):
        masking.verify_public(HONEST.manifest, payload, FEDERATION)


def test_a_coefficient_from_q_on_anywhere_in_y_is_refused() -> None:
    for start in (0, 184, len(HONEST.payload) - 184):
        payload = HONEST.payload[:start] + b"\xff" * 184 + HONEST.payload[start + 184 :]
        manifest = resigned_for(payload)
        with pytest.raises(InvalidItem, match="not below the modulus"):
            masking.verify_public(manifest, payload, FEDERATION)


@pytest.mark.parametrize("row", [0, 31])
@pytest.mark.parametrize("coefficient", [0, 1])
def test_every_published_projection_is_checked_by_every_replica(row: int, coefficient: int) -> None:
    values = read_projections(HONEST.manifest.projections, 2, Q).copy()
    values[row, coefficient] = (values[row, coefficient] + 1) % Q
    manifest = sign_manifest(HONEST.manifest.core, values.astype("<u4").tobytes(), CLIENT)
    masking.check_manifest(manifest, FEDERATION)
    for index, identity in enumerate(REPLICAS):
        with pytest.raises(InvalidItem, match="published polynomials"):
            masking.open_share(manifest, index, identity, FEDERATION)


def test_malformed_manifests_are_refused() -> None:
    manifest, core = HONEST.manifest, HONEST.manifest.core

    def refused(bad: Manifest, reason: str) -> None:
        with pytest.raises(InvalidItem, match=reason):
            masking.check_manifest(bad, FEDERATION)

    refused(resigned(manifest, CLIENT, coordinator=4), "no replica 4")
    refused(resigned(manifest, CLIENT, boxes=core.boxes[:3]), "one box for each")
    refused(resigned(manifest, CLIENT, share_digests=(*core.share_digests, bytes(32))), "one share digest")
    refused(resigned(manifest, CLIENT, boxes=(core.boxes[0][:-1], *core.boxes[1:])), "a box does not have")
    refused(sign_manifest(core, manifest.projections[:-4], CLIENT), "projections of")
    too_large = np.full((32, 2), Q, dtype="<u4").tobytes()
    refused(sign_manifest(core, too_large, CLIENT), "not below the modulus")
    refused(manifest.model_copy(update={"signature": bytes(64)}), "signature")
    refused(sign_manifest(core, manifest.projections, client_identity(9)), "signature")


def test_a_misdealt_share_is_detected_by_its_replica_and_only_there() -> None:
    dealer = Dealer(FEDERATION)
    dealer.shares[2, 17] += 1
    upload = dealer.upload()
    masking.check_manifest(upload.manifest, FEDERATION)
    masking.verify_public(upload.manifest, upload.payload, FEDERATION)
    for index in (0, 1, 3):
        masking.open_share(upload.manifest, index, REPLICAS[index], FEDERATION)
    with pytest.raises(InvalidItem, match="published polynomials"):
        masking.open_share(upload.manifest, 2, REPLICAS[2], FEDERATION)


def test_a_box_for_another_replica_or_with_another_share_is_detected() -> None:
    boxes, upload = HONEST.manifest.core.boxes, Dealer(FEDERATION).upload()
    swapped = resigned(upload.manifest, CLIENT, boxes=(boxes[1], boxes[0], *boxes[2:]))
    with pytest.raises(InvalidItem, match="does not open"):
        masking.open_share(swapped, 0, REPLICAS[0], FEDERATION)
    with pytest.raises(InvalidItem, match="commits to"):
        masking.open_share(swapped, 2, REPLICAS[2], FEDERATION)


def test_a_secret_of_another_upload_in_y_is_detected() -> None:
    """y masked under one secret, shares of another: the group would never open."""
    one, two = Dealer(FEDERATION), Dealer(FEDERATION, seed=b"x" * 32)
    payload = one.payload()
    core = two.core(payload)
    manifest = sign_manifest(core, two.projections(core), CLIENT)
    with pytest.raises(InvalidItem, match="six standard deviations"):
        masking.verify_public(manifest, payload, FEDERATION)


# --- a spike in the check-block error ------------------------------------------------------------------


def ground_spike(projections: int) -> tuple[Dealer, bytes, ManifestCore]:
    """Half of q as error at one place: even entries of rho wrap it to almost nothing, so salts are tried
    until the first `projections` rows have an even entry there.
    """
    dealer = Dealer(FEDERATION)
    place = 77
    dealer.check_error[place] += (Q - 1) // 2
    payload = dealer.payload()
    for _ in range(1 << (projections + 4)):
        core = dealer.core(payload)
        if not (projection_matrix(core)[:projections, place] % 2).any():
            return dealer, payload, core
    raise AssertionError("no salts found")


def within_bound(core: ManifestCore, dealer: Dealer, payload: bytes, projections: int) -> bool:
    rho = projection_matrix(core)[:projections]
    y = from_lanes(unpack(payload[-4 * 184 :], 64, Q, CPU)).flatten().to(torch.float64)
    return error_within_bound(rho, y, project(rho, dealer.images, Q)[:, 0], Q)


def test_a_ground_out_spike_passes_a_weak_proof_but_not_the_whole() -> None:
    dealer, payload, core = ground_spike(projections=8)
    assert within_bound(core, dealer, payload, projections=8)
    manifest = sign_manifest(core, dealer.projections(core), CLIENT)
    masking.check_manifest(manifest, FEDERATION)
    with pytest.raises(InvalidItem, match="six standard deviations"):
        masking.verify_public(manifest, payload, FEDERATION)


def test_the_ground_out_spike_would_have_broken_the_opening() -> None:
    """So the test above is about an attack that matters."""
    dealer, payload, core = ground_spike(projections=2)
    spiked = masking.Protected(sign_manifest(core, dealer.projections(core), CLIENT), payload)
    group = [spiked, *protect_members(FEDERATION, 2)]
    with pytest.raises(OpeningError):
        masking.find_secret(loads(group), share_sums(FEDERATION, group), FEDERATION)


def test_the_largest_spike_that_passes_cannot_break_the_opening() -> None:
    """Pushed up to the bound itself, an error stays far below what an opening accepts."""
    dealer = Dealer(FEDERATION)
    honest, largest = dealer.check_error.clone(), None
    for height in range(0, 1 << 14, 64):
        dealer.check_error = honest.clone()
        dealer.check_error[5] += height
        upload = dealer.upload()
        try:
            masking.verify_public(upload.manifest, upload.payload, FEDERATION)
        except InvalidItem:
            continue
        largest = upload, height
    assert largest is not None
    upload, height = largest
    assert height >= 64
    assert height < 16384 // 4
    group = [upload, *protect_members(FEDERATION, 2)]
    answers = share_sums(FEDERATION, group)
    secret = masking.find_secret(loads(group), answers, FEDERATION)
    assert masking.find_wrong(answers, FEDERATION) == ((0, 1, 2, 3), ())
    masking.open_sum((one.payload for one in group), secret, FEDERATION)


def test_the_bound_is_exact() -> None:
    """x^2 <= 729 |rho|^2 in integers: equality passes, one more does not."""
    rho = torch.zeros(1, 256, dtype=torch.float64)
    rho[0, :4] = 2.0  # |rho|^2 = 16: the bound is 27 * 4 = 108
    for shown, passes in [(108, True), (-108, True), (110, False), (-110, False)]:
        y = torch.zeros(256, dtype=torch.float64)
        y[0] = shown // 2
        assert error_within_bound(rho, y, torch.zeros(1, dtype=torch.float64), Q) is passes
        # the same modulo q
        assert error_within_bound(rho, y, torch.tensor([float(Q - shown % Q + shown)]), Q) is passes
    at_zero = torch.tensor([109.0], dtype=torch.float64)
    assert not error_within_bound(rho, torch.zeros(256, dtype=torch.float64), at_zero, Q)


def test_an_honest_dealer_whose_error_exceeds_the_bound_deals_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in ten million uploads: a new secret and new noise, never a second projection of the old ones."""
    verdicts, uploads = iter([False, True]), []

    def verdict(rho: torch.Tensor, y: torch.Tensor, at_zero: torch.Tensor, modulus: int) -> bool:
        uploads.append(y)
        return next(verdicts)

    with monkeypatch.context() as patch:
        patch.setattr(protect_module, "error_within_bound", verdict)
        upload = protect_members(FEDERATION, 1)[0]
    assert len(uploads) == 2
    assert not torch.equal(*uploads)
    check_all(upload)


def test_projections_are_computed_as_published() -> None:
    dealer = Dealer(FEDERATION)
    upload = dealer.upload()
    rho = projection_matrix(upload.manifest.core)
    assert projections_bytes(project(rho, dealer.images, Q), Q) == upload.manifest.projections
    share = masking.open_share(upload.manifest, 1, REPLICAS[1], FEDERATION)
    values = from_lanes(unpack(share, 64, Q, CPU)).to(torch.float64)
    images = check_products(centre_(values, Q), FEDERATION)
    published = torch.from_numpy(read_projections(upload.manifest.projections, 2, Q))
    expected = (published[:, 0] + 2 * published[:, 1]) % Q
    assert torch.equal(project(rho, images, Q)[:, 0].to(torch.int64) % Q, expected)


def test_share_digests_separate_dealer_salt_and_share() -> None:
    salted, dealer, other = bytes(range(200)), bytes(32), bytes([1]) * 32
    assert share_digest(dealer, salted) != share_digest(dealer, salted[1:] + salted[:1])
    assert share_digest(dealer, salted) != share_digest(other, salted)
    assert share_digest(dealer, salted) == share_digest(dealer, bytes(salted))
