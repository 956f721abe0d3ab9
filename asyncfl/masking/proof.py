"""The proof of honest dealing: what is projected, what is published, and the exact bound.

For l = 1..32, `rho_l` is a vector of K*N bytes read as integers in [-128, 128), the ChaCha20 stream of a
digest of the manifest's core and l. The client publishes w_l(X) = <rho_l, A_check f(X)> for its sharing
polynomial f, that is <a_l, f(X)> with a_l = A_check^T rho_l: transposing the sum is cheaper, since f has few
coefficients. Then

- replica j checks <rho_l, A_check share_j> = w_l(j): its share lies on the committed polynomial, up to what
  32 random projections miss;
- anyone checks |<rho_l, y_check> - w_l(0)| = |<rho_l, e_check>| against six standard deviations.

Only 32 combinations of check-block *errors* are shown, nothing of the payload.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asyncfl.digest import digest, keystream
from asyncfl.errors import InvalidItem
from asyncfl.federation import Federation
from asyncfl.messages import ManifestCore
from asyncfl.parameters import CHECK_BLOCKS, ERROR_SIGMA, PROJECTIONS, Preset
from asyncfl.ring import centre_, from_lanes, public_polynomials, residues_, to_lanes, transform

CPU: Final = torch.device("cpu")
_BOUND: Final = int(36 * ERROR_SIGMA**2)
"""(6 * 4.5)^2 = 729: a projection x of the errors passes when x^2 <= 729 |rho|^2."""


def projection_matrix(core: ManifestCore) -> Tensor:
    """The rows rho_l, [32, K*N] float64, integral in [-128, 128)."""
    size = core.check_blocks * core.degree
    values = np.frombuffer(_projection_bytes(core.digest(), size), dtype=np.int8).astype(np.float64)
    return torch.from_numpy(values).view(PROJECTIONS, size)


@lru_cache(maxsize=16)
def _projection_bytes(core: bytes, size: int) -> bytes:
    """The rows rho_l of the core with this digest, 32 * `size` bytes. Cached: both parts of a check need them."""
    return b"".join(
        keystream(digest("asyncfl/1/projection", core, number.to_bytes(8, "little")), size)
        for number in range(1, PROJECTIONS + 1)
    )


@lru_cache(maxsize=8)
def check_spectra(deployment: bytes, ring: Preset) -> Tensor:
    """Spectra of the check polynomials, [32, K, N/32] float64. Cached."""
    batches = public_polynomials(deployment, "check", CHECK_BLOCKS, ring, CPU)
    return torch.cat([batch.to(torch.float64) for batch in batches], dim=1)


def check_products(elements: Tensor, federation: Federation) -> Tensor:
    """`A_check s` for each row s of `elements` [m, N] (centred float64): [m, K*N], centred, natural order."""
    ring = federation.parameters.ring
    engine = transform(ring.degree, ring.modulus, CPU)
    public = check_spectra(federation.digest, ring)
    spectra = engine.forward(to_lanes(elements, ring.degree).contiguous())
    # [32, m, K, C]: every element times every check polynomial.
    products = centre_(spectra[:, :, None] * public[:, None], ring.modulus).flatten(1, 2)
    return from_lanes(engine.inverse(products)).view(len(elements), -1)


def project(rho: Tensor, vectors: Tensor, modulus: int) -> Tensor:
    """<rho_l, v> for every row v of `vectors` [m, K*N] (|v| < 2^23): [32, m], centred float64.

    |rho| <= 2^7 and K*N = 2^12 terms keep every sum below 2^42: exact.
    """
    return centre_(rho @ vectors.T, modulus)


def projections_bytes(values: Tensor, modulus: int) -> bytes:
    """w_l as published: [32, n-2t] residues in [0, q), little-endian uint32."""
    return residues_(values.clone(), modulus).numpy().astype("<u4").tobytes()


def read_projections(data: bytes, threshold: int, modulus: int) -> npt.NDArray[np.int64]:
    """[32, n-2t] residues. Raises `InvalidItem` for a wrong length or a value >= q."""
    if len(data) != 4 * PROJECTIONS * threshold:
        raise InvalidItem(f"projections of {len(data)} bytes instead of {4 * PROJECTIONS * threshold}")
    values = np.frombuffer(data, dtype="<u4").astype(np.int64).reshape(PROJECTIONS, threshold)
    if int(values.max()) >= modulus:
        raise InvalidItem("a projection is not below the modulus")
    return values


def error_within_bound(rho: Tensor, check_upload: Tensor, at_zero: Tensor, modulus: int) -> bool:
    """Whether all 32 projections of the check-block error pass, exactly.

    `check_upload` [K*N] are the check blocks of y, `at_zero` [32] the published w_l(0), both float64.
    """
    shown = project(rho, check_upload[None], modulus)[:, 0] - at_zero
    errors = centre_(shown, modulus).to(torch.int64)
    norms = (rho * rho).sum(1).to(torch.int64)
    return bool((errors * errors <= _BOUND * norms).all())
