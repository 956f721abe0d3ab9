"""How one data set is split over clients: disjoint, covering, the same at every party.

All draws come from NumPy's legacy generator, whose stream is frozen (NEP 19): parties with different NumPy
versions still cut the data alike. Nothing here is secret.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError

Indices = NDArray[np.int64]
PARTITIONS: Final = ("iid", "dirichlet")
MINIMUM_EXAMPLES: Final = 2
"""Every client holds at least this many: BatchNorm cannot train on one."""


def partition(
    labels: NDArray[np.integer], clients: int, *, kind: str = "iid", alpha: float = 0.5, seed: int = 0
) -> list[Indices]:
    """Sorted example numbers of each client. `kind`: "iid" or "dirichlet" (with `alpha`).

    Raises `ConfigurationError`: unknown kind, alpha not positive, or fewer than 2 examples a client.
    """
    if len(labels) < MINIMUM_EXAMPLES * clients:
        raise ConfigurationError(
            f"{len(labels)} training examples cannot be split over {clients} clients: each needs at least "
            f"{MINIMUM_EXAMPLES}"
        )
    if kind == "iid":
        return iid(len(labels), clients, seed)
    if kind == "dirichlet":
        return dirichlet(labels, clients, alpha, seed)
    raise ConfigurationError(f"unknown partition {kind!r}: use {' or '.join(PARTITIONS)}")


def iid(count: int, clients: int, seed: int) -> list[Indices]:
    """A random split into parts whose sizes differ by at most one."""
    shuffled = generator("iid", seed).permutation(count)
    return [np.sort(part).astype(np.int64) for part in np.array_split(shuffled, clients)]


def dirichlet(labels: NDArray[np.integer], clients: int, alpha: float, seed: int) -> list[Indices]:
    """Each class is shared out in proportions drawn from Dirichlet(alpha): the smaller, the more uneven.

    Source: Hsu, Qi, Brown 2019 (arXiv 1909.06335), per-class variant. A client left with fewer than 2
    examples takes from the one that then holds most.
    """
    if not alpha > 0 or not np.isfinite(alpha):
        raise ConfigurationError(f"partition alpha {alpha} must be a positive number")
    draw = generator("dirichlet", seed)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        # For tiny alpha a Dirichlet draw underflows to 0/0; then one client takes the class.
        shares = np.nan_to_num(draw.dirichlet(np.full(clients, alpha)))
        if not shares.sum() > 0:
            shares[draw.randint(clients)] = 1.0
        cuts = np.rint(np.cumsum(shares / shares.sum())[:-1] * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.extend(piece.tolist())
    for part in parts:
        while len(part) < MINIMUM_EXAMPLES:
            part.append(max(parts, key=len).pop())
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def generator(purpose: str, seed: int) -> np.random.RandomState:
    """A generator for one public purpose; its stream is the same on every machine and NumPy version."""
    words = digest("asyncfl/1/partition", purpose.encode(), str(seed).encode())
    return np.random.RandomState(np.frombuffer(words, dtype="<u4"))
