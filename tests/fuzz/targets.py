"""What is fuzzed: every place where bytes of others (a peer, or a file: `file_targets`) become values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Final, cast

from asyncfl import masking
from asyncfl.channel import MAX_PARTS, Channel, Initiator, respond
from asyncfl.client import Client
from asyncfl.client.jobs import Trainer
from asyncfl.digest import content_digest
from asyncfl.effects import Blobs, Table
from asyncfl.errors import (
    ConfigurationError,
    HandshakeError,
    InvalidEvidence,
    InvalidItem,
    MalformedMessage,
    OpeningError,
    StorageError,
)
from asyncfl.evidence.kinds import EVIDENCE_TYPES, BadManifest, decode_evidence, encode_evidence
from asyncfl.evidence.verify import verify
from asyncfl.exclusions import Exclusions
from asyncfl.identity import Identity
from asyncfl.messages import (
    CHUNK_BYTES,
    Chunk,
    ExclusionStatement,
    Manifest,
    Missing,
    Pull,
    RosterStatement,
    chunk_head,
    decode_message,
    encode_message,
)
from asyncfl.model import LayoutError
from asyncfl.noise import CipherState, Handshake
from asyncfl.replica import Replica
from asyncfl.replica.jobs import OpenGroup, VerifyUpload
from asyncfl.rosters import Rosters
from asyncfl.simulation.network import MemoryBlobs
from asyncfl.wire import pack, unpack
from node.blobs import BlobStore, Incoming
from node.transport.incoming import Fetches
from node.transport.limits import Limits
from tests.deployment.test_deployment import TEXT
from tests.fuzz.file_targets import (
    run_deployment,
    run_experiment,
    run_key,
    run_model,
    seed_experiments,
    seed_keys,
    seed_models,
)
from tests.fuzz.harness import Target
from tests.fuzz.samples import frames, samples, smallest

PEER: Final = Identity(bytes([7]) * 32)
OURS: Final = Identity(bytes([8]) * 32)
DEPLOYMENT: Final = bytes([9]) * 32
KEY: Final = bytes([1]) * 32


# messages and rows


def run_message(data: bytes) -> None:
    """A frame part of an authenticated peer: what is taken has one encoding."""
    message = decode_message(data)
    assert encode_message(message) == data
    assert repr(message)


def run_row(data: bytes) -> None:
    """A row that a machine finds on its disk (its checksum held: another program wrote it)."""
    made = samples()
    value = unpack(data)
    if not (
        isinstance(value, tuple) and len(value) == 4 and all(isinstance(part, bytes) for part in value[2:])
    ):
        raise MalformedMessage("no row")
    side, number, key, row = value
    if side not in (0, 1):
        raise MalformedMessage("no machine")
    base = made.replica_rows if side == 0 else made.client_rows
    tables = list(Table)
    table = tables[number % len(tables)] if isinstance(number, int) else Table.META
    rows = {**base, table: {**base.get(table, {}), key: row}}
    if side == 0:
        replica = Replica(made.federation, made.replicas[0], rows, made.initial)
        replica.start(0.0)
        replica.status(0.0)
        replica.referenced_blobs()
    else:
        client = Client(made.federation, made.client, rows, trainer=cast(Trainer, None))
        client.start(0.0)
        client.status(0.0)
        client.referenced_blobs()


def seed_rows() -> list[bytes]:
    made, tables = samples(), list(Table)
    return [
        pack((side, tables.index(table), key, value))
        for side, base in ((0, made.replica_rows), (1, made.client_rows))
        for table, rows in base.items()
        for key, value in list(rows.items())[:2]
    ]


def run_rosters(data: bytes) -> None:
    """A statement with the operator's true signature, whatever it says."""
    made = samples()
    message = decode_message(data)
    if not isinstance(message, RosterStatement):
        raise InvalidItem("no statement")
    signature = made.operator.sign("roster", made.federation.digest, message.body())
    Rosters(made.federation).add(message.model_copy(update={"signature": signature}))


def run_exclusions(data: bytes) -> None:
    """The same of what is taken out of the model."""
    made = samples()
    message = decode_message(data)
    if not isinstance(message, ExclusionStatement):
        raise InvalidItem("no statement")
    signature = made.operator.sign("exclusion", made.federation.digest, message.body())
    Exclusions(made.federation).add(message.model_copy(update={"signature": signature}))


def run_evidence(data: bytes) -> None:
    """What somebody shows as proof against somebody else."""
    federation = samples().federation
    evidence = decode_evidence(data)
    assert encode_evidence(evidence) == data
    verify(federation, evidence)


def seed_evidence() -> list[bytes]:
    made = samples()
    found = [encode_evidence(smallest(kind)) for kind in EVIDENCE_TYPES]
    for manifest, _ in made.uploads[:2]:
        # Nothing is wrong with them: every check of a manifest is made, and none convicts.
        found += [encode_evidence(kind(manifest=manifest)) for kind in (BadManifest,)]
    return found


# uploads


