"""The Noise protocol framework, pattern IK: ``Noise_IK_25519_ChaChaPoly_BLAKE2b``, nothing about identities.

Source: noiseprotocol.org/noise.html, revision 34. The primitives are libsodium's (X25519, ChaCha20-Poly1305
with the 96-bit IETF nonce) and hashlib's BLAKE2b-512::

    <- s
    ...
    -> e, es, s, ss
    <- e, ee, se

`channel.py` adds who the keys belong to and how messages are framed.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Final

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError
from nacl.utils import random as system_random

from asyncfl.errors import HandshakeError, LocalProtocolError, MalformedMessage

PROTOCOL_NAME: Final = b"Noise_IK_25519_ChaChaPoly_BLAKE2b"
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
HASH_BYTES: Final = 64
RECORD_BYTES: Final = 65535
"""Largest Noise message, tag included (section 3)."""
NONCE_LIMIT: Final = 2**64 - 1
"""This nonce is reserved (section 5.1): a key that has used all those below it encrypts nothing more."""


class CipherState:
    """One direction's key and its counter. The key never shows in a repr."""

    __slots__ = ("_key", "_nonce")

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._key = key
        self._nonce = nonce

    def __repr__(self) -> str:
        return f"CipherState(key redacted, nonce={self._nonce})"

    def encrypt(self, plaintext: bytes, associated: bytes = b"") -> bytes:
        """The ciphertext, 16 bytes longer. Raises `HandshakeError` when the key has used up its nonces."""
        sealed = crypto_aead_chacha20poly1305_ietf_encrypt(
            plaintext, associated, self._nonce_bytes(), self._key
        )
        self._nonce += 1
        return sealed

    def decrypt(self, ciphertext: bytes, associated: bytes = b"") -> bytes:
        """The plaintext. Raises `MalformedMessage` for anything but the next message of this key's owner."""
        if len(ciphertext) < TAG_BYTES:
            raise MalformedMessage(f"an encrypted record of {len(ciphertext)} bytes is shorter than its tag")
        try:
            plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(
                ciphertext, associated, self._nonce_bytes(), self._key
            )
        except CryptoError:
            raise MalformedMessage(
                f"record {self._nonce} does not authenticate: damaged, replayed, reordered or forged"
            ) from None
        self._nonce += 1
        return plaintext

    def _nonce_bytes(self) -> bytes:
        if self._nonce >= NONCE_LIMIT:
            raise HandshakeError("the channel's key has used up its nonces; open a new channel")
        return b"\0\0\0\0" + self._nonce.to_bytes(8, "little")


