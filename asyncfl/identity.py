"""One Ed25519 identity per node; its X25519 form is the Noise static key and opens sealed boxes.

All cryptography here is libsodium's (PyNaCl). Signatures are domain-separated:
``"asyncfl/1/<type>" || 0 || deployment digest || body`` (protocol section 8).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, SealedBox
from nacl.public import PublicKey as Curve25519Key
from nacl.signing import SigningKey, VerifyKey

from asyncfl.errors import ConfigurationError, InvalidItem

VERIFIED: Final = 4096
"""Signatures of which it is remembered whether they are valid: about 2 MB."""
REMEMBERED_BYTES: Final = 256
"""Longest body for that. Sums of shares (3 kB) are verified once by each replica, and would take 12 MB."""


class Identity:
    """A node's key pair. The private part never shows in its repr."""

    __slots__ = ("_exchange", "_signing", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ConfigurationError(f"a private key has 32 bytes, this one has {len(seed)}")
        self._signing = SigningKey(seed)
        self._exchange = self._signing.to_curve25519_private_key()
        self.public: bytes = bytes(self._signing.verify_key)

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:16]}…, private part redacted)"

    @classmethod
    def generate(cls) -> Identity:
        """A fresh identity from the operating system's randomness."""
        return cls(bytes(SigningKey.generate()))

    @property
    def seed(self) -> bytes:
        """The 32 private bytes, for the key file only."""
        return bytes(self._signing)

    @property
    def exchange(self) -> PrivateKey:
        """The X25519 private key derived from the Ed25519 one."""
        return self._exchange

    def sign(self, kind: str, deployment: bytes, body: bytes) -> bytes:
        """64-byte signature on `body` as a statement of type `kind` in one deployment."""
        return bytes(self._signing.sign(_signed(kind, deployment, body)).signature)

    def unseal(self, box: bytes) -> bytes:
        """Open a box made by `seal` for this identity. Raises `InvalidItem`."""
        try:
            return bytes(SealedBox(self._exchange).decrypt(box))
        except (CryptoError, ValueError, TypeError):
            raise InvalidItem("a sealed box does not open with this identity's key") from None


def verify(public: bytes, kind: str, deployment: bytes, body: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public`'s on `body` under the same domain."""
    signed = _signed(kind, deployment, body)
    if len(body) > REMEMBERED_BYTES:
        return _is_signed.__wrapped__(public, signed, signature)
    return _is_signed(public, signed, signature)


@lru_cache(maxsize=VERIFIED)
def _is_signed(public: bytes, signed: bytes, signature: bytes) -> bool:
    """A fact about three strings, whoever asks: the same votes come in many messages, and from many peers."""
    try:
        VerifyKey(public).verify(signed, signature)
    except (BadSignatureError, ValueError, TypeError, CryptoError):
        return False
    return True


def exchange_key(public: bytes) -> bytes:
    """The X25519 form (32 bytes) of an Ed25519 public key. Raises `InvalidItem` for a bad point."""
    try:
        return bytes(VerifyKey(public).to_curve25519_public_key())
    except (CryptoError, RuntimeError, ValueError):
        raise InvalidItem("not a valid Ed25519 public key") from None


def seal(public: bytes, data: bytes) -> bytes:
    """A sealed box (48 bytes longer than `data`) that only the owner of `public` opens."""
    return bytes(SealedBox(Curve25519Key(exchange_key(public))).encrypt(data))


def _signed(kind: str, deployment: bytes, body: bytes) -> bytes:
    return b"asyncfl/1/" + kind.encode() + b"\0" + deployment + body
