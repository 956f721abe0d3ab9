"""Keys and signatures that arithmetic would let through and libsodium must not."""

from __future__ import annotations

import pytest

from asyncfl.channel import Initiator
from asyncfl.errors import HandshakeError, InvalidItem
from asyncfl.identity import Identity, exchange_key, seal, verify

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
OWNER = Identity(bytes([4]) * 32)
DEPLOYMENT = bytes(32)

# Ed25519 points of order 1, 2, 4 and 8, and two encodings that are not canonical (RFC 8032; libsodium's blocklist).
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_of_small_order_is_nobodys(point: str) -> None:
    """Under such a key one signature would hold for every message, and every exchange would give the same secret."""
    key = bytes.fromhex(point)
    for signature in (key + bytes(32), bytes(64), SMALL_ORDER_SIGNATURE):
        assert not verify(key, "lock", DEPLOYMENT, b"anything", signature)
    with pytest.raises(InvalidItem):
        exchange_key(key)
    with pytest.raises(InvalidItem):
        seal(key, b"share")
    with pytest.raises(HandshakeError):
        Initiator(OWNER, key, DEPLOYMENT)


SMALL_ORDER_SIGNATURE = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)


def test_a_signature_has_one_form() -> None:
    """S + L signs the same by arithmetic: then evidence and digests of signed rows would have two forms."""
    signature = OWNER.sign("lock", DEPLOYMENT, b"body")
    assert verify(OWNER.public, "lock", DEPLOYMENT, b"body", signature)
    scalar = int.from_bytes(signature[32:], "little")
    for other in (scalar + GROUP_ORDER, scalar + 2 * GROUP_ORDER, GROUP_ORDER - scalar):
        forged = signature[:32] + other.to_bytes(32, "little")
        assert not verify(OWNER.public, "lock", DEPLOYMENT, b"body", forged)
    for length in (0, 63, 65, 128):
        assert not verify(OWNER.public, "lock", DEPLOYMENT, b"body", signature[:length].ljust(length, b"\0"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_nobodys(length: int) -> None:
    assert not verify(bytes(length), "lock", DEPLOYMENT, b"body", bytes(64))
    with pytest.raises(InvalidItem):
        exchange_key(bytes(length))
