"""Noise IK against published vectors, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_scalarmult_base

from asyncfl.errors import HandshakeError, LocalProtocolError, MalformedMessage
from asyncfl.noise import NONCE_LIMIT, CipherState, Handshake

VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "noise_ik_25519_chachapoly_blake2b.json").read_text()
)["vectors"]

# Points of low order on Curve25519 (libsodium's blocklist; RFC 7748 section 6.1): every exchange gives zero.
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["protocol_name"])
def test_published_vector_is_reproduced_byte_for_byte(vector: dict[str, Any]) -> None:
    data = {
        key: bytes.fromhex(value)
        for key, value in vector.items()
        if isinstance(value, str) and key != "protocol_name"
    }
    initiator = Handshake(
        initiator=True,
        prologue=data["init_prologue"],
        static=data["init_static"],
        ephemeral=data["init_ephemeral"],
        remote_static=data["init_remote_static"],
    )
    responder = Handshake(
        initiator=False,
        prologue=data["resp_prologue"],
        static=data["resp_static"],
        ephemeral=data["resp_ephemeral"],
    )
    messages = [
        (bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"]))
        for message in vector["messages"]
    ]
    (first, first_bytes), (second, second_bytes), *transport = messages
    assert initiator.write_first(first) == first_bytes
    assert responder.read_first(first_bytes) == first
    assert responder.remote_static == crypto_scalarmult_base(data["init_static"])
    assert responder.write_second(second) == second_bytes
    assert initiator.read_second(second_bytes) == second
    assert initiator.hash == responder.hash == data["handshake_hash"]
    (to_responder, from_responder), (to_initiator, from_initiator) = initiator.split(), responder.split()
    assert len(transport) >= 2
    for index, (plaintext, ciphertext) in enumerate(transport):
        sender, receiver = (
            (to_responder, from_initiator) if index % 2 == 0 else (to_initiator, from_responder)
        )
        assert sender.encrypt(plaintext) == ciphertext
        assert receiver.decrypt(ciphertext) == plaintext


def pair() -> tuple[Handshake, Handshake]:
    static = bytes(range(32))
    responder = Handshake(initiator=False, prologue=b"p", static=static)
    initiator = Handshake(
        initiator=True,
        prologue=b"p",
        static=bytes(range(1, 33)),
        remote_static=crypto_scalarmult_base(static),
    )
    return initiator, responder


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_ephemeral_of_low_order_is_refused_by_both_sides(point: bytes) -> None:
    initiator, responder = pair()
    message = initiator.write_first()
    with pytest.raises(HandshakeError, match="low order"):
        responder.read_first(point + message[32:])
    initiator, responder = pair()
    responder.read_first(initiator.write_first())
    with pytest.raises(HandshakeError, match="low order"):
        initiator.read_second(point + responder.write_second()[32:])


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_static_key_of_low_order_is_refused(point: bytes) -> None:
    initiator = Handshake(initiator=True, prologue=b"p", static=bytes(range(32)), remote_static=point)
    with pytest.raises(HandshakeError, match="low order"):
        initiator.write_first()


def test_every_flipped_bit_of_the_handshake_is_noticed() -> None:
    for position in range(96):
        initiator, responder = pair()
        message = bytearray(initiator.write_first())
        message[position] ^= 1 << (position % 7)
        with pytest.raises(HandshakeError):
            responder.read_first(bytes(message))
    for position in range(48):
        initiator, responder = pair()
        responder.read_first(initiator.write_first())
        answer = bytearray(responder.write_second())
        answer[position] ^= 1 << (position % 7)
        with pytest.raises(HandshakeError):
            initiator.read_second(bytes(answer))


def test_truncated_handshake_is_refused_at_every_length() -> None:
    initiator, _ = pair()
    message = initiator.write_first(b"payload")
    for length in range(len(message)):
        with pytest.raises(HandshakeError):
            pair()[1].read_first(message[:length])


def test_steps_out_of_turn_are_our_own_bug() -> None:
    initiator, responder = pair()
    with pytest.raises(LocalProtocolError):
        initiator.read_second(bytes(48))
    with pytest.raises(LocalProtocolError):
        responder.write_first()
    with pytest.raises(LocalProtocolError):
        responder.split()
    initiator.write_first()
    with pytest.raises(LocalProtocolError):
        initiator.write_first()


def test_a_key_stops_at_its_last_nonce_in_both_directions() -> None:
    sender, receiver = (CipherState(bytes(32), NONCE_LIMIT - 1) for _ in range(2))
    assert receiver.decrypt(sender.encrypt(b"last")) == b"last"
    with pytest.raises(HandshakeError, match="nonces"):
        sender.encrypt(b"one too many")
    with pytest.raises(HandshakeError, match="nonces"):
        receiver.decrypt(bytes(16))


def test_a_failed_decryption_does_not_advance_the_counter() -> None:
    sender, receiver = CipherState(bytes(32)), CipherState(bytes(32))
    sealed = sender.encrypt(b"x")
    with pytest.raises(MalformedMessage):
        receiver.decrypt(bytes(17))
    assert receiver.decrypt(sealed) == b"x"


def test_representations_show_no_key() -> None:
    secret = bytes(range(100, 132))
    handshake = Handshake(initiator=False, prologue=b"", static=secret)
    for shown in (repr(handshake), repr(CipherState(secret)), str(handshake)):
        assert "redacted" in shown
        assert secret.hex()[:8] not in shown
        assert repr(secret)[2:12] not in shown
