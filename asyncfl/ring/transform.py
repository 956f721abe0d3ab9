"""Negacyclic number-theoretic transform as two exact float64 matrix products.

Write a coefficient's index as i = C*a + b with a < 32, b < C = N/32, and a frequency's as k = r + 32*m with
r < 32, m < C. With psi a primitive 2N-th root of unity (so psi^N = -1),

    X_k = sum_i x_i psi^(i(2k+1)) = sum_b psi^(b(2k+1)) sum_a psi^(C*a*(2r+1)) x_(C*a+b)

because psi^(C*a*64*m) = psi^(2N*a*m) = 1. The inner sum is one 32 x 32 product for all columns and blocks,
the outer one a C x C product for every r; the twist by powers of psi and the twiddle factors sit inside the
matrices. Residues are centred, |x| <= q/2 + 2 < 2^22, so a sum of 32 products stays below 2^49 and float64
(53 bits) is exact, on any device.

Multiplying *many* public polynomials by *one* polynomial s folds the spectrum of s into the first matrix of
the inverse transform (`Multiplier`): a product then costs two matrix products and two reductions in all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

ROWS: Final = 32
"""First factor of N, and the number of coefficients of a packing lane."""
_CPU_BATCH: Final = 1 << 16
"""Coefficients of a batch on the CPU: 512 KiB of float64, so that a product's operands stay in the cache."""
_DEVICE_BATCH: Final = 1 << 22


