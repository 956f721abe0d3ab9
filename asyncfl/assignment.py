"""Who is in which cell: swap-or-not shuffle of the roster, cut into cells of nearly equal size.

Source: Ethereum consensus specifications, phase 0, `compute_shuffled_index` (SHA-256, 90 rounds), after
Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle" (CRYPTO 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from asyncfl.digest import digest
from asyncfl.errors import InvalidItem
from asyncfl.federation import Federation, Roster

SHUFFLE_ROUNDS: Final = 90
_Member = TypeVar("_Member")


def compute_shuffled_index(index: int, index_count: int, seed: bytes) -> int:
    """The position of `index` after the shuffle of `index_count` positions under the 32-byte `seed`.

    Raises `ValueError` unless 0 <= index < index_count.
    """
    if not 0 <= index < index_count:
        raise ValueError(f"index {index} is not in [0, {index_count})")
    for current_round in range(SHUFFLE_ROUNDS):
        round_byte = bytes([current_round])
        pivot = int.from_bytes(sha256(seed + round_byte).digest()[:8], "little") % index_count
        flip = (pivot + index_count - index) % index_count
        position = max(index, flip)
        source = sha256(seed + round_byte + (position // 256).to_bytes(4, "little")).digest()
        if (source[(position % 256) // 8] >> (position % 8)) % 2:
            index = flip
    return index


def compute_shuffled_positions(index_count: int, seed: bytes) -> npt.NDArray[np.int64]:
    """`compute_shuffled_index` of every index at once, int64 [index_count]."""
    index = np.arange(index_count, dtype=np.int64)
    if index_count == 0:
        return index
    for current_round in range(SHUFFLE_ROUNDS):
        round_byte = bytes([current_round])
        pivot = int.from_bytes(sha256(seed + round_byte).digest()[:8], "little") % index_count
        flip = (pivot + index_count - index) % index_count
        position = np.maximum(index, flip)
        source = b"".join(
            sha256(seed + round_byte + block.to_bytes(4, "little")).digest()
            for block in range((index_count + 255) // 256)
        )
        bits = np.unpackbits(np.frombuffer(source, dtype=np.uint8), bitorder="little")
        index = np.where(bits[position] == 1, flip, index)
    return index


def compute_seed(deployment: bytes, roster_digest: bytes, epoch: int) -> bytes:
    """The shuffle seed of an epoch: nobody has a choice of cell."""
    return digest("asyncfl/1/shuffle", deployment, roster_digest, epoch.to_bytes(8, "little"))


def compute_cells(roster: Roster, cell_size: int, seed: bytes) -> tuple[tuple[bytes, ...], ...]:
    """The roster in shuffled order, cut into floor(n_c / cell_size) cells whose sizes differ by at most one."""
    count = len(roster.members)
    order: list[bytes] = [b""] * count
    for index, position in enumerate(compute_shuffled_positions(count, seed)):
        order[int(position)] = roster.members[index]
    return cut(order, cell_size)


def cut(order: Sequence[_Member], cell_size: int) -> tuple[tuple[_Member, ...], ...]:
    """`order` cut into floor(count / cell_size) cells, at least one, whose sizes differ by at most one."""
    count = len(order)
    cells = max(1, count // cell_size)
    return tuple(tuple(order[k * count // cells : (k + 1) * count // cells]) for k in range(cells))


def compute_coordinator(epoch: int, cell: int, replicas: int) -> int:
    """The replica whose cell this is: `cell` mod n in epoch 1, and the next one with every epoch.

    A cell that stayed with one replica could be that of a malicious one for ever: with fewer cells than replicas,
    t of them could own all cells, and nothing would ever be opened.
    """
    return (cell + epoch - 1) % replicas


@lru_cache(maxsize=64)
def _assign(
    deployment: bytes, roster: Roster, cell_size: int, epoch: int
) -> tuple[tuple[tuple[bytes, ...], ...], dict[bytes, int]]:
    cells = compute_cells(roster, cell_size, compute_seed(deployment, roster.digest, epoch))
    return cells, {client: k for k, cell in enumerate(cells) for client in cell}


class Assignment:
    """Cells of every (roster, epoch) of one federation, cached. Pure: the same answer at every party."""

    def __init__(self, federation: Federation) -> None:
        self._deployment = federation.digest
        self._replicas = federation.parameters.replicas
        self._cell_size = federation.parameters.cell_size

    def cells(self, roster: Roster, epoch: int) -> tuple[tuple[bytes, ...], ...]:
        """Members of each cell, in shuffled order."""
        return _assign(self._deployment, roster, self._cell_size, epoch)[0]

    def cell_of(self, client: bytes, roster: Roster, epoch: int) -> int:
        """The client's cell. Raises `InvalidItem` if the roster does not list it."""
        cell = _assign(self._deployment, roster, self._cell_size, epoch)[1].get(client)
        if cell is None:
            raise InvalidItem(f"client {client.hex()[:12]} is not in roster {roster.number}")
        return cell

    def coordinator(self, epoch: int, cell: int) -> int:
        """The replica that the clients of a cell ask first."""
        return compute_coordinator(epoch, cell, self._replicas)

    def line(self, first: int) -> tuple[int, ...]:
        """All replicas from `first` on, in the order in which they stand in for each other."""
        n = self._replicas
        return tuple((first + offset) % n for offset in range(n))
