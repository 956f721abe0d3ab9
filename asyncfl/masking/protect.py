"""A client's upload: quantise, mask, add noise, pack, share the secret, prove, sign.

One pass over cache-sized batches of blocks takes a batch from noise to packed words. Check blocks and shares
are small and stay on the CPU; the payload's arithmetic runs on the chosen device. Noise is drawn on the CPU,
where the stream cipher runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from asyncfl.digest import content_digest, digest
from asyncfl.federation import Federation
from asyncfl.identity import Identity, seal
from asyncfl.masking.proof import (
    check_products,
    error_within_bound,
    project,
    projection_matrix,
    projections_bytes,
)
from asyncfl.masking.quantise import quantise
from asyncfl.masking.sharing import evaluate
from asyncfl.messages import Manifest, ManifestCore
from asyncfl.parameters import CHECK_BLOCKS, ERROR_SIGMA
from asyncfl.ring import (
    Gaussian,
    SecretStream,
    Source,
    centre_,
    pack,
    public_polynomials,
    residues_,
    to_lanes,
    transform,
)
from asyncfl.ring.packing import BITS, packed_bytes, to_bytes
from asyncfl.ring.transform import ROWS

SALT_BYTES: Final = 16
_STRIPE: Final = 8
"""Batches that are packed together: packing has many short operations."""
_DRAWN: Final = 2
"""Batches whose noise is drawn together."""
STAGES: Final = ("quantise", "noise", "mask", "share", "prove", "seal", "pack")


@dataclass(frozen=True, slots=True)
class UploadContext:
    """What the manifest says about the upload besides its content."""

    epoch: int
    cell: int
    coordinator: int
    roster: int
    roster_digest: bytes
    base_version: bytes


@dataclass(frozen=True, slots=True)
class Protected:
    """An upload ready to send. `timings`: milliseconds by stage and in `total`, empty without a clock."""

    manifest: Manifest
    payload: bytes
    timings: dict[str, float] = field(default_factory=dict, compare=False)


class _Stages:
    """Adds up the time between marks, by stage. Without a clock it does nothing."""

    def __init__(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._last = clock() if clock else 0.0

    def mark(self, stage: str) -> None:
        if self._clock:
            now = self._clock()
            self._spent[stage] += now - self._last
            self._last = now

    def milliseconds(self) -> dict[str, float]:
        if not self._clock:
            return {}
        return {stage: 1e3 * spent for stage, spent in self._spent.items()} | {
            "total": 1e3 * sum(self._spent.values())
        }


@torch.inference_mode()
def protect(
    update: Tensor,
    context: UploadContext,
    identity: Identity,
    federation: Federation,
    *,
    device: str | torch.device = "cpu",
    stream: SecretStream | None = None,
    seal_with: Callable[[bytes, bytes], bytes] = seal,
    clock: Callable[[], float] | None = None,
) -> Protected:
    """Mask a flat float32 `update` [upload dimension] under a fresh secret, shared among the replicas.

    `stream` and `seal_with` are for tests and simulations; by default the operating system's randomness is behind
    both. `clock` (seconds) switches timings
    on. Raises `UpdateError` for an update of the wrong length or with NaN or infinite coordinates.
    """
    stages = _Stages(clock)
    device, stream = torch.device(device), stream or SecretStream()
    parameters = federation.parameters
    blocks = parameters.blocks(federation.dimension)
    image = quantise(update.to(device), federation.segments, blocks * parameters.ring.degree)
    stages.mark("quantise")
    while True:
        # An honest dealer's error exceeds the proof's six sigma once in ten million uploads: then nothing has
        # left this function, and all is drawn afresh.
        protected = _attempt(
            image,
            blocks,
            context,
            identity,
            federation,
            device=device,
            stream=stream,
            seal_with=seal_with,
            stages=stages,
        )
        if protected is not None:
            return protected


def _attempt(
    image: Tensor,
    blocks: int,
    context: UploadContext,
    identity: Identity,
    federation: Federation,
    *,
    device: torch.device,
    stream: SecretStream,
    seal_with: Callable[[bytes, bytes], bytes],
    stages: _Stages,
) -> Protected | None:
    parameters, ring = federation.parameters, federation.parameters.ring
    degree, modulus = ring.degree, ring.modulus

    drawn = torch.from_numpy(stream.uniform(parameters.threshold * degree, modulus))
    sharing = centre_(drawn.to(torch.float64), modulus).view(parameters.threshold, degree)
    stages.mark("share")
    words = torch.empty((blocks + CHECK_BLOCKS, BITS, degree // ROWS), dtype=torch.int32, device=device)
    _mask_payload(words[:blocks], image, sharing[0], federation, device=device, stream=stream, stages=stages)
    check_upload, check_images = _mask_check_blocks(sharing, federation, stream)
    stages.mark("prove")
    words[blocks:] = pack(to_lanes(check_upload, degree).to(torch.int32))
    payload = to_bytes(words)
    upload, checks = content_digest(payload), content_digest(payload[-packed_bytes(CHECK_BLOCKS, degree) :])
    stages.mark("pack")

    salted = _shares(sharing, federation, stream)
    share_digests = tuple(share_digest(identity.public, data) for data in salted)
    stages.mark("share")
    boxes = tuple(seal_with(key, share) for key, share in zip(federation.replica_keys, salted, strict=True))
    stages.mark("seal")

    core = ManifestCore(
        deployment=federation.digest,
        degree=degree,
        modulus=modulus,
        replicas=parameters.replicas,
        byzantine=parameters.byzantine,
        check_blocks=CHECK_BLOCKS,
        payload_blocks=blocks,
        client=identity.public,
        epoch=context.epoch,
        cell=context.cell,
        coordinator=context.coordinator,
        roster=context.roster,
        roster_digest=context.roster_digest,
        base_version=context.base_version,
        upload=upload,
        check_digest=checks,
        share_digests=share_digests,
        boxes=boxes,
    )
    rho = projection_matrix(core)
    shown = project(rho, check_images, modulus)
    if not error_within_bound(rho, check_upload, shown[:, 0], modulus):
        return None
    manifest = sign_manifest(core, projections_bytes(shown, modulus), identity)
    stages.mark("prove")
    return Protected(manifest, payload, stages.milliseconds())


def _mask_payload(
    words: Tensor,
    image: Tensor,
    secret: Tensor,
    federation: Federation,
    *,
    device: torch.device,
    stream: SecretStream,
    stages: _Stages,
) -> None:
    """Write y = a*s + e + x, packed, to `words` [B, 23, C]."""
    ring, blocks = federation.parameters.ring, len(words)
    engine = transform(ring.degree, ring.modulus, device)
    public = public_polynomials(federation.digest, "payload", blocks, ring, device)
    multiplier = engine.multiplier(to_lanes(secret.to(device), ring.degree))
    size = public[0].shape[1]
    workspace = engine.workspace(size)
    stripe = torch.empty((ROWS, size * _STRIPE, engine.columns), dtype=torch.int32, device=device)
    drawn = size * _DRAWN * ring.degree
    noise = Source(Gaussian.of(federation.parameters.payload_sigma), stream, drawn)
    stages.mark("mask")
    for number, spectra in enumerate(public):
        first, place = number * size, number % _STRIPE * size
        last, end = first + spectra.shape[1], place + spectra.shape[1]
        if number % _DRAWN == 0:
            plain = image[first * ring.degree :][:drawn]
            noisy = to_lanes(noise.draw(len(plain)).to(device).add_(plain), ring.degree)
            stages.mark("noise")
        start = number % _DRAWN * size
        addend = noisy[:, start : start + spectra.shape[1]]
        masked = engine.multiply_add(spectra, multiplier, addend, workspace, reduce=residues_)
        stripe[:, place:end].copy_(masked)
        stages.mark("mask")
        if end == stripe.shape[1] or last == blocks:
            pack(stripe[:, :end], out=words[last - end : last])
            stages.mark("pack")


def _mask_check_blocks(
    sharing: Tensor, federation: Federation, stream: SecretStream
) -> tuple[Tensor, Tensor]:
    """The check blocks of y as residues [K*N], and A_check f_k [n-2t, K*N] for all f_k of the sharing."""
    images = check_products(sharing, federation)
    errors = Gaussian.of(ERROR_SIGMA).sample(stream, images.shape[1])
    return residues_(images[0] + errors, federation.parameters.modulus), images


def _shares(sharing: Tensor, federation: Federation, stream: SecretStream) -> list[bytes]:
    """For every replica its salt and packed share."""
    ring, replicas = federation.parameters.ring, federation.parameters.replicas
    values = residues_(evaluate(sharing, range(1, replicas + 1), ring.modulus), ring.modulus)
    packed = pack(to_lanes(values, ring.degree).to(torch.int32))
    return [bytes(stream.take(SALT_BYTES)) + to_bytes(share) for share in packed]


def share_digest(client: bytes, salted: bytes) -> bytes:
    """h_j: the commitment of `client` to a share, over its salt and packed coefficients.

    It names the dealer: nobody can commit to a share of somebody else's that it does not know. So a replica may show
    a share that opens its commitment and is none, and can never be made to show an honest client's.
    """
    return digest("asyncfl/1/share", client, salted[:SALT_BYTES], salted[SALT_BYTES:])


def sign_manifest(core: ManifestCore, projections: bytes, identity: Identity) -> Manifest:
    """The manifest of `core` and its projections under the client's signature."""
    unsigned = Manifest(core=core, projections=projections, signature=bytes(64))
    signature = identity.sign(Manifest.KIND, core.deployment, unsigned.body())
    return unsigned.model_copy(update={"signature": signature})


def box_bytes(degree: int) -> int:
    """Length of a sealed share: sealed-box overhead (48), salt, packed coefficients."""
    return 48 + SALT_BYTES + packed_bytes(1, degree)
