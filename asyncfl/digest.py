"""Digests and public randomness: BLAKE2b-256 with domain separation, ChaCha20 streams by libsodium."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from nacl.utils import randombytes_deterministic

DIGEST_BYTES: Final = 32


def content_digest(data: bytes | bytearray | memoryview) -> bytes:
    """BLAKE2b-256 of `data` alone: the name of a blob."""
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def digest(domain: str, *parts: bytes) -> bytes:
    """BLAKE2b-256 over a domain tag and length-prefixed parts (32 bytes).

    Prefixing every part with its length makes the encoding injective, so that no two different
    sequences of parts share a digest by construction.
    """
    state = blake2b(digest_size=DIGEST_BYTES)
    for part in (domain.encode(), *parts):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def keystream(seed: bytes, size: int) -> bytes:
    """`size` bytes of libsodium's ChaCha20 stream under the 32-byte `seed`.

    A seed must be used for one purpose only: derive it with `digest` under its own domain, or take it
    from the operating system. Limited to 2^38 bytes a seed.
    """
    return bytes(randombytes_deterministic(size, seed))
