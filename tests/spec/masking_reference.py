"""Sharing, dealing proof and opening with loops over plain integers."""

from __future__ import annotations

from nacl.bindings import randombytes_buf_deterministic

from asyncfl.messages import ManifestCore
from tests.spec import ring_reference as ring

PROJECTIONS = 32


def interpolate(points: dict[int, int], modulus: int) -> list[int]:
    """Coefficients of the polynomial of degree < len(points) through the points."""
    size = len(points)
    result = [0] * size
    for x, y in points.items():
        basis, scale = [1], 1
        for other in points:
            if other != x:
                # basis *= (X - other)
                shifted = [0, *basis]
                basis = [a - other * b for a, b in zip(shifted, [*basis, 0], strict=True)]
                scale = scale * (x - other) % modulus
        factor = y * pow(scale, -1, modulus)
        result = [(total + factor * part) % modulus for total, part in zip(result, basis, strict=True)]
    return result


def sharing_polynomials(shares: dict[int, list[int]], modulus: int) -> list[list[int]]:
    """f_k, k = 0.. for ring elements: coefficient-wise interpolation of shares {point: N coefficients}."""
    degree = len(next(iter(shares.values())))
    columns = [
        interpolate({point: share[i] for point, share in shares.items()}, modulus) for i in range(degree)
    ]
    return [[column[k] for column in columns] for k in range(len(shares))]


def projection_rows(core: ManifestCore) -> list[list[int]]:
    size = core.check_blocks * core.degree
    rows = []
    for number in range(1, PROJECTIONS + 1):
        seed = ring.digest("asyncfl/1/projection", core.digest(), number.to_bytes(8, "little"))
        stream = randombytes_buf_deterministic(size, seed)
        rows.append([byte - 256 if byte > 127 else byte for byte in stream])
    return rows


def transposed_product(publics: list[list[int]], row: list[int], modulus: int) -> list[int]:
    """a_l = A_check^T rho_l, entry by entry: column i of A is X^i times each public polynomial."""
    degree = len(publics[0])
    entries = []
    for i in range(degree):
        total = 0
        for block, public in enumerate(publics):
            for j in range(degree):
                # coefficient j of public * X^i, negacyclic
                coefficient = public[j - i] if j >= i else -public[j - i + degree]
                total += coefficient * row[block * degree + j]
        entries.append(total % modulus)
    return entries


def inner(left: list[int], right: list[int]) -> int:
    return sum(first * second for first, second in zip(left, right, strict=True))


def projections(core: ManifestCore, sharing: list[list[int]]) -> bytes:
    """w_l as published, by way of a_l."""
    publics = check_polynomials(core)
    data = b""
    for row in projection_rows(core):
        combined = transposed_product(publics, row, core.modulus)
        for coefficient in sharing:
            data += (inner(combined, coefficient) % core.modulus).to_bytes(4, "little")
    return data


def check_polynomials(core: ManifestCore) -> list[list[int]]:
    return [
        ring.public_polynomial(core.deployment, "check", block, core.degree, core.modulus)
        for block in range(core.check_blocks)
    ]


def unmask(core: ManifestCore, payload: bytes, secret: list[int], block: int) -> list[int]:
    """Centred y_b - a_b*s of one block; blocks from `payload_blocks` on are check blocks."""
    coefficients = ring.unpack(payload, core.degree)[block * core.degree : (block + 1) * core.degree]
    kind, index = (
        ("payload", block) if block < core.payload_blocks else ("check", block - core.payload_blocks)
    )
    public = ring.public_polynomial(core.deployment, kind, index, core.degree, core.modulus)
    mask = ring.multiply(public, secret, core.modulus)
    return [ring.centred(y - m, core.modulus) for y, m in zip(coefficients, mask, strict=True)]