class Handshake:
    """One run of IK, for either side. Used once, in order, then `split`; any error ends it.

    The initiator calls `write_first`, `read_second`; the responder `read_first`, `write_second`.
    `static` and `ephemeral` are X25519 private keys; a fresh ephemeral comes from the operating system
    unless a test vector gives one.
    """

    __slots__ = (
        "_chaining", "_cipher", "_ephemeral", "_initiator", "_remote_ephemeral", "_static", "_step",
        "hash", "remote_static",
    )  # fmt: skip

    def __init__(
        self,
        *,
        initiator: bool,
        prologue: bytes,
        static: bytes,
        remote_static: bytes | None = None,
        ephemeral: bytes | None = None,
    ) -> None:
        if initiator != (remote_static is not None):
            raise LocalProtocolError(
                "in IK the initiator, and only it, knows the other's static key at first"
            )
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral if ephemeral is not None else system_random(KEY_BYTES)
        self._remote_ephemeral = b""
        self.remote_static: bytes = remote_static or b""
        self._cipher: CipherState | None = None
        self._chaining = self.hash = PROTOCOL_NAME.ljust(HASH_BYTES, b"\0")
        self._step = 0
        self._mix_hash(prologue)
        self._mix_hash(self.remote_static if initiator else crypto_scalarmult_base(static))

    def __repr__(self) -> str:
        return f"Handshake(initiator={self._initiator}, step={self._step}, keys redacted)"

    def write_first(self, payload: bytes = b"") -> bytes:
        """``e, es, s, ss``: 96 bytes and the encrypted payload."""
        self._advance(0, initiator=True)
        public = crypto_scalarmult_base(self._ephemeral)
        self._mix_hash(public)
        self._mix_key(self._exchange(self._ephemeral, self.remote_static))
        sealed_static = self._encrypt(crypto_scalarmult_base(self._static))
        self._mix_key(self._exchange(self._static, self.remote_static))
        return public + sealed_static + self._encrypt(payload)

    def read_first(self, message: bytes) -> bytes:
        """The payload; sets `remote_static`. Raises `HandshakeError`."""
        self._advance(0, initiator=False)
        if not KEY_BYTES * 2 + TAG_BYTES * 2 <= len(message) <= RECORD_BYTES:
            raise HandshakeError(f"a first handshake message cannot have {len(message)} bytes")
        self._remote_ephemeral = message[:KEY_BYTES]
        self._mix_hash(self._remote_ephemeral)
        self._mix_key(self._exchange(self._static, self._remote_ephemeral))
        end = KEY_BYTES * 2 + TAG_BYTES
        self.remote_static = self._decrypt(message[KEY_BYTES:end])
        self._mix_key(self._exchange(self._static, self.remote_static))
        return self._decrypt(message[end:])

    def write_second(self, payload: bytes = b"") -> bytes:
        """``e, ee, se``: 32 bytes and the encrypted payload."""
        self._advance(1, initiator=False)
        public = crypto_scalarmult_base(self._ephemeral)
        self._mix_hash(public)
        self._mix_key(self._exchange(self._ephemeral, self._remote_ephemeral))
        self._mix_key(self._exchange(self._ephemeral, self.remote_static))
        return public + self._encrypt(payload)

    def read_second(self, message: bytes) -> bytes:
        """The payload. Raises `HandshakeError`."""
        self._advance(1, initiator=True)
        if not KEY_BYTES + TAG_BYTES <= len(message) <= RECORD_BYTES:
            raise HandshakeError(f"a second handshake message cannot have {len(message)} bytes")
        self._remote_ephemeral = message[:KEY_BYTES]
        self._mix_hash(self._remote_ephemeral)
        self._mix_key(self._exchange(self._ephemeral, self._remote_ephemeral))
        self._mix_key(self._exchange(self._static, self._remote_ephemeral))
        return self._decrypt(message[KEY_BYTES:])

    def split(self) -> tuple[CipherState, CipherState]:
        """(sending, receiving) transport ciphers of this side."""
        self._advance(2, initiator=self._initiator)
        first, second = (CipherState(key[:KEY_BYTES]) for key in _hkdf(self._chaining, b""))
        return (first, second) if self._initiator else (second, first)

    def _advance(self, step: int, *, initiator: bool) -> None:
        if self._step != step or self._initiator != initiator:
            raise LocalProtocolError(f"handshake step {step} taken out of turn in {self!r}")
        self._step = step + 1

    def _mix_hash(self, data: bytes) -> None:
        self.hash = blake2b(self.hash + data).digest()

    def _mix_key(self, material: bytes) -> None:
        self._chaining, key = _hkdf(self._chaining, material)
        self._cipher = CipherState(key[:KEY_BYTES])

    def _encrypt(self, plaintext: bytes) -> bytes:
        assert self._cipher is not None
        sealed = self._cipher.encrypt(plaintext, self.hash)
        self._mix_hash(sealed)
        return sealed

    def _decrypt(self, sealed: bytes) -> bytes:
        assert self._cipher is not None
        try:
            plaintext = self._cipher.decrypt(sealed, self.hash)
        except MalformedMessage:
            raise HandshakeError(
                "the handshake does not authenticate: another deployment, another key, or garbage"
            ) from None
        self._mix_hash(sealed)
        return plaintext

    @staticmethod
    def _exchange(private: bytes, public: bytes) -> bytes:
        try:
            return crypto_scalarmult(private, public)
        except CryptoError:  # libsodium refuses an all-zero result, which only points of low order give
            raise HandshakeError("the other side sent a public key of low order") from None


def _hkdf(chaining: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs of 64 bytes (section 4.3)."""
    secret = hmac.digest(chaining, material, blake2b)
    first = hmac.digest(secret, b"\x01", blake2b)
    return first, hmac.digest(secret, first + b"\x02", blake2b)
