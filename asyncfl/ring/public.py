"""The public polynomials a_b of a deployment, uniform, expanded directly in the transform domain.

The seed of block b is `digest("asyncfl/1/public-<kind>", deployment digest, N, q, b)`; its ChaCha20 stream is
read as 32-bit words, and the low 23 bits of each that are below q are, in order, the values [r, m] of
`Transform.forward` row by row. A uniform polynomial has a uniform spectrum, so no transform is needed. Check
and payload blocks have separate domains and every block its own seed: another model size changes no
polynomial.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asyncfl.digest import digest, keystream
from asyncfl.parameters import Preset
from asyncfl.ring.stream import accepted_residues
from asyncfl.ring.transform import ROWS, batch_blocks

Kind = Literal["check", "payload"]


@lru_cache(maxsize=8)
def public_polynomials(
    deployment: bytes, kind: Kind, blocks: int, ring: Preset, device: torch.device
) -> tuple[Tensor, ...]:
    """Spectra of a_0 .. a_(blocks-1), cut into cache-sized batches [32, B, C] (int32, centred). Cached."""
    size = batch_blocks(ring.degree, device)
    return tuple(
        _batch(deployment, kind, range(first, min(first + size, blocks)), ring).to(device)
        for first in range(0, blocks, size)
    )


def _batch(deployment: bytes, kind: Kind, indices: range, ring: Preset) -> Tensor:
    values = np.empty((len(indices), ring.degree), dtype=np.int32)
    for row, index in enumerate(indices):
        values[row] = _spectrum(deployment, kind, index, ring)
    values -= np.where(values > ring.modulus // 2, np.int32(ring.modulus), np.int32(0))
    lanes = torch.from_numpy(values).view(-1, ROWS, ring.degree // ROWS).permute(1, 0, 2)
    return lanes.contiguous()


def _spectrum(deployment: bytes, kind: Kind, index: int, ring: Preset) -> npt.NDArray[np.int32]:
    numbers = (ring.degree, ring.modulus, index)
    seed = digest(
        f"asyncfl/1/public-{kind}", deployment, *(number.to_bytes(8, "little") for number in numbers)
    )
    size = 4 * (ring.degree + ring.degree // 16)
    values = accepted_residues(keystream(seed, size), ring.modulus)
    while len(values) < ring.degree:
        size *= 2
        values = accepted_residues(keystream(seed, size), ring.modulus)
    return values[: ring.degree]
