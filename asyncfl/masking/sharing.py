"""Shamir sharing of ring elements, coefficient by coefficient, over Z_q; replica j holds the point j + 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asyncfl.ring import centre_


def evaluate(polynomials: Tensor, points: Sequence[int], modulus: int) -> Tensor:
    """Values [len(points), N] (centred float64) of the sharing polynomials [degree+1, N] (centred float64).

    `polynomials[0]` is the secret; at most 2^9 coefficients keep the float64 product exact.
    """
    powers = [[pow(point, exponent, modulus) for exponent in range(len(polynomials))] for point in points]
    matrix = centre_(torch.tensor(powers, dtype=torch.float64), modulus)
    return centre_(matrix @ polynomials, modulus)


def lagrange_weights(points: Sequence[int], at: int, modulus: int) -> list[int]:
    """Residues c_i with f(at) = sum c_i f(points[i]) for every polynomial of degree < len(points)."""
    weights = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * (at - other) % modulus
                denominator = denominator * (point - other) % modulus
        weights.append(numerator * pow(denominator, -1, modulus) % modulus)
    return weights
