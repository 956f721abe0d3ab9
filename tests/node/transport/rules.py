"""What protects an endpoint, rule by rule: what holds it, the attack that it stops, and how much harm it lets pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.defects import Edit
from tests.node.transport import members, strangers


@dataclass(frozen=True)
class Rule:
    """`defect` names the code without it, which `edits` make; `attack` measures `harm`, at most `bound` with it."""

    defect: str
    what: str
    attack: Callable[[Any], Awaitable[float]]
    harm: str
    bound: float
    edits: tuple[Edit, ...]
    drill: str = ""
    """Which of `asyncfl_misbehaviour.assaults` does it."""


TRANSPORT = "node.transport."
ADMISSION = TRANSPORT + "connections:Guarded.data_received", "if not self._admitted:", "if False:"
PONGS = (
    TRANSPORT + "connections:Guarded.data_received",
    "if self.transport.get_write_buffer_size() > UNREAD_BYTES:",
    "if False:",
)
PER_ADDRESS = (
    TRANSPORT + "connections:Gate.enter",
    "or self._addresses[address] >= self.limits.unauthenticated_per_address",
    "",
)
IN_ALL = TRANSPORT + "connections:Gate.enter", "len(self._waiting) >= self.limits.unauthenticated", "False"

RULES = [
    # giant lengths
    Rule(
        "frames-of-strangers-of-any-length", "512 bytes a message and 8 KiB in all from somebody unknown",
        strangers.giant_frame, "MiB held of a stranger's message of 2^62 bytes", 0.3,
        ((TRANSPORT + "connections:common_settings", "FIRST_FRAMES_BYTES", "None"), ADMISSION),
        "giant-lengths",
    ),
    Rule(
        "frames-of-any-length", "a frame of more than 1 MiB is refused at its header",
        members.giant_frame, "MiB held of a member's message of 2^62 bytes", 1.3,
        ((TRANSPORT + "connections:Guarded.admit", "MAX_FRAME_BYTES", "None"),), "giant-lengths",
    ),
    Rule(
        "arrays-of-any-length", "the shape of a message is walked before anything is built",
        members.announced_arrays, "MiB allocated for a message of 12.5 kB", 2.0,
        (("asyncfl.wire:unpack", "_check_shape(data, elements)", "pass"),), "giant-lengths",
    ),
    # endless handshakes
    Rule(
        "handshakes-without-deadline", "10 s from the first packet to a channel",
        strangers.endless_handshakes, "connections held long after the deadline", 0,
        ((TRANSPORT + "connections:Gate.enter", "call_later(self.limits.handshake_s,", "call_later(3600.0,"),
         (TRANSPORT + "endpoint:Endpoint.start", "open_timeout=self._limits.handshake_s,", "open_timeout=None,")),
        "endless-handshakes",
    ),
    Rule(
        "strangers-without-limit", "64 unfinished handshakes of one address, 256 in all",
        strangers.crowd, "connections held of 100 strangers at one address", 64, (PER_ADDRESS,),
        "endless-handshakes",
    ),
    Rule(
        "one-address-takes-all-places", "64 of the 256 places for one address",
        strangers.crowd_in_all_places, "members elsewhere who cannot get in", 0, (PER_ADDRESS,),
        "endless-handshakes",
    ),
    Rule(
        "many-addresses-without-limit", "256 unfinished handshakes in all",
        strangers.crowd_of_many_addresses, "connections held of 40 strangers at 40 addresses, of 10 places", 10,
        (IN_ALL,), "endless-handshakes",
    ),
    Rule(
        "strangers-send-without-end", "8 KiB in all from somebody unknown",
        strangers.pings, "pings of a stranger that are answered", 81, (ADMISSION,), "endless-handshakes",
    ),
    Rule(
        "dials-without-deadline", "10 s for a dialled connection",
        strangers.mute_listener, "diallers that wait for ever", 0,
        ((TRANSPORT + "connections:dial", "open_timeout=limits.handshake_s,", "open_timeout=None,"),),
        "endless-handshakes",
    ),
    Rule(
        "answers-without-deadline", "10 s for a dialled handshake",
        strangers.listener_without_an_answer, "diallers that wait for ever", 0,
        ((TRANSPORT + "endpoint:Endpoint._keep_dialling", "asyncio.timeout(self._limits.handshake_s)",
          "asyncio.timeout(None)"),), "endless-handshakes",
    ),
    # who somebody is
    Rule(
        "strangers-admitted", "only enrolled keys get a channel",
        strangers.uninvited, "messages of a stranger that reach the machine", 0,
        (("asyncfl.channel:respond", "if not accept(peer):", "if False:"),), "garbage",
    ),
    Rule(
        "deployment-not-in-the-handshake", "the deployment's digest is in the handshake",
        strangers.another_deployment, "messages for another deployment that reach the machine", 0,
        (("asyncfl.channel:respond", "_PROLOGUE + deployment", '_PROLOGUE + b"d" * 32'),
         ("asyncfl.channel:Initiator.__init__", "_PROLOGUE + deployment", '_PROLOGUE + b"d" * 32')),
    ),
    Rule(
        "names-not-proven", "the key that is named is the one that was proven",
        strangers.impersonation, "messages in a member's name that reach the machine", 0,
        (("asyncfl.channel:respond", "if proven != handshake.remote_static:", "if False:"),),
    ),
    Rule(
        "handshakes-not-confirmed", "a channel counts once a frame was opened on it (decision 11)",
        strangers.replayed_handshake, "channels of a member that end", 0,
        ((TRANSPORT + "handshake:accept", "_expect_empty(channel, await _receive(connection))", "pass"),),
    ),
    Rule(
        "anywhere-a-server-says", "redirections are not followed",
        strangers.redirection, "connections to an address of the attacker's choice", 0,
        ((TRANSPORT + "connections:_Connect.process_redirect", "return exc",
          "return connect.process_redirect(self, exc)"),),
    ),
    # what arrives
    Rule(
        "frames-not-authenticated", "every record is authenticated",
        strangers.tampering, "messages that reach the machine and that nobody sent", 0,
        (("asyncfl.noise:CipherState.decrypt", "crypto_aead_chacha20poly1305_ietf_decrypt(",
          "(lambda sealed, *rest: crypto_aead_chacha20poly1305_ietf_encrypt(sealed[:-16], *rest)[:-16])("),),
    ),
    Rule(
        "records-not-counted", "every record has its number",
        strangers.replayed_frame, "messages delivered again", 0,
        (("asyncfl.noise:CipherState.decrypt", "self._nonce += 1", "pass"),
         ("asyncfl.noise:CipherState.encrypt", "self._nonce += 1", "pass")),
    ),
    Rule(
        "malformed-messages-forgiven", "what does not decode ends its channel",
        members.malformed_messages, "malformed messages that are read, of 100", 1,
        ((TRANSPORT + "link:Link._read", "message = decode_message(part)",
          "try:\n                message = decode_message(part)\n"
          "            except MalformedMessage:\n                continue"),), "garbage",
    ),
    Rule(
        "unasked-chunks-forgiven", "chunks that nobody asked for end their channel",
        members.unasked_chunks, "MiB of chunks read that nobody asked for, of 4", 0.1,
        ((TRANSPORT + "incoming:Fetches.take",
          'raise MalformedMessage(f"a chunk of blob {name}… that was not asked for")', "return"),), "flooding",
    ),
    Rule(
        "more-than-was-asked-for", "PULLs add up to all that may be sent",
        members.more_than_asked, "MiB of chunks read of a blob of 1000 bytes, of 4", 0.1,
        ((TRANSPORT + "incoming:Fetches.take", "if allowance.bytes < 0:", "if False:"),), "flooding",
    ),
    Rule(
        "content-not-compared", "what arrives has the digest that was asked for",
        members.another_content, "blobs kept under another's name", 0,
        (("node.blobs:Incoming.finish", "self.offset != self.size or self._hash.digest() != self.key[1]", "False"),),
    ),
    # slow reading
    Rule(
        "queues-without-limit", "16 MiB of messages queued for one peer (1 MiB here)",
        members.questions_unread, "MiB of answers queued for a peer that reads nothing", 1.0,
        ((TRANSPORT + "link:Link.send", "or self._control_bytes + len(encoded) > self._limits.control_bytes", ""),),
        "slow-reading",
    ),
    Rule(
        "read-ahead-without-limit", "four chunks read ahead for each peer",
        members.blobs_unread, "MiB of blobs held for a peer that reads nothing", 3.0,
        ((TRANSPORT + "outgoing:Outgoing.run", "or len(self._chunks) > self._limits.chunks_ahead // 2", ""),
         (TRANSPORT + "outgoing:Outgoing._read", "self._limits.chunks_ahead - len(self._chunks)", "64")),
        "slow-reading",
    ),
    Rule(
        "writes-without-waiting", "nothing more is written than a peer takes",
        members.blobs_unread, "MiB of blobs held for a peer that reads nothing", 3.0,
        ((TRANSPORT + "connections:common_settings", "1 << 18", "1 << 30"), PONGS), "slow-reading",
    ),
    Rule(
        "nothing-taken-for-ever", "a peer that takes nothing for 30 s is cut (0.3 s here)",
        members.nothing_taken, "channels held to a peer that takes nothing", 0,
        ((TRANSPORT + "link:Link._write", "asyncio.timeout(self._limits.stalled_write_s)",
          "asyncio.timeout(None)"),), "slow-reading",
    ),
    Rule(
        "requests-without-limit", "256 blobs asked for at once",
        members.requests_for_blobs, "requests held, of 2001", 256,
        ((TRANSPORT + "outgoing:Outgoing.add",
          "digest not in self._offsets and len(self._offsets) >= self._limits.outgoing_blobs", "False"),),
        "slow-reading",
    ),
    Rule(
        "pongs-pile-up", "a peer that pings and does not read is cut at 4 MiB",
        members.pings_unread, "MiB of pongs that wait to be taken", 8.0, (PONGS,), "slow-reading",
    ),
    # flooding
    Rule(
        "no-turn-for-others", "others get their turn after 5 ms",
        members.stream_without_a_pause, "messages of 1 ms handled before anybody else's turn, of 200", 10,
        ((TRANSPORT + "link:Link._read", "if loop.time() - resumed > BUSY_S:", "if False:"),), "flooding",
    ),
    Rule(
        "chunks-ahead-of-the-disk", "three chunks of a blob wait for the disk, then nothing is read",
        members.faster_than_the_disk, "MiB held of a blob of 12 MiB while the disk is stuck", 4.0,
        ((TRANSPORT + "incoming:Fetches._accept",
          "while len(fetch.chunks) >= self._limits.unwritten_chunks and fetch.digest in self._asked:",
          "while False:"),), "flooding",
    ),
    Rule(
        "frames-ahead-of-the-reader", "two frames wait to be read, then nothing is taken from the socket",
        members.faster_than_the_disk, "MiB held of a blob of 12 MiB while the disk is stuck", 4.0,
        ((TRANSPORT + "connections:common_settings", '"max_queue": (2, 1)', '"max_queue": None'),), "flooding",
    ),
    Rule(
        "messages-ahead-of-the-disk", "20 000 effects wait for the disk, then messages are dropped",
        members.overload, "effects queued of 30 000 messages while the disk is stuck", 20_001,
        (("node.runtime:Runtime.message", "len(self._queue) > MAX_QUEUED", "False"),), "flooding",
    ),
    # saying nothing
    Rule(
        "silent-peers-kept", "a peer from which nothing was heard for 6 s is gone (0.3 s here)",
        members.silence, "channels held to a peer that says nothing", 0,
        ((TRANSPORT + "endpoint:Endpoint._watch", "if loop.time() - connection.heard > silence:", "if False:"),),
    ),
    Rule(
        "fetches-without-deadline", "a fetch that gets nothing for 15 s fails (0.2 s here)",
        members.answers_withheld, "fetches that wait for ever", 0,
        ((TRANSPORT + "incoming:Fetches._progress", "asyncio.timeout(self._limits.progress_s)",
          "asyncio.timeout(None)"),),
    ),
]  # fmt: skip
