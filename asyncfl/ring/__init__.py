"""Exact arithmetic in Z_q[X]/(X^N+1): transform, packing, public polynomials, secret randomness.

Tensors are held in *lane form*: `[32, B, N/32]`, where coefficient i of block b sits at
`[i // (N/32), b, i % (N/32)]`. It is the order in which the transform's matrix products and the packing
work on contiguous memory, for any number of blocks B.
"""

from asyncfl.ring.gaussian import Gaussian, Source
from asyncfl.ring.packing import pack, packed_bytes, unpack
from asyncfl.ring.public import public_polynomials
from asyncfl.ring.stream import SecretStream
from asyncfl.ring.transform import (
    Multiplier,
    Transform,
    Workspace,
    batch_blocks,
    centre_,
    from_lanes,
    residues_,
    to_lanes,
    transform,
)

__all__ = [
    "Gaussian",
    "Multiplier",
    "SecretStream",
    "Source",
    "Transform",
    "Workspace",
    "batch_blocks",
    "centre_",
    "from_lanes",
    "pack",
    "packed_bytes",
    "public_polynomials",
    "residues_",
    "to_lanes",
    "transform",
    "unpack",
]
