"""The channel between two identities: who gets one, and what a frame may be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.channel import (
    HANDSHAKE_BYTES,
    MAX_FRAME_BYTES,
    MAX_PARTS,
    MAX_PLAIN_BYTES,
    Channel,
    Initiator,
    respond,
)
from asyncfl.errors import HandshakeError, LocalProtocolError, MalformedMessage
from asyncfl.identity import Identity, exchange_key
from asyncfl.noise import RECORD_BYTES, Handshake
from asyncfl.wire import MAX_MESSAGE_BYTES

ALICE, BOB, EVE = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
DEPLOYMENT = b"d" * 32


def everybody(_: bytes) -> bool:
    return True


def pair() -> tuple[Channel, Channel]:
    """Alice's (who dials) and Bob's side."""
    initiator = Initiator(ALICE, BOB.public, DEPLOYMENT)
    answer, at_bob = respond(BOB, DEPLOYMENT, everybody, initiator.first())
    return initiator.finish(answer), at_bob


def opened(channel: Channel, frame: bytes) -> list[bytes]:
    return [bytes(part) for part in channel.open(frame)]


def test_both_sides_learn_who_the_other_is() -> None:
    at_alice, at_bob = pair()
    assert at_alice.peer == BOB.public
    assert at_bob.peer == ALICE.public


def test_message_one_has_the_announced_size() -> None:
    assert len(Initiator(ALICE, BOB.public, DEPLOYMENT).first()) == HANDSHAKE_BYTES


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=MAX_PARTS), st.booleans())
def test_parts_arrive_as_they_were_sent_in_both_directions(parts: list[bytes], from_bob: bool) -> None:
    sender, receiver = pair()[:: -1 if from_bob else 1]
    assert opened(receiver, sender.seal(parts)) == parts


@pytest.mark.parametrize(
    "size",
    [
        1,
        RECORD_BYTES - 21,
        RECORD_BYTES - 20,
        RECORD_BYTES - 19,
        2 * (RECORD_BYTES - 16) - 4,
        MAX_MESSAGE_BYTES,
        MAX_PLAIN_BYTES - 4,
    ],
)
def test_messages_of_any_allowed_size_pass_in_frames_under_a_mebibyte(size: int) -> None:
    sender, receiver = pair()
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frame = sender.seal([message])
    assert len(frame) <= MAX_FRAME_BYTES
    assert opened(receiver, frame) == [message]
    assert opened(receiver, sender.seal([b"next"])) == [b"next"]


def test_what_does_not_fit_a_frame_is_our_own_bug() -> None:
    sender, receiver = pair()
    with pytest.raises(LocalProtocolError):
        sender.seal([bytes(MAX_PLAIN_BYTES - 3)])
    with pytest.raises(LocalProtocolError):
        sender.seal([b"x"] * (MAX_PARTS + 1))
    with pytest.raises(LocalProtocolError):
        sender.seal([b"x", b""])
    assert opened(receiver, sender.seal([b"fine"])) == [b"fine"]


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_a_tampered_frame_is_refused_and_ends_the_channel(size: int) -> None:
    sender, receiver = pair()
    frame = bytearray(sender.seal([bytes(size)]))
    frame[len(frame) // 2] ^= 1
    with pytest.raises(MalformedMessage):
        receiver.open(bytes(frame))
    with pytest.raises(MalformedMessage, match="earlier"):
        receiver.open(sender.seal([b"x"]))


@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, 100, RECORD_BYTES, RECORD_BYTES + 1, 2 * RECORD_BYTES, 150_000]
)
def test_a_truncated_frame_is_refused_also_between_records(size: int) -> None:
    sender, receiver = pair()
    frame = sender.seal([bytes(160_000)])
    with pytest.raises(MalformedMessage):
        receiver.open(frame[:size])


def test_a_frame_cut_in_two_between_its_records_is_refused() -> None:
    sender, receiver = pair()
    frame = sender.seal([bytes(100_000)])
    with pytest.raises(MalformedMessage):
        receiver.open(frame[:RECORD_BYTES])
    with pytest.raises(MalformedMessage):
        receiver.open(frame[RECORD_BYTES:])


def test_a_replayed_frame_is_refused() -> None:
    sender, receiver = pair()
    frame = sender.seal([b"once"])
    receiver.open(frame)
    with pytest.raises(MalformedMessage):
        receiver.open(frame)


def test_a_frame_out_of_order_is_refused() -> None:
    sender, receiver = pair()
    sender.seal([b"first"])
    with pytest.raises(MalformedMessage):
        receiver.open(sender.seal([b"second"]))


def test_reordered_records_within_a_frame_are_refused() -> None:
    sender, receiver = pair()
    frame = sender.seal([bytes(2 * (RECORD_BYTES - 16) - 4)])
    assert len(frame) == 2 * RECORD_BYTES
    with pytest.raises(MalformedMessage):
        receiver.open(frame[RECORD_BYTES:] + frame[:RECORD_BYTES])


def test_a_frame_reflected_to_its_sender_is_refused() -> None:
    sender, _ = pair()
    with pytest.raises(MalformedMessage):
        sender.open(sender.seal([b"x"]))


def test_frames_of_another_channel_between_the_same_two_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        pair()[1].open(pair()[0].seal([b"x"]))


def test_frames_beyond_the_limit_are_refused_unread() -> None:
    _, receiver = pair()
    with pytest.raises(MalformedMessage, match="bytes"):
        receiver.open(bytes(MAX_FRAME_BYTES + 1))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_raises_nothing_but_malformed_message(frame: bytes) -> None:
    _, receiver = pair()
    with pytest.raises(MalformedMessage):
        receiver.open(frame)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_a_peer_that_frames_badly_raises_nothing_but_malformed_message(plain: bytes) -> None:
    """What an authenticated peer with software of its own can put into a frame."""
    sender, receiver = pair()
    try:
        parts = opened(receiver, sender._sending.encrypt(plain))
    except MalformedMessage:
        return
    assert b"".join(len(part).to_bytes(4, "little") + part for part in parts) == plain


def test_a_frame_of_too_many_parts_is_refused() -> None:
    sender, receiver = pair()
    with pytest.raises(MalformedMessage, match="parts"):
        receiver.open(sender._sending.encrypt(b"\x01\0\0\0x" * (MAX_PARTS + 1)))


def test_an_unknown_key_is_refused() -> None:
    message = Initiator(EVE, BOB.public, DEPLOYMENT).first()
    with pytest.raises(HandshakeError, match="not enrolled"):
        respond(BOB, DEPLOYMENT, lambda key: key == ALICE.public, message)


def test_another_deployment_fails_the_handshake() -> None:
    message = Initiator(ALICE, BOB.public, b"e" * 32).first()
    with pytest.raises(HandshakeError, match="deployment"):
        respond(BOB, DEPLOYMENT, everybody, message)


def test_a_responder_with_another_key_fails_the_handshake() -> None:
    message = Initiator(ALICE, BOB.public, DEPLOYMENT).first()
    with pytest.raises(HandshakeError):
        respond(EVE, DEPLOYMENT, everybody, message)


def test_an_impostor_cannot_answer_for_the_responder() -> None:
    """Eve sees message 1 and answers with her own key, or with Bob's answer to another handshake."""
    initiator = Initiator(ALICE, BOB.public, DEPLOYMENT)
    initiator.first()
    other, _ = respond(BOB, DEPLOYMENT, everybody, Initiator(ALICE, BOB.public, DEPLOYMENT).first())
    with pytest.raises(HandshakeError):
        initiator.finish(other)


