#!/usr/bin/env python
"""The cost of the best known attack on a mask: core-SVP of the primal lattice attack on LWE.

A mask is `a s + e` with `s` uniform mod q and `e` of standard deviation sigma: LWE of dimension N, in as many samples
as there are coordinates. The primal attack embeds `m` samples in a lattice of dimension `d = N + m + 1` and volume
`q^m`, in which `(s', e, 1)` is unusually short (a uniform secret is first exchanged for N of the errors). BKZ with
blocks of size b finds it once `sigma sqrt(b) <= delta(b)^(2b - d - 1) q^(m/d)` (Alkim, Ducas, Poeppelmann, Schwabe:
Post-quantum key exchange, USENIX Security 2016, section 6.3). Core-SVP counts one call of the sieve in dimension b:
0.292 b bits (Becker, Ducas, Gama, Laarhoven, SODA 2016), 0.257 b on a quantum computer (Chailloux, Loyer, ASIACRYPT
2021).

What is revealed counts as hints: the sum with one other honest member of a group is a hint on `e` with another error
of width sigma, which leaves LWE of width sigma' with `1/sigma'^2 = 2 (1/sigma^2 + 1/sigma^2)` (hint-LWE: Kim, Lee,
Seo, Song, CRYPTO 2023, theorem 1, with the hint e + e'); the 32 projections of the dealing proof are counted as if each
gave a coordinate of the secret away.

    scripts/security_estimate.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from math import e, log, pi
from pathlib import Path

if __name__ == "__main__":  # Run as a file, not as a module: the checkout is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asyncfl.parameters import ERROR_SIGMA, PROJECTIONS, STANDARD

SMALLEST_BLOCK = 60
"""Below it the formula for delta(b) does not hold."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`bits` are classical, `quantum_bits` those of the best known quantum sieve."""

    what: str
    dimension: int
    modulus: int
    sigma: float
    block: int
    samples: int
    bits: float
    quantum_bits: float


def root_hermite(block: int) -> float:
    """log of delta(b), by the Gaussian heuristic (Chen, 2013)."""
    return (log(pi * block) / block + log(block / (2 * pi * e))) / (2 * (block - 1))


def estimate(what: str, dimension: int, modulus: int, sigma: float, samples: int | None = None) -> Estimate:
    """The smallest block that finds the secret, over all numbers of samples up to `samples` (default: any)."""
    most = samples or 4 * dimension
    for block in range(SMALLEST_BLOCK, 4 * dimension):
        delta = root_hermite(block)
        for used in range(dimension // 8, most + 1, 4):
            d = dimension + used + 1
            long_enough = (2 * block - d - 1) * delta + used / d * log(modulus)
            if log(sigma) + log(block) / 2 <= long_enough:
                return Estimate(
                    what,
                    dimension,
                    modulus,
                    sigma,
                    block,
                    used,
                    round(0.292 * block, 1),
                    round(0.257 * block, 1),
                )
    raise ValueError(f"{what}: no block size up to {4 * dimension} finds the secret")


def estimates() -> list[Estimate]:
    """What the threat model states, for the preset `standard`."""
    ring, sigma = STANDARD, ERROR_SIGMA
    return [
        estimate("a mask alone", ring.degree, ring.modulus, sigma),
        estimate("beside the sum of two honest members", ring.degree, ring.modulus, sigma / 2),
        estimate("and the projections of its proof", ring.degree - PROJECTIONS, ring.modulus, sigma / 2),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    found = estimates()
    print(f"{'':40}{'N':>6}{'sigma':>8}{'block':>7}{'bits':>8}{'quantum':>9}")
    for row in found:
        print(
            f"{row.what:40}{row.dimension:6}{row.sigma:8.2f}{row.block:7}{row.bits:8.1f}{row.quantum_bits:9.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
