"""Federations, uploads and a dishonest dealer for the masking tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from asyncfl import masking
from asyncfl.digest import content_digest
from asyncfl.federation import Federation
from asyncfl.identity import Identity, seal
from asyncfl.masking.proof import check_products, project, projection_matrix, projections_bytes
from asyncfl.masking.protect import share_digest, sign_manifest
from asyncfl.masking.sharing import evaluate
from asyncfl.messages import Manifest, ManifestCore
from asyncfl.parameters import CHECK_BLOCKS, Parameters
from asyncfl.ring import (
    Gaussian,
    SecretStream,
    centre_,
    pack,
    public_polynomials,
    residues_,
    to_lanes,
    transform,
)
from asyncfl.ring.packing import packed_bytes, to_bytes
from asyncfl.schedule import Schedule

CONTEXT = masking.UploadContext(
    epoch=3, cell=1, coordinator=0, roster=1, roster_digest=b"r" * 32, base_version=b"v" * 32
)
CPU = torch.device("cpu")


def replica_identities(count: int) -> list[Identity]:
    return [Identity(bytes([index + 1]) * 32) for index in range(count)]


def client_identity(number: int) -> Identity:
    return Identity(bytes([number + 100]) * 32)


def make_federation(
    weights: int,
    buffers: int = 0,
    *,
    replicas: int = 4,
    byzantine: int = 1,
    clients: int = 16,
    **options: object,
) -> Federation:
    options = {"preset": "tiny", **options}
    parameters = Parameters.for_clients(clients, replicas=replicas, byzantine=byzantine, **options)
    return Federation(
        digest=b"d" * 32,
        parameters=parameters,
        operator=bytes(32),
        replica_keys=tuple(identity.public for identity in replica_identities(replicas)),
        rosters=(),
        weights=weights,
        buffers=buffers,
        initial_model=b"m" * 32,
        schedule=Schedule(learning_rate=0.1, local_steps=1, batch_size=1),
    )


def random_update(federation: Federation, seed: int) -> Tensor:
    dimension = federation.dimension
    return torch.randn(dimension, generator=torch.Generator().manual_seed(seed)) / dimension**0.5


def protect_members(federation: Federation, members: int) -> list[masking.Protected]:
    return [
        masking.protect(random_update(federation, number), CONTEXT, client_identity(number), federation)
        for number in range(members)
    ]


def loads(uploads: Sequence[masking.Protected]) -> list[Callable[[], bytes]]:
    return [partial(_payload, upload) for upload in uploads]


def _payload(upload: masking.Protected) -> bytes:
    return upload.payload


def share_sums(federation: Federation, uploads: Sequence[masking.Protected]) -> dict[int, bytes]:
    """Every replica's honest answer."""
    return {
        index: masking.sum_packed(
            [masking.open_share(upload.manifest, index, identity, federation) for upload in uploads],
            federation,
        )
        for index, identity in enumerate(replica_identities(federation.parameters.replicas))
    }


@dataclass
class Dealer:
    """A client that deals as it likes: errors, shares and salts are in its hands, and it signs the result."""

    federation: Federation
    identity: Identity = field(default_factory=lambda: client_identity(0))
    seed: bytes = bytes(32)

    def __post_init__(self) -> None:
        parameters, ring = self.federation.parameters, self.federation.parameters.ring
        self.stream = SecretStream(self.seed)
        drawn = torch.from_numpy(self.stream.uniform(parameters.threshold * ring.degree, ring.modulus))
        self.sharing = centre_(drawn.to(torch.float64), ring.modulus).view(parameters.threshold, ring.degree)
        self.images = check_products(self.sharing, self.federation)
        self.check_error = Gaussian.of(4.5).sample(self.stream, self.images.shape[1]).to(torch.float64)
        self.shares = evaluate(self.sharing, range(1, parameters.replicas + 1), ring.modulus)

    def _packed(self, values: Tensor) -> bytes:
        ring = self.federation.parameters.ring
        lanes = to_lanes(residues_(values.clone(), ring.modulus), ring.degree)
        return to_bytes(pack(lanes.to(torch.int32)))

    def payload(self, image: Tensor | None = None) -> bytes:
        """y for an integer image (zeros by default), without error on the payload blocks."""
        parameters, ring = self.federation.parameters, self.federation.parameters.ring
        blocks = parameters.blocks(self.federation.dimension)
        engine = transform(ring.degree, ring.modulus, CPU)
        batches = public_polynomials(self.federation.digest, "payload", blocks, ring, CPU)
        public = torch.cat(batches, dim=1)
        addend = torch.zeros(blocks * ring.degree, dtype=torch.float64)
        if image is not None:
            addend[: len(image)] = image
        multiplier = engine.multiplier(to_lanes(self.sharing[0], ring.degree))
        masked = engine.multiply_add(
            public, multiplier, to_lanes(addend, ring.degree), engine.workspace(blocks), residues_
        )
        return to_bytes(pack(masked.to(torch.int32))) + self._packed(self.images[0] + self.check_error)

    def core(self, payload: bytes) -> ManifestCore:
        """A core over these bytes and the dealer's shares, with fresh salts."""
        parameters, ring = self.federation.parameters, self.federation.parameters.ring
        salted = [bytes(self.stream.take(16)) + self._packed(share[None]) for share in self.shares]
        boxes = (seal(key, data) for key, data in zip(self.federation.replica_keys, salted, strict=True))
        return ManifestCore(
            deployment=self.federation.digest,
            degree=ring.degree,
            modulus=ring.modulus,
            replicas=parameters.replicas,
            byzantine=parameters.byzantine,
            check_blocks=CHECK_BLOCKS,
            payload_blocks=parameters.blocks(self.federation.dimension),
            client=self.identity.public,
            upload=content_digest(payload),
            check_digest=content_digest(payload[-packed_bytes(CHECK_BLOCKS, ring.degree) :]),
            share_digests=tuple(share_digest(self.identity.public, data) for data in salted),
            boxes=tuple(boxes),
            **{name: getattr(CONTEXT, name) for name in CONTEXT.__dataclass_fields__},
        )

    def projections(self, core: ManifestCore) -> bytes:
        modulus = self.federation.parameters.modulus
        return projections_bytes(project(projection_matrix(core), self.images, modulus), modulus)

    def upload(self, image: Tensor | None = None) -> masking.Protected:
        payload = self.payload(image)
        core = self.core(payload)
        return masking.Protected(sign_manifest(core, self.projections(core), self.identity), payload)


def resigned(manifest: Manifest, identity: Identity, **changes: object) -> Manifest:
    """The manifest with other core fields, signed again by its own client."""
    core = ManifestCore.model_validate({**dict(manifest.core), **changes})
    return sign_manifest(core, manifest.projections, identity)
