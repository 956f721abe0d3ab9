"""A client that deals as it likes: an honest upload is made, taken apart, changed, proven and signed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncfl.client.jobs import TrainAndProtect, Trained
from asyncfl.digest import content_digest
from asyncfl.effects import Blobs
from asyncfl.masking.proof import (
    CPU,
    check_products,
    project,
    projection_matrix,
    projections_bytes,
)
from asyncfl.masking.protect import SALT_BYTES, share_digest, sign_manifest
from asyncfl.messages import Manifest
from asyncfl.parameters import CHECK_BLOCKS
from asyncfl.ring import centre_, from_lanes, pack, to_lanes, unpack
from asyncfl.ring.packing import packed_bytes, to_bytes


@dataclass(frozen=True)
class Dealing:
    """An honest upload, and what its dealer knows of it: `salted[j]` is replica j's salt and packed share."""

    job: TrainAndProtect
    manifest: Manifest
    payload: bytes
    salted: Sequence[bytes]

    @property
    def modulus(self) -> int:
        return self.job.federation.parameters.modulus

    @property
    def degree(self) -> int:
        return self.job.federation.parameters.ring.degree

    def share(self, index: int) -> Tensor:
        """Replica `index`'s share, int64 [N]."""
        return from_lanes(unpack(self.salted[index][SALT_BYTES:], self.degree, self.modulus, CPU))[0].to(
            torch.int64
        )

    def with_share(self, index: int, share: Tensor) -> list[bytes]:
        """All salted shares, that of replica `index` replaced by `share` (int64 [N])."""
        lanes = to_lanes((share % self.modulus)[None].contiguous().flatten(), self.degree).to(torch.int32)
        salted = list(self.salted)
        salted[index] = salted[index][:SALT_BYTES] + to_bytes(pack(lanes))
        return salted

    @cached_property
    def sharing(self) -> Tensor:
        """The sharing polynomials, centred float64 [n-2t, N], from the shares at the first n-2t points."""
        q, count = self.modulus, self.job.federation.parameters.threshold
        total = np.zeros((count, self.degree), dtype=np.int64)
        for index in range(count):
            basis, scale = [1], 1
            for other in range(count):
                if other != index:
                    basis = [
                        (low - (other + 1) * high) % q
                        for low, high in zip([0, *basis], [*basis, 0], strict=True)
                    ]
                    scale = scale * (index - other) % q
            factor = pow(scale, -1, q)
            row = self.share(index).numpy()
            for power, coefficient in enumerate(basis):
                total[power] = (total[power] + coefficient * factor % q * row) % q
        return centre_(torch.from_numpy(total).to(torch.float64), q)

    def blocks(self) -> Tensor:
        """The coefficients of y, int64 [blocks, N], check blocks last."""
        return from_lanes(unpack(self.payload, self.degree, self.modulus, CPU)).to(torch.int64)

    def pack(self, blocks: Tensor) -> bytes:
        """The payload of such coefficients."""
        return to_bytes(
            pack(to_lanes((blocks % self.modulus).flatten().contiguous(), self.degree).to(torch.int32))
        )

    def rebuild(
        self,
        *,
        payload: bytes | None = None,
        salted: Sequence[bytes] | None = None,
        projections: bytes | None = None,
        **core: Any,
    ) -> tuple[Manifest, bytes]:
        """The upload with other parts, committed to, proven as well as can be, and signed."""
        federation = self.job.federation
        payload = self.payload if payload is None else payload
        checks = payload[-packed_bytes(CHECK_BLOCKS, self.degree) :]
        changes: dict[str, Any] = {
            "upload": content_digest(payload), "check_digest": content_digest(checks), **core,
        }  # fmt: skip
        dealer = core.get("client", self.job.identity.public)
        if salted is None and dealer != self.job.identity.public:
            salted = self.salted  # Its commitments name the dealer.
        if salted is not None:
            boxes = zip(federation.replica_keys, salted, strict=True)
            changes["share_digests"] = tuple(share_digest(dealer, data) for data in salted)
            changes["boxes"] = tuple(self.job.seal_with(key, data) for key, data in boxes)
        built = self.manifest.core.model_copy(update=changes)
        if projections is None:
            shown = project(projection_matrix(built), check_products(self.sharing, federation), self.modulus)
            projections = projections_bytes(shown, self.modulus)
        return sign_manifest(built, projections, self.job.identity), payload

    def check_blocks(self) -> slice:
        """Where the check blocks are in `blocks()`."""
        return slice(-CHECK_BLOCKS, None)


Tampering = Callable[[Dealing], tuple[Manifest, bytes]]


@dataclass(frozen=True)
class Tampered:
    """`TrainAndProtect`, and then its upload is changed by `tampering`."""

    job: TrainAndProtect
    tampering: Tampering

    def run(self, blobs: Blobs) -> Trained:
        trained, dealing = deal(self.job, blobs)
        manifest, payload = self.tampering(dealing)
        blobs.write(payload)
        return replace(trained, manifest=manifest)


@dataclass(frozen=True)
class Doubled:
    """`TrainAndProtect` twice: the second upload goes to `spare`, under the first one's digest.

    It names the coordinator that is `elsewhere` further down the line.
    """

    job: TrainAndProtect
    spare: dict[bytes, Manifest]
    elsewhere: int = 0

    def run(self, blobs: Blobs) -> Trained:
        first, context = self.job.run(blobs), self.job.context
        other = (context.coordinator + self.elsewhere) % self.job.federation.parameters.replicas
        second = replace(self.job, context=replace(context, coordinator=other)).run(blobs)
        self.spare[first.manifest.digest()] = second.manifest
        return first


def deal(job: TrainAndProtect, blobs: Blobs) -> tuple[Trained, Dealing]:
    """Run the honest job, and look over its shoulder."""
    salted: list[bytes] = []

    def seal(key: bytes, data: bytes) -> bytes:
        salted.append(data)
        return job.seal_with(key, data)

    trained = replace(job, seal_with=seal).run(blobs)
    shares = salted[-job.federation.parameters.replicas :]
    payload = blobs.read(trained.manifest.core.upload)
    return trained, Dealing(job, trained.manifest, payload, shares)


def kernel_vector(rows: Tensor, modulus: int) -> Tensor:
    """A large vector v, int64 [k], with `rows` [m, k] (integers) times v = 0 mod q; m < k."""
    matrix = rows.numpy() % modulus
    width, pivots, rank = matrix.shape[1], [], 0
    for column in range(width):
        candidates = np.flatnonzero(matrix[rank:, column])
        if not len(candidates):
            continue
        place = rank + int(candidates[0])
        matrix[[rank, place]] = matrix[[place, rank]]
        matrix[rank] = matrix[rank] * pow(int(matrix[rank, column]), -1, modulus) % modulus
        for other in np.flatnonzero(matrix[:, column]):
            if other != rank:
                matrix[other] = (matrix[other] - matrix[other, column] * matrix[rank]) % modulus
        pivots.append(column)
        rank += 1
        if rank == len(matrix):
            break
    free = next(column for column in range(width - 1, -1, -1) if column not in pivots)
    vector = np.zeros(width, dtype=np.int64)
    vector[free] = modulus // 2
    for row, column in enumerate(pivots):
        vector[column] = -int(matrix[row, free]) * (modulus // 2) % modulus
    return torch.from_numpy(vector)