def batch_blocks(degree: int, device: torch.device) -> int:
    """How many blocks to process at a time so that the working set stays in the cache."""
    return max(1, (_CPU_BATCH if device.type == "cpu" else _DEVICE_BATCH) // degree)


def centre_(values: Tensor, modulus: int, scratch: Tensor | None = None) -> Tensor:
    """Reduce integral float64 `values`, |x| < 2^53, in place to |x| <= q/2 + 2.

    The quotient is rounded from x * (1/q), whose error is far below one, so the residue is exact and at most
    a few units off the smallest one.
    """
    quotient = torch.mul(values, 1.0 / modulus, out=scratch)
    return values.sub_(quotient.round_(), alpha=modulus)


def residues_(values: Tensor, modulus: int, scratch: Tensor | None = None) -> Tensor:
    """Reduce integral float64 `values`, |x| < 2^49, in place to [0, q), exactly.

    The quotient is floor((x + 1/2) / q): the half keeps it 2^-24 away from the next integer, farther than the
    rounding errors of a quotient below 2^27 reach.
    """
    half = torch.full((), 0.5 / modulus, dtype=torch.float64, device=values.device)
    quotient = torch.add(half, values, alpha=1.0 / modulus, out=scratch)
    return values.sub_(quotient.floor_(), alpha=modulus)


def to_lanes(values: Tensor, degree: int) -> Tensor:
    """[B*N] or [B, N] in natural order -> a [32, B, N/32] view."""
    return values.reshape(-1, ROWS, degree // ROWS).permute(1, 0, 2)


def from_lanes(lanes: Tensor) -> Tensor:
    """[32, B, N/32] -> [B, N] in natural order."""
    return lanes.permute(1, 0, 2).reshape(lanes.shape[1], -1)


class Multiplier:
    """A polynomial s, prepared for multiplication with many public ones: one C x C matrix for each r."""

    __slots__ = ("matrices",)

    def __init__(self, matrices: Tensor) -> None:
        self.matrices = matrices

    def __repr__(self) -> str:
        return "Multiplier(redacted)"


class Transform:
    """The transform of one ring on one device. Build with `transform`, which caches."""

    def __init__(self, degree: int, modulus: int, device: torch.device) -> None:
        if degree % ROWS or (modulus - 1) % (2 * degree):
            raise ValueError(f"degree {degree} must be a multiple of {ROWS}, and 2N must divide q - 1")
        self.degree, self.modulus, self.device = degree, modulus, device
        self.columns = degree // ROWS
        root = _primitive_root(degree, modulus)
        order = 2 * degree
        rows = torch.arange(ROWS)
        columns = torch.arange(self.columns)
        frequency = 2 * (rows[:, None] + ROWS * columns[None, :]) + 1  # [r, m] -> 2k+1
        outer = self.columns * rows[:, None] * (2 * rows[None, :] + 1)  # [a, r]
        inner = columns[None, :, None] * frequency[:, None, :]  # [r, b, m]
        powers = _powers(root, order, modulus)
        scale = pow(degree, -1, modulus)
        self._forward_rows = self._constant(powers[outer % order].T)
        self._forward_columns = self._constant(powers[inner % order])
        self._inverse_columns = self._constant(powers[-inner % order].transpose(1, 2))
        self._inverse_rows = self._constant(powers[-outer % order] * scale % modulus)

    def _constant(self, residues: Tensor) -> Tensor:
        centred = torch.where(residues > self.modulus // 2, residues - self.modulus, residues)
        return centred.to(self.device, torch.float64).contiguous()

    def forward(self, lanes: Tensor) -> Tensor:
        """Spectra [32, B, C] (centred float64) of polynomials [32, B, C] (centred, float64).

        Entry [r, b, m] is block b's value at psi^(2(r + 32m) + 1).
        """
        rows = self._forward_rows @ lanes.reshape(ROWS, -1)
        centre_(rows, self.modulus)
        return centre_(torch.bmm(rows.view(lanes.shape), self._forward_columns), self.modulus)

    def inverse(self, spectra: Tensor) -> Tensor:
        """Polynomials [32, B, C] (centred float64) with these spectra."""
        columns = centre_(torch.bmm(spectra, self._inverse_columns), self.modulus)
        rows = self._inverse_rows @ columns.view(ROWS, -1)
        return centre_(rows, self.modulus).view(spectra.shape)

    def multiplier(self, polynomial: Tensor) -> Multiplier:
        """Prepare one polynomial [32, 1, C] (centred float64) for `multiply_add`."""
        spectrum = self.forward(polynomial).permute(0, 2, 1)  # [r, m, 1]
        return Multiplier(centre_(spectrum * self._inverse_columns, self.modulus))

    def workspace(self, blocks: int) -> Workspace:
        """Memory for `multiply_add` on up to `blocks` blocks at a time."""
        return Workspace(self, blocks)

    def multiply_add(
        self,
        spectra: Tensor,
        multiplier: Multiplier,
        addend: Tensor,
        workspace: Workspace,
        reduce: Callable[[Tensor, int, Tensor], Tensor] = centre_,
    ) -> Tensor:
        """`a_b * s + addend_b` for all b, [32, B, C] float64, reduced by `centre_` or `residues_`.

        `spectra` of all a_b [32, B, C] and `addend` (any strides) hold integers of any type, |addend| < 2^48.
        The result lies in the workspace and is valid until its next use.
        """
        result, columns, result_rows, column_rows = workspace.take(spectra.shape)
        result.copy_(spectra)
        torch.bmm(result, multiplier.matrices, out=columns)
        centre_(columns, self.modulus, result)
        result.copy_(addend)
        result_rows.addmm_(self._inverse_rows, column_rows)
        return reduce(result, self.modulus, columns)


class Workspace:
    """Two float64 buffers that stay in the cache from batch to batch: fresh memory costs like a product."""

    __slots__ = ("_buffers", "_views")

    def __init__(self, engine: Transform, blocks: int) -> None:
        self._buffers = torch.empty((2, blocks * engine.degree), dtype=torch.float64, device=engine.device)
        self._views: dict[torch.Size, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def take(self, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both buffers in this shape, and each again as a matrix of 32 rows."""
        if shape not in self._views:
            first, second = (buffer[: shape.numel()].view(shape) for buffer in self._buffers)
            self._views[shape] = first, second, first.view(ROWS, -1), second.view(ROWS, -1)
        return self._views[shape]


@lru_cache(maxsize=16)
def transform(degree: int, modulus: int, device: torch.device) -> Transform:
    """The cached transform of Z_q[X]/(X^N+1) on `device`."""
    return Transform(degree, modulus, device)


def _primitive_root(degree: int, modulus: int) -> int:
    """psi with psi^N = -1 mod q: g^((q-1)/2N) for the smallest g that gives one."""
    for generator in range(2, modulus):
        root = pow(generator, (modulus - 1) // (2 * degree), modulus)
        if pow(root, degree, modulus) == modulus - 1:
            return root
    raise ValueError(f"{modulus} has no primitive {2 * degree}-th root of unity")


def _powers(root: int, order: int, modulus: int) -> Tensor:
    power, powers = 1, []
    for _ in range(order):
        powers.append(power)
        power = power * root % modulus
    return torch.tensor(powers, dtype=torch.int64)
