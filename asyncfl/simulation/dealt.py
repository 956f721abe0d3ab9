"""Everything that clients dealt, opened with the keys of all replicas: what nobody but the observer can do.

Arithmetic of its own, coefficient by coefficient: the observer must not rely on the code that it watches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from asyncfl.errors import InvalidItem
from asyncfl.identity import Identity
from asyncfl.messages import Manifest
from asyncfl.parameters import Parameters

Element = npt.NDArray[np.int64]
"""A ring element: N residues."""

BITS: Final = 23
SALT: Final = 16


def read_element(data: bytes, degree: int, modulus: int) -> Element | None:
    """The residues in a packed ring element (docs/protocol.md, section 3); None if there is none in it."""
    columns = degree // 32
    if len(data) != degree * BITS // 8:
        return None
    words = np.frombuffer(data, dtype="<u4").reshape(BITS, columns)
    found = np.zeros((32, columns), dtype=np.int64)
    for column in range(columns):
        number = int.from_bytes(words[:, column].tobytes(), "little")
        for row in range(32):
            found[row, column] = number >> (BITS * row) & ((1 << BITS) - 1)
    return found.reshape(-1) if int(found.max()) < modulus else None


class Dealt:
    """Shares and secrets of the uploads of one run. `identities` are those of all replicas, by index."""

    def __init__(self, parameters: Parameters, identities: Mapping[int, Identity]) -> None:
        self._parameters = parameters
        self._identities = identities
        self._shares: dict[tuple[bytes, int], Element | None] = {}
        self.owners: dict[bytes, bytes] = {}
        """Whose a secret or a share is, of those that `keep` was told of: their bytes, and the upload's digest."""

    def read(self, data: bytes) -> Element | None:
        return read_element(data, self._parameters.ring.degree, self._parameters.modulus)

    def share(self, manifest: Manifest, index: int) -> Element | None:
        """What a replica finds in its box; None if that is no share."""
        key = manifest.digest(), index
        if key not in self._shares:
            try:
                salted = self._identities[index].unseal(manifest.core.boxes[index])
            except (InvalidItem, IndexError):
                salted = b""
            self._shares[key] = self.read(salted[SALT:])
        return self._shares[key]

    def sum_of_shares(self, manifests: Sequence[Manifest], index: int) -> Element | None:
        """What a replica answers for a group of these; None if one of its shares is none."""
        return self._add([self.share(manifest, index) for manifest in manifests])

    def sum_of_secrets(self, manifests: Sequence[Manifest]) -> Element | None:
        """What opens the group; None if the shares of a member lie on no polynomial."""
        return self._add([self.secret(manifest) for manifest in manifests])

    def secret(self, manifest: Manifest) -> Element | None:
        """The value at 0 of the polynomial of degree n-2t-1 on which all shares lie; None if there is none."""
        shares = [self.share(manifest, index) for index in sorted(self._identities)]
        present = [share for share in shares if share is not None]
        least = self._parameters.threshold
        if len(present) < len(shares):
            return None
        points = range(1, least + 1)
        for point in range(least + 1, len(shares) + 1):
            if not np.array_equal(self._interpolate(present[:least], points, point), present[point - 1]):
                return None
        return self._interpolate(present[:least], points, 0)

    def keep(self, manifest: Manifest) -> bytes | None:
        """Remember an honest client's upload; returns the digest of another one with the same secret or share."""
        name = manifest.digest()
        shares = [self.share(manifest, index) for index in sorted(self._identities)]
        for element in (self.secret(manifest), *shares):
            if element is not None and self.owners.setdefault(element.tobytes(), name) != name:
                return self.owners[element.tobytes()]
        return None

    def _add(self, elements: Sequence[Element | None]) -> Element | None:
        present = [element for element in elements if element is not None]
        if len(present) < len(elements):
            return None
        total: Element = np.sum(present, axis=0) % self._parameters.modulus
        return total

    def _interpolate(self, values: Sequence[Element], points: Sequence[int], at: int) -> Element:
        """Lagrange's formula at one point."""
        q = self._parameters.modulus
        total = np.zeros_like(values[0])
        for value, point in zip(values, points, strict=True):
            above = below = 1
            for other in points:
                if other != point:
                    above, below = above * (at - other) % q, below * (point - other) % q
            total = (total + above * pow(below, -1, q) % q * value) % q
        return total
