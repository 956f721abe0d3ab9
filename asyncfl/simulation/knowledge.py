"""What can be computed from everything that attackers hold: linear algebra over the shares ever given away.

Every secret is a vector of field elements that are shared coefficient by coefficient with the same points, so one
coefficient stands for all. An upload u is the vector of its polynomial's D = n-2t coefficients; whoever knows a share
at point x knows the functional (1, x, ..., x^(D-1)) of it; a sum of shares over a group is the sum of these over the
group's members. A sum of *secrets* can be computed exactly if the functional that takes the constant coefficients
lies in the span of what is known (protocol section 4, and the lock round's reason).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.int64]


def eliminate(rows: Matrix, modulus: int) -> Matrix:
    """The reduced row echelon form of `rows` [m, k] over Z_modulus (a prime below 2^31), without zero rows."""
    rows = rows % modulus
    rank = 0
    for column in range(rows.shape[1]):
        candidates = np.flatnonzero(rows[rank:, column])
        if not len(candidates):
            continue
        pivot = rank + int(candidates[0])
        rows[[rank, pivot]] = rows[[pivot, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, modulus) % modulus
        others = np.flatnonzero(rows[:, column])
        others = others[others != rank]
        rows[others] = (rows[others] - rows[others, column, None] * rows[rank]) % modulus
        rank += 1
        if rank == len(rows):
            break
    return rows[:rank]


def computable_sums(
    uploads: Sequence[bytes],
    *,
    answers: Iterable[tuple[Collection[bytes], int]],
    known_points: Collection[int],
    known_uploads: Collection[bytes],
    coefficients: int,
    modulus: int,
) -> Matrix:
    """A basis of the sums of secrets that can be computed, int64 [rank, len(uploads)], reduced row echelon form.

    `answers` are (members, point): sums of shares that were given away. The attackers hold the shares of every upload
    at `known_points`, and all of `known_uploads` (their own). `coefficients` is D = n-2t.
    """
    place = {upload: index for index, upload in enumerate(uploads)}
    count = len(uploads)
    # Constant coefficients last: what is left once all others are eliminated concerns secrets alone.
    column = {(u, k): (count * (k - 1) if k else count * (coefficients - 1)) + place[u]
              for u in uploads for k in range(coefficients)}  # fmt: skip
    rows: list[Matrix] = []

    def add(members: Iterable[bytes], point: int) -> None:
        row = np.zeros(count * coefficients, dtype=np.int64)
        for upload in members:
            for k in range(coefficients):
                row[column[upload, k]] = pow(point, k, modulus)
        rows.append(row)

    for upload in uploads:
        for point in known_points:
            add([upload], point)
        if upload in known_uploads:
            for k in range(coefficients):
                row = np.zeros(count * coefficients, dtype=np.int64)
                row[column[upload, k]] = 1
                rows.append(row)
    for members, point in answers:
        add(members, point)
    if not rows:
        return np.zeros((0, count), dtype=np.int64)
    reduced = eliminate(np.stack(rows), modulus)
    first = count * (coefficients - 1)
    about_secrets = ~reduced[:, :first].any(axis=1)
    return reduced[about_secrets, first:]


def span_contains(basis: Matrix, vectors: Matrix, modulus: int) -> bool:
    """Whether every row of `vectors` lies in the span of the rows of `basis`."""
    if not len(vectors):
        return True
    rank = len(eliminate(basis, modulus)) if len(basis) else 0
    return len(eliminate(np.concatenate([basis, vectors]), modulus)) == rank


def components(groups: Mapping[bytes, Collection[bytes]]) -> list[set[bytes]]:
    """The groups, by name, in sets that share uploads directly or through others."""
    owner: dict[bytes, set[bytes]] = {}
    found: list[set[bytes]] = []
    for name, members in groups.items():
        touching = [owner[m] for m in members if m in owner]
        merged = {name}
        for other in touching:
            merged |= other
        found = [component for component in found if not component & merged]
        found.append(merged)
        for group in merged:
            for member in groups[group]:
                owner[member] = merged
    return found
