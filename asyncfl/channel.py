"""An authenticated, encrypted channel between two identities of one deployment, sans I/O.

Theory of operation (protocol section 8)::

    initiator                                   responder
    Initiator(...).first() -> message 1 ----->  respond(...) checks key and deployment, or refuses
    .finish(message 2) -> Channel       <-----  (message 2, Channel)
    channel.seal([])                    ----->  channel.open(...): only now is the initiator known to be alive

The Noise prologue holds the deployment digest, so that parties of different deployments cannot complete a
handshake. Message 1 carries the initiator's Ed25519 key, encrypted; it must be the one whose X25519 form
proved itself, and one that the responder accepts. Anybody can *replay* a recorded message 1, so a responder
must not let a channel displace another one, nor allocate for it, before one frame has been opened on it.

A frame is the content of one WebSocket message: parts, each a 4-byte little-endian length and that many
bytes, cut into Noise records that are all full but the last. Cutting a frame at any other place than between
two parts yields an error, never a shorter message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from asyncfl.errors import HandshakeError, InvalidItem, LocalProtocolError, MalformedMessage
from asyncfl.identity import Identity, exchange_key
from asyncfl.noise import RECORD_BYTES, TAG_BYTES, CipherState, Handshake

MAX_FRAME_BYTES: Final = 1 << 20
"""Largest frame, encryption included: what the WebSocket layer lets through."""
MAX_PLAIN_BYTES: Final = MAX_FRAME_BYTES - TAG_BYTES * (MAX_FRAME_BYTES // RECORD_BYTES + 1)
"""Largest frame before encryption."""
MAX_PARTS: Final = 64
"""Messages in a frame: bounds how long one frame can keep the receiver busy."""
LENGTH_BYTES: Final = 4
HANDSHAKE_BYTES: Final = 128
"""Size of message 1; message 2 has 48 bytes."""

_PLAIN_RECORD: Final = RECORD_BYTES - TAG_BYTES
_PROLOGUE: Final = b"asyncfl/1"


class Channel:
    """Both directions of an established channel with `peer` (an Ed25519 public key).

    Keys never show in its repr.
    """

    __slots__ = ("_broken", "_receiving", "_sending", "peer")

    def __init__(self, peer: bytes, sending: CipherState, receiving: CipherState) -> None:
        self.peer = peer
        self._sending = sending
        self._receiving = receiving
        self._broken = False

    def __repr__(self) -> str:
        return f"Channel(peer={self.peer.hex()[:16]}…, keys redacted)"

    def seal(self, parts: Iterable[bytes | bytearray]) -> bytes:
        """The frame that carries `parts` (none: an empty frame, which only shows that the sender is there).

        Frames must be sent in the order in which they were sealed. Raises `LocalProtocolError` when they are
        too many, too large or empty, `HandshakeError` when the channel has to be replaced.
        """
        pieces: list[bytes | bytearray] = []
        for part in parts:
            if not part:
                raise LocalProtocolError("a part of a frame cannot be empty")
            pieces += (len(part).to_bytes(LENGTH_BYTES, "little"), part)
        plain = b"".join(pieces)
        if len(plain) > MAX_PLAIN_BYTES or len(pieces) > 2 * MAX_PARTS:
            raise LocalProtocolError(
                f"a frame has at most {MAX_PLAIN_BYTES} bytes in {MAX_PARTS} parts, "
                f"this one {len(plain)} in {len(pieces) // 2}"
            )
        encrypt = self._sending.encrypt
        if len(plain) <= _PLAIN_RECORD:
            return encrypt(plain)
        return b"".join(
            encrypt(plain[start : start + _PLAIN_RECORD]) for start in range(0, len(plain), _PLAIN_RECORD)
        )

    def open(self, frame: bytes) -> list[memoryview]:
        """The parts of the next frame from the peer.

        Raises `MalformedMessage` for anything else; the channel is useless from then on.
        """
        if self._broken:
            raise MalformedMessage("an earlier frame of this channel was malformed")
        self._broken = True
        if not TAG_BYTES <= len(frame) <= MAX_FRAME_BYTES:
            raise MalformedMessage(f"a frame cannot have {len(frame)} bytes")
        decrypt = self._receiving.decrypt
        if len(frame) <= RECORD_BYTES:
            plain = decrypt(frame)
        else:
            plain = b"".join(
                [decrypt(frame[start : start + RECORD_BYTES]) for start in range(0, len(frame), RECORD_BYTES)]
            )
        parts = _split(memoryview(plain))
        self._broken = False
        return parts


class Initiator:
    """The dialling side of a handshake with the owner of `remote` (an Ed25519 public key)."""

    __slots__ = ("_handshake", "_identity", "_remote")

    def __init__(self, identity: Identity, remote: bytes, deployment: bytes) -> None:
        try:
            remote_static = exchange_key(remote)
        except InvalidItem as error:
            raise HandshakeError(f"cannot dial {remote.hex()[:16]}…: {error}") from None
        self._identity = identity
        self._remote = remote
        self._handshake = Handshake(
            initiator=True,
            prologue=_PROLOGUE + deployment,
            static=bytes(identity.exchange),
            remote_static=remote_static,
        )

    def __repr__(self) -> str:
        return f"Initiator(remote={self._remote.hex()[:16]}…, keys redacted)"

    def first(self) -> bytes:
        """Message 1, `HANDSHAKE_BYTES` long."""
        return self._handshake.write_first(self._identity.public)

    def finish(self, message: bytes) -> Channel:
        """The channel that message 2 completes. Raises `HandshakeError`."""
        if self._handshake.read_second(message):
            raise HandshakeError("message 2 carries a payload that the protocol does not have")
        return Channel(self._remote, *self._handshake.split())


def respond(
    identity: Identity, deployment: bytes, accept: Callable[[bytes], bool], message: bytes
) -> tuple[bytes, Channel]:
    """Answer message 1: (message 2, channel). `accept` says whether an Ed25519 public key may connect.

    Raises `HandshakeError`, before anything is to be sent, when the message is not from the owner of an
    accepted key who knows this deployment and this identity.
    """
    handshake = Handshake(initiator=False, prologue=_PROLOGUE + deployment, static=bytes(identity.exchange))
    if len(message) != HANDSHAKE_BYTES:
        raise HandshakeError(f"message 1 has {HANDSHAKE_BYTES} bytes, this one has {len(message)}")
    peer = handshake.read_first(message)
    try:
        proven = exchange_key(peer)
    except InvalidItem as error:
        raise HandshakeError(f"the dialling side names a key that is {error}") from None
    if proven != handshake.remote_static:
        raise HandshakeError(f"the dialling side names {peer.hex()[:16]}… but proved another key")
    if not accept(peer):
        raise HandshakeError(f"{peer.hex()[:16]}… is not enrolled in this deployment")
    answer = handshake.write_second()
    return answer, Channel(peer, *handshake.split())


def _split(plain: memoryview) -> list[memoryview]:
    parts: list[memoryview] = []
    start = 0
    while start < len(plain):
        length = int.from_bytes(plain[start : start + LENGTH_BYTES], "little")
        end = start + LENGTH_BYTES + length
        if length == 0 or end > len(plain):
            raise MalformedMessage("a frame ends inside a part, or holds an empty one")
        if len(parts) == MAX_PARTS:
            raise MalformedMessage(f"a frame holds more than {MAX_PARTS} parts")
        parts.append(plain[start + LENGTH_BYTES : end])
        start = end
    return parts