def run_upload(data: bytes) -> None:
    """A manifest that its client has signed, whatever it says, and a payload: all that a replica checks."""
    made = samples()
    value = unpack(data)
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], bytes)):
        raise MalformedMessage("no upload")
    manifest, payload = Manifest.from_fields(value[0]), value[1]
    if data[-1] % 2:  # or else the digest would end nearly everything
        manifest = manifest.model_copy(
            update={"core": manifest.core.model_copy(update={"upload": content_digest(payload)})}
        )
    signature = made.client.sign(Manifest.KIND, made.federation.digest, manifest.body())
    manifest = manifest.model_copy(update={"signature": signature})
    blobs = MemoryBlobs()
    blobs.data[manifest.core.upload] = payload
    masking.check_manifest(manifest, made.federation)
    VerifyUpload(manifest, 0, made.replicas[0], made.federation).run(blobs)


def seed_uploads() -> list[bytes]:
    made = samples()
    return [pack((made.upload.to_fields(), made.payload))]


def run_opening(data: bytes) -> None:
    """Answers of liars, and an ENTRY's claim, for a group of one."""
    made = samples()
    manifest, payload = made.upload, made.payload
    value = unpack(data)
    if not (isinstance(value, tuple) and len(value) == 5 and all(isinstance(part, bytes) for part in value)):
        raise InvalidItem("no answers")
    if any(len(part) > 8192 for part in value):
        raise InvalidItem("longer than a message's field may be")
    blobs = MemoryBlobs()
    blobs.data[manifest.core.upload] = payload
    answers = dict(enumerate(value[:4]))
    OpenGroup([manifest.core.upload], answers, value[4] or None, made.federation).run(cast(Blobs, blobs))


def seed_answers() -> list[bytes]:
    made = samples()
    manifest, federation = made.upload, made.federation
    shares = [
        masking.open_share(manifest, j, identity, federation) for j, identity in enumerate(made.replicas)
    ]
    secret = masking.find_secret([lambda: made.payload], dict(enumerate(shares)), federation)
    return [pack((*shares, last)) for last in (b"", secret)]


# the channel


def run_frame(data: bytes) -> None:
    """What an authenticated peer put into a frame, decrypted and cut into messages."""
    size = 65535 - 16
    sealing = CipherState(KEY)
    frame = b"".join(sealing.encrypt(data[at : at + size]) for at in range(0, max(1, len(data)), size))
    parts = Channel(PEER.public, CipherState(KEY), CipherState(KEY)).open(frame)
    assert len(parts) <= MAX_PARTS
    for part in parts:
        decode_message(part)


def seed_frames() -> list[bytes]:
    encoded = frames()
    framed = [len(part).to_bytes(4, "little") + part for part in encoded]
    return [b"", *framed[:20], b"".join(framed[:8]), b"".join(framed[:2]) * 32]


def run_record(data: bytes) -> None:
    """A frame as it came off the network, with whatever the network did to it, and the frame after it."""
    channel = Channel(PEER.public, CipherState(KEY), CipherState(KEY))
    channel.open(data)
    channel.open(data)  # a replay is never taken


def seed_records() -> list[bytes]:
    return [
        Channel(PEER.public, CipherState(KEY), CipherState(KEY)).seal(parts)
        for parts in ([], [b"one"], frames()[:9])
    ]


def run_first(data: bytes) -> None:
    """Message 1 of a stranger."""
    answer, channel = respond(OURS, DEPLOYMENT, lambda peer: peer == PEER.public, data)
    assert len(answer) == 48
    assert channel.peer == PEER.public


def seed_first() -> list[bytes]:
    return [Initiator(PEER, OURS.public, DEPLOYMENT).first() for _ in range(4)]


def run_crafted(data: bytes) -> None:
    """Message 1 by the protocol, of whatever static key and payload somebody likes."""
    handshake = Handshake(
        initiator=True, prologue=b"asyncfl/1" + DEPLOYMENT, static=data[:32].ljust(32, b"\1"),
        remote_static=bytes(OURS.exchange.public_key),
    )  # fmt: skip
    respond(OURS, DEPLOYMENT, lambda peer: True, handshake.write_first(data[32:]))


def seed_crafted() -> list[bytes]:
    return [bytes(PEER.exchange) + PEER.public, bytes(OURS.exchange) + OURS.public, bytes(32) + bytes(32)]


def run_second(data: bytes) -> None:
    """Message 2 of whoever answered the dial."""
    initiator = Initiator(PEER, OURS.public, DEPLOYMENT)
    initiator._handshake = _fixed_handshake()
    initiator.first()
    initiator.finish(data)


def _fixed_handshake() -> Handshake:
    return Handshake(
        initiator=True, prologue=b"asyncfl/1" + DEPLOYMENT, static=bytes(PEER.exchange),
        remote_static=bytes(OURS.exchange.public_key), ephemeral=bytes([3]) * 32,
    )  # fmt: skip


def seed_second() -> list[bytes]:
    first = _fixed_handshake().write_first(PEER.public)
    return [respond(OURS, DEPLOYMENT, lambda peer: True, first)[0] for _ in range(4)]


