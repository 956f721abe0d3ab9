"""What replicas check about an upload before they vouch for it."""

from __future__ import annotations

import torch

from asyncfl.digest import content_digest
from asyncfl.errors import DealingError, InvalidItem
from asyncfl.federation import Federation
from asyncfl.identity import Identity, verify
from asyncfl.masking.proof import (
    CPU,
    check_products,
    error_within_bound,
    project,
    projection_matrix,
    read_projections,
)
from asyncfl.masking.protect import SALT_BYTES, box_bytes, share_digest
from asyncfl.messages import Manifest
from asyncfl.parameters import CHECK_BLOCKS
from asyncfl.ring import centre_, from_lanes, packed_bytes, unpack

_SCAN_BLOCKS = 512


def check_manifest(manifest: Manifest, federation: Federation) -> None:
    """That the core fits the deployment and the client signed the whole. Cheap: touches no payload.

    Roster, cell and epoch are the caller's to judge. Raises `InvalidItem` that names the field.
    """
    core, parameters, ring = manifest.core, federation.parameters, federation.parameters.ring
    expected = {
        "deployment": federation.digest,
        "degree": ring.degree,
        "modulus": ring.modulus,
        "replicas": parameters.replicas,
        "byzantine": parameters.byzantine,
        "check_blocks": CHECK_BLOCKS,
        "payload_blocks": parameters.blocks(federation.dimension),
    }
    for name, value in expected.items():
        if getattr(core, name) != value:
            raise InvalidItem(f"manifest: {name} does not match the deployment")
    if core.coordinator >= parameters.replicas:
        raise InvalidItem(f"manifest: there is no replica {core.coordinator}")
    if len(core.share_digests) != parameters.replicas or len(core.boxes) != parameters.replicas:
        raise InvalidItem(
            f"manifest: not one share digest and one box for each of {parameters.replicas} replicas"
        )
    if any(len(box) != box_bytes(ring.degree) for box in core.boxes):
        raise InvalidItem(f"manifest: a box does not have {box_bytes(ring.degree)} bytes")
    read_projections(manifest.projections, parameters.threshold, ring.modulus)
    if not verify(core.client, Manifest.KIND, federation.digest, manifest.body(), manifest.signature):
        raise InvalidItem("manifest: the client's signature does not verify")


@torch.inference_mode()
def verify_public(manifest: Manifest, payload: bytes, federation: Federation) -> None:
    """The public part of the dealing proof, over all of y.

    The payload and its check blocks have the right length and the digests of the core, all coefficients are below
    q, and all 32 projections of the check-block error are within the exact bound. Raises `InvalidItem`;
    `DealingError` with the check blocks where the client's signature commits it to a false proof.
    """
    core, parameters, ring = manifest.core, federation.parameters, federation.parameters.ring
    if len(payload) != parameters.upload_bytes(federation.dimension):
        raise InvalidItem(
            f"upload of {len(payload)} bytes instead of {parameters.upload_bytes(federation.dimension)}"
        )
    if content_digest(payload) != core.upload:
        raise InvalidItem("upload: its digest is not the manifest's")
    view, check = memoryview(payload), packed_bytes(CHECK_BLOCKS, ring.degree)
    step = packed_bytes(_SCAN_BLOCKS, ring.degree)
    for start in range(0, len(view) - check, step):
        unpack(view[start : min(start + step, len(view) - check)], ring.degree, ring.modulus, CPU)
    verify_check_blocks(manifest, payload[-check:], federation)


@torch.inference_mode()
def verify_check_blocks(manifest: Manifest, checks: bytes, federation: Federation) -> None:
    """The part of the public proof that needs the packed check blocks `checks` alone, and a checked manifest.

    Raises `InvalidItem` when they are not those of the core, `DealingError` when they are and the proof is false.
    """
    core, parameters, ring = manifest.core, federation.parameters, federation.parameters.ring
    if content_digest(checks) != core.check_digest:
        raise InvalidItem("upload: the digest of its check blocks is not the manifest's")
    try:
        if len(checks) != packed_bytes(CHECK_BLOCKS, ring.degree):
            raise InvalidItem(f"{len(checks)} bytes of check blocks")
        blocks = from_lanes(unpack(checks, ring.degree, ring.modulus, CPU)).flatten().to(torch.float64)
        published = torch.from_numpy(
            read_projections(manifest.projections, parameters.threshold, ring.modulus)
        )
        at_zero = published[:, 0].to(torch.float64)
        if not error_within_bound(projection_matrix(core), blocks, at_zero, ring.modulus):
            raise InvalidItem("the dealing proof shows errors beyond six standard deviations")
    except InvalidItem as error:
        raise DealingError(f"upload: {error}", checks) from None


@torch.inference_mode()
def open_share(manifest: Manifest, index: int, identity: Identity, federation: Federation) -> bytes:
    """Replica `index`'s share of the secret (packed), decrypted and checked against commitment and proof.

    Raises as `verify_share`, and when the box does not open.
    """
    return verify_share(manifest, index, identity.unseal(manifest.core.boxes[index]), federation)


@torch.inference_mode()
def verify_share(manifest: Manifest, index: int, salted: bytes, federation: Federation) -> bytes:
    """The packed share in what replica `index` was dealt, checked against commitment and proof.

    Raises `InvalidItem` when it is not what the manifest commits to, `DealingError` when it is and is no share: then
    the dealer knew what it committed to, and nothing is lost by showing it.
    """
    core = manifest.core
    if share_digest(core.client, salted) != core.share_digests[index]:
        raise InvalidItem(f"share of replica {index}: not what the manifest commits to")
    try:
        _check_share(manifest, index, salted, federation)
    except InvalidItem as error:
        raise DealingError(f"share of replica {index}: {error}", salted) from None
    return salted[SALT_BYTES:]


def _check_share(manifest: Manifest, index: int, salted: bytes, federation: Federation) -> None:
    core, ring = manifest.core, federation.parameters.ring
    if len(salted) != SALT_BYTES + packed_bytes(1, ring.degree):
        raise InvalidItem(f"{len(salted)} bytes instead of a salt and a packed ring element")
    share = from_lanes(unpack(salted[SALT_BYTES:], ring.degree, ring.modulus, CPU)).to(torch.float64)
    images = check_products(centre_(share, ring.modulus), federation)
    shown = project(projection_matrix(core), images, ring.modulus)[:, 0]
    published = read_projections(manifest.projections, federation.parameters.threshold, ring.modulus)
    expected = sum(
        published[:, power] * pow(index + 1, power, ring.modulus) % ring.modulus
        for power in range(federation.parameters.threshold)
    )
    difference = shown.to(torch.int64) - torch.from_numpy(expected)
    if bool((difference % ring.modulus).any()):
        raise InvalidItem("it does not lie on the published polynomials")
