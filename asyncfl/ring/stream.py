"""Secret randomness: ChaCha20 keyed by the operating system, with fast key erasure."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.utils import random as os_random

from asyncfl.digest import keystream
from asyncfl.ring.packing import BITS

_KEY_BYTES: Final = 32
_SPARE: Final = 64
"""Words drawn beyond the number wanted: one in a thousand is rejected for q = 8380417."""


class SecretStream:
    """An endless secret byte stream.

    Every request expands the current key into a fresh key and the answer and forgets the old key, so a
    later look into memory does not bring earlier output back. With a `seed` (32 bytes) the stream is
    reproducible: for tests only.
    """

    __slots__ = ("_key",)

    def __init__(self, seed: bytes | None = None) -> None:
        if seed is not None and len(seed) != _KEY_BYTES:
            raise ValueError(f"a seed has {_KEY_BYTES} bytes, this one has {len(seed)}")
        self._key = os_random(_KEY_BYTES) if seed is None else seed

    def __repr__(self) -> str:
        return "SecretStream(redacted)"

    def __reduce__(self) -> str:
        raise TypeError("a SecretStream is never copied or stored: its output would repeat")

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, read-only."""
        data = keystream(self._key, _KEY_BYTES + size)
        self._key = data[:_KEY_BYTES]
        return memoryview(data)[_KEY_BYTES:]

    def uniform(self, count: int, modulus: int) -> npt.NDArray[np.int32]:
        """`count` independent uniform residues in [0, q), q <= 2^23, by rejection."""
        kept = accepted_residues(self.take(4 * (count + _SPARE)), modulus)
        while len(kept) < count:
            kept = np.concatenate([kept, accepted_residues(self.take(4 * _SPARE), modulus)])
        return kept[:count]


def accepted_residues(data: bytes | memoryview, modulus: int) -> npt.NDArray[np.int32]:
    """Uniform residues: of each little-endian 32-bit word the low 23 bits, where they are below q <= 2^23."""
    words = np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False) & np.int32((1 << BITS) - 1)
    return words[words < modulus]
