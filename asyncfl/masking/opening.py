"""From share sums to the opened sum of a group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
import torch
from torch import Tensor

from asyncfl.errors import InvalidItem, OpeningError
from asyncfl.federation import Federation
from asyncfl.masking.agreement import read_answers, read_element
from asyncfl.masking.proof import CPU, check_products
from asyncfl.masking.sharing import lagrange_weights
from asyncfl.parameters import CHECK_BLOCKS, OPENING_BOUND
from asyncfl.ring import (
    centre_,
    from_lanes,
    pack,
    packed_bytes,
    public_polynomials,
    residues_,
    to_lanes,
    transform,
    unpack,
)
from asyncfl.ring.packing import to_bytes
from asyncfl.ring.transform import ROWS

_PROBE: Final = 64
"""Coordinates that are looked at first: a wrong combination passes them with probability at most 4^-64."""
_STRIPE: Final = 8
"""Batches of blocks that are unpacked together: unpacking has many short operations."""
_BATCH: Final = 512
"""Combinations that are probed by one matrix product."""


def sum_packed(shares: Sequence[bytes], federation: Federation) -> bytes:
    """Coefficient-wise sum mod q of packed ring elements, packed. Raises `InvalidItem` for a bad one."""
    ring = federation.parameters.ring
    total = torch.zeros((ROWS, 1, ring.degree // ROWS), dtype=torch.int64)
    for share in shares:
        total += read_element(share, federation)
    return to_bytes(pack((total % ring.modulus).to(torch.int32)))


def _pack_element(centred: Tensor, federation: Federation) -> bytes:
    ring = federation.parameters.ring
    residues = residues_(centred.clone(), ring.modulus)
    return to_bytes(pack(to_lanes(residues, ring.degree).to(torch.int32)))


def find_secret(
    payloads: Iterable[Callable[[], bytes]],
    answers: Mapping[int, bytes],
    federation: Federation,
    *,
    distrusted: Collection[int] = (),
) -> bytes:
    """The sum of the members' secrets, packed.

    `payloads` give the members' packed y one at a time; only check blocks are kept. `answers[j]` is replica
    j's packed share sum; malformed ones are passed over, those of `distrusted` replicas tried last. Every subset of
    n-2t answers is interpolated at 0 until one brings the check blocks within 16384 per member and coordinate: one
    ring product per answer, then linear combinations, so that at most C(n, n-2t) <= 8008 cheap ones are tried.
    Raises `OpeningError` when no subset opens.
    """
    parameters, ring = federation.parameters, federation.parameters.ring
    residue, members = _check_sum(payloads, federation)
    elements = read_answers(answers, federation)
    if len(elements) < parameters.threshold:
        raise OpeningError(
            f"{len(elements)} well-formed share sums, {parameters.threshold} are needed to open the group"
        )
    indices = sorted(elements, key=lambda index: (index in distrusted, index))
    shares = torch.stack([elements[index] for index in indices])
    images = check_products(shares, federation)
    for positions, weights in _opening_subsets(residue, images, indices, members * OPENING_BOUND, federation):
        return _pack_element(centre_(weights @ shares[list(positions)], ring.modulus), federation)
    raise OpeningError(
        f"no {parameters.threshold} of the {len(indices)} share sums open the group: too many of them are wrong; "
        "more answers are needed"
    )


def _check_sum(payloads: Iterable[Callable[[], bytes]], federation: Federation) -> tuple[Tensor, int]:
    """Sum of the members' check blocks, [K*N] centred float64, and the number of members."""
    ring = federation.parameters.ring
    size = packed_bytes(CHECK_BLOCKS, ring.degree)
    total = torch.zeros(CHECK_BLOCKS * ring.degree, dtype=torch.float64)
    members = 0
    for load in payloads:
        blocks = unpack(memoryview(load())[-size:], ring.degree, ring.modulus, CPU)
        total += from_lanes(blocks).flatten()
        members += 1
    return centre_(total, ring.modulus), members