def test_a_replayed_message_one_gives_the_attacker_no_channel() -> None:
    initiator = Initiator(ALICE, BOB.public, DEPLOYMENT)
    message = initiator.first()
    first_answer, _ = respond(BOB, DEPLOYMENT, everybody, message)
    at_alice = initiator.finish(first_answer)
    second_answer, at_bob = respond(BOB, DEPLOYMENT, everybody, message)
    assert second_answer != first_answer
    with pytest.raises(MalformedMessage):
        at_bob.open(at_alice.seal(()))


def test_nobody_can_name_a_key_that_is_not_theirs() -> None:
    """Eve proves her own X25519 key but claims to be Alice."""
    handshake = Handshake(
        initiator=True,
        prologue=b"asyncfl/1" + DEPLOYMENT,
        static=bytes(EVE.exchange),
        remote_static=exchange_key(BOB.public),
    )
    with pytest.raises(HandshakeError, match="another key"):
        respond(BOB, DEPLOYMENT, everybody, handshake.write_first(ALICE.public))


@pytest.mark.parametrize(
    "claimed", [bytes(32), b"\xff" * 32, (1).to_bytes(32, "little")], ids=["zero", "ones", "neutral"]
)
def test_a_claimed_key_that_is_no_valid_point_is_refused(claimed: bytes) -> None:
    handshake = Handshake(
        initiator=True,
        prologue=b"asyncfl/1" + DEPLOYMENT,
        static=bytes(EVE.exchange),
        remote_static=exchange_key(BOB.public),
    )
    with pytest.raises(HandshakeError):
        respond(BOB, DEPLOYMENT, everybody, handshake.write_first(claimed))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.binary(min_size=HANDSHAKE_BYTES, max_size=HANDSHAKE_BYTES))
def test_garbage_as_a_handshake_raises_nothing_but_handshake_error(message: bytes) -> None:
    with pytest.raises(HandshakeError):
        respond(BOB, DEPLOYMENT, everybody, message)
    initiator = Initiator(ALICE, BOB.public, DEPLOYMENT)
    initiator.first()
    with pytest.raises(HandshakeError):
        initiator.finish(message)


def test_dialling_a_key_that_is_no_point_is_a_handshake_error() -> None:
    with pytest.raises(HandshakeError):
        Initiator(ALICE, b"\xff" * 32, DEPLOYMENT)


def test_representations_show_no_key() -> None:
    initiator = Initiator(ALICE, BOB.public, DEPLOYMENT)
    _, channel = respond(BOB, DEPLOYMENT, everybody, initiator.first())
    for shown in (repr(initiator), repr(channel), repr(ALICE)):
        assert "redacted" in shown
        assert ALICE.seed.hex()[:8] not in shown
        assert bytes(BOB.exchange).hex()[:8] not in shown