class _Blob(Incoming):
    """An incoming blob without a disk."""

    def __init__(self, size: int) -> None:
        self.offset, self.size = 0, size

    def append(self, chunks: Iterable[bytes | memoryview]) -> None:
        self.offset += sum(map(len, chunks))
        assert self.offset <= self.size

    def suspend(self) -> None: ...
    def discard(self) -> None: ...

    def finish(self) -> None:
        assert self.offset == self.size
        raise InvalidItem("it does not have its digest")


def _fail(error: StorageError) -> None:
    raise AssertionError("no input makes the disk refuse") from error


WANTED: Final = {bytes([i]) * 32: size for i, size in ((1, 10), (2, 300_000), (3, 1))}


def run_transfer(data: bytes) -> None:
    """Chunks and answers of a peer that was asked for three blobs, in whatever order and number."""
    value = unpack(data)
    if not isinstance(value, tuple):
        raise MalformedMessage("no parts")
    parts = [part for part in value if isinstance(part, bytes)]
    _loop().run_until_complete(_transfer(parts[:64]))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


async def _transfer(parts: list[bytes]) -> None:
    async def in_thread(call: Callable[..., object], *arguments: object) -> object:
        return call(*arguments)

    store = SimpleNamespace(has=lambda digest: False, receive=lambda peer, digest, size: _Blob(size))
    asked: list[Pull] = []
    fetches = Fetches(
        PEER.public, blobs=cast(BlobStore, store), in_thread=cast(Callable[..., Awaitable[object]], in_thread),
        limits=Limits(), send=lambda pull: asked.append(pull) is None, fetched=lambda digest: None,
        failed=lambda digest, reason: None, predecessor=None, disk_refused=_fail,
    )  # fmt: skip
    for digest, size in WANTED.items():
        fetches.fetch(digest, size)
    try:
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(asked) == len(WANTED)
        for part in parts:
            # A reader may wait for the disk; this disk is never behind for long.
            async with asyncio.timeout(5):
                if await fetches.take_expected(memoryview(part)):
                    continue
                message = decode_message(part)
                if isinstance(message, Chunk):
                    await fetches.take(message)
                elif isinstance(message, Missing):
                    fetches.missing(message.blob)
            await asyncio.sleep(0)
    finally:
        tasks = list(fetches._tasks)
        fetches.close("the end")
        await asyncio.gather(*tasks)


def seed_transfers() -> list[bytes]:
    def chunks(digest: bytes, size: int) -> list[bytes]:
        starts = range(0, size, CHUNK_BYTES)
        lengths = [min(CHUNK_BYTES, size - at) for at in starts]
        return [
            chunk_head(digest, at, length) + bytes(length) for at, length in zip(starts, lengths, strict=True)
        ]

    whole = {digest: chunks(digest, size) for digest, size in WANTED.items()}
    small = [chunk_head(digest, 0, 1) + b"x" for digest in WANTED]
    missing = [encode_message(Missing(blob=digest)) for digest in WANTED]
    one, two, three = whole.values()
    return [
        pack((*one, *three)),
        pack((*two,)),
        pack((*small, *missing)),
        pack((*missing, *one)),
        pack((*one, *one)),
    ]


MIB: Final = 1 << 20
_ITEMS: Final = (InvalidItem, MalformedMessage)
_FILES: Final = (LayoutError, ConfigurationError, StorageError)

TARGETS: Final = {
    target.name: target
    for target in (
        Target("message", run_message, lambda: list(frames()), (MalformedMessage,), "msgpack"),
        Target("row", run_row, seed_rows, (StorageError, MalformedMessage), "msgpack", slack=4 * MIB),
        Target("roster", run_rosters, lambda: list(frames(RosterStatement)), _ITEMS, "msgpack"),
        Target("exclusion", run_exclusions, lambda: list(frames(ExclusionStatement)), _ITEMS, "msgpack"),
        Target("evidence", run_evidence, seed_evidence, (InvalidEvidence, MalformedMessage), "msgpack", slack=4 * MIB),
        Target("upload", run_upload, seed_uploads, _ITEMS, "msgpack", slack=4 * MIB),
        Target("opening", run_opening, seed_answers, (OpeningError, *_ITEMS), "msgpack", slack=4 * MIB),
        Target("frame", run_frame, seed_frames, (MalformedMessage,)),
        Target("record", run_record, seed_records, (MalformedMessage,)),
        Target("handshake-first", run_first, seed_first, (HandshakeError,)),
        Target("handshake-crafted", run_crafted, seed_crafted, (HandshakeError,)),
        Target("handshake-second", run_second, seed_second, (HandshakeError,)),
        Target("transfer", run_transfer, seed_transfers, (MalformedMessage,), "msgpack", 64, 4 * MIB, MIB // 2),
        Target("deployment", run_deployment, lambda: [TEXT.encode()], _FILES, "toml", 512, 4 * MIB),
        Target("experiment", run_experiment, seed_experiments, _FILES, "toml", 512, 4 * MIB),
        Target("key-file", run_key, seed_keys, _FILES),
        Target("model-file", run_model, seed_models, _FILES, slack=4 * MIB),
    )
}  # fmt: skip