def _opening_subsets(
    residue: Tensor, images: Tensor, indices: Sequence[int], bound: int, federation: Federation
) -> Iterable[tuple[tuple[int, ...], Tensor]]:
    """Subsets (as positions) of n-2t answers that open the check blocks, and their weights at 0 (float64)."""
    modulus, threshold = federation.parameters.modulus, federation.parameters.threshold
    subsets = list(combinations(range(len(indices)), threshold))
    for first in range(0, len(subsets), _BATCH):
        batch = subsets[first : first + _BATCH]
        matrix = torch.zeros((len(batch), len(indices)), dtype=torch.float64)
        for row, positions in enumerate(batch):
            points = [indices[position] + 1 for position in positions]
            weights = torch.tensor(lagrange_weights(points, 0, modulus), dtype=torch.float64)
            matrix[row, list(positions)] = weights
        centre_(matrix, modulus)
        probed = centre_(residue[:_PROBE] - matrix @ images[:, :_PROBE], modulus)
        for row in (probed.abs().amax(1) <= bound).nonzero().flatten().tolist():
            opened = centre_(residue - matrix[row] @ images, modulus)
            if float(opened.abs().max()) <= bound:
                positions = batch[row]
                yield positions, matrix[row, list(positions)]


def open_sum(
    payloads: Iterable[bytes], secret: bytes, federation: Federation, *, device: str | torch.device = "cpu"
) -> Tensor:
    """The opened sum of the members' integer updates and noise: int32 [upload dimension] on the CPU.

    `secret` is the packed sum of their secrets. Payloads are added one at a time: memory O(d). Raises
    `InvalidItem` when a payload or the secret is malformed, or the check blocks do not come out within 16384
    per member and coordinate.
    """
    device = torch.device(device)
    parameters, ring = federation.parameters, federation.parameters.ring
    blocks = parameters.blocks(federation.dimension)
    engine = transform(ring.degree, ring.modulus, device)
    public = public_polynomials(federation.digest, "payload", blocks, ring, device)
    element = centre_(read_element(secret, federation).to(torch.float64), ring.modulus)

    size = public[0].shape[1]
    stripe = size * _STRIPE
    sums = [
        torch.zeros((ROWS, min(stripe, blocks - first), engine.columns), dtype=torch.int32, device=device)
        for first in range(0, blocks, stripe)
    ]
    check = torch.zeros(CHECK_BLOCKS * ring.degree, dtype=torch.float64)
    members = 0
    for payload in payloads:
        if len(payload) != parameters.upload_bytes(federation.dimension):
            raise InvalidItem(
                f"upload of {len(payload)} bytes instead of {parameters.upload_bytes(federation.dimension)}"
            )
        view, offset = memoryview(payload), 0
        for total in sums:
            end = offset + packed_bytes(total.shape[1], ring.degree)
            total.add_(unpack(view[offset:end], ring.degree, ring.modulus, device))
            offset = end
        check += from_lanes(unpack(view[offset:], ring.degree, ring.modulus, CPU)).flatten()
        members += 1

    opened = centre_(check - check_products(from_lanes(element), federation)[0], ring.modulus)
    if not members or float(opened.abs().max()) > members * OPENING_BOUND:
        raise InvalidItem("the secret does not open the group: its check blocks are out of bounds")
    multiplier = engine.multiplier(-element.to(device))
    workspace = engine.workspace(size)
    result = torch.empty(blocks * ring.degree, dtype=torch.int32, device=device)
    lanes = to_lanes(result, ring.degree)
    for number, spectra in enumerate(public):
        first, place = number * size, number % _STRIPE * size
        total = sums[number // _STRIPE][:, place : place + size]
        lanes[:, first : first + size] = engine.multiply_add(spectra, multiplier, total, workspace)
    return result[: federation.upload_dimension].cpu()


def encode_sum(total: Tensor) -> bytes:
    """Canonical bytes of an opened sum: little-endian int32."""
    return total.to(torch.int32).cpu().numpy().astype("<i4", copy=False).tobytes()


def decode_sum(data: bytes, dimension: int) -> Tensor:
    """The int32 [d] sum of canonical bytes. Raises `InvalidItem` for a wrong length."""
    if len(data) != 4 * dimension:
        raise InvalidItem(f"an opened sum of {len(data)} bytes instead of {4 * dimension}")
    return torch.from_numpy(np.frombuffer(data, dtype="<i4").astype(np.int32))
