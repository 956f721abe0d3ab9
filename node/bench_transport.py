"""How fast blobs travel between two endpoints, against the same encrypted frames without any of our work.

(a) `endpoint`: chunks of blobs through two `Endpoint`s: read from disk, framed, encrypted, sent over
localhost, decrypted, decoded, hashed, written and synced. (b) `raw`: the same frames through the same Noise
ciphers and bare `websockets` connections, thrown away on arrival. Both run in one process and are meant for
uvloop; both count the work of sender and receiver. Medians over alternating repetitions within one run.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from asyncfl.channel import MAX_FRAME_BYTES, Channel, Initiator, respond
from asyncfl.errors import StorageError
from asyncfl.identity import Identity
from asyncfl.messages import CHUNK_BYTES, Chunk, Message, Pull, encode_message
from node.blobs import BlobStore
from node.transport import Endpoint

REPETITIONS: Final = 7
UPLOADS: Final = 16
"""Blobs in each repetition: a replica receives the uploads of several clients."""
COEFFICIENT_BITS: Final = 23
DEPLOYMENT: Final = bytes(32)


async def bench_transport(dim: int) -> dict[str, Any]:
    """Bytes in plus out per second at one node, for uploads of `dim` coefficients of 23 bits.

    Keys: `upload_bytes`, `endpoint_bytes_per_s`, `raw_bytes_per_s`, `ratio` (endpoint / raw,
    the median over repetitions, each of which measures both one after the other).
    """
    size = dim * COEFFICIENT_BITS // 8
    uploads = [secrets.token_bytes(size) for _ in range(UPLOADS)]
    endpoint: list[float] = []
    raw: list[float] = []
    with tempfile.TemporaryDirectory(prefix="asyncfl-bench-") as folder:
        for repetition in range(REPETITIONS):
            raw.append(await _raw(uploads))
            endpoint.append(await _endpoint(uploads, Path(folder) / str(repetition)))
    transferred = 2 * size * UPLOADS  # out of one node and into the other
    return {
        "upload_bytes": size,
        "endpoint_bytes_per_s": round(transferred / statistics.median(endpoint)),
        "raw_bytes_per_s": round(transferred / statistics.median(raw)),
        "ratio": round(statistics.median(r / e for r, e in zip(raw, endpoint, strict=True)), 3),
    }


class _Owner:
    """The handler of one benchmarked endpoint: serves PULLs, counts what was fetched."""

    def __init__(self) -> None:
        self.endpoint: Endpoint
        self.ready = asyncio.Event()
        self.done: asyncio.Queue[str | None] = asyncio.Queue()

    def connected(self, peer: bytes) -> None:
        self.ready.set()

    def disconnected(self, peer: bytes, reason: str) -> None:
        self.done.put_nowait(reason)

    def message(self, peer: bytes, message: Message) -> None:
        if isinstance(message, Pull):
            self.endpoint.send_blob(peer, message.blob, message.offset)

    def fetched(self, peer: bytes, digest: bytes) -> None:
        self.done.put_nowait(None)

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None:
        self.done.put_nowait(reason)

    def disk_refused(self, error: StorageError) -> None:
        self.done.put_nowait(str(error))


async def _endpoint(uploads: list[bytes], folder: Path) -> float:
    """Seconds from the first PULL to the last blob synced."""
    client, replica = Identity.generate(), Identity.generate()
    owners = _Owner(), _Owner()
    stores = [await asyncio.to_thread(BlobStore, folder / name) for name in ("replica", "client")]
    owners[0].endpoint = Endpoint(
        replica,
        DEPLOYMENT,
        handler=owners[0],
        blobs=stores[0],
        listen=("127.0.0.1", 0),
        dial={},
        accept=lambda key: key == client.public,
    )
    await owners[0].endpoint.start()
    owners[1].endpoint = Endpoint(
        client,
        DEPLOYMENT,
        handler=owners[1],
        blobs=stores[1],
        listen=None,
        dial={replica.public: f"ws://127.0.0.1:{owners[0].endpoint.port}"},
        accept=lambda key: False,
    )
    await owners[1].endpoint.start()
    try:
        digests = [await asyncio.to_thread(stores[1].write, upload) for upload in uploads]
        await owners[0].ready.wait()
        start = time.perf_counter()
        for digest, upload in zip(digests, uploads, strict=True):
            owners[0].endpoint.fetch(client.public, digest, len(upload))
        for _ in uploads:
            reason = await owners[0].done.get()
            if reason is not None:
                raise RuntimeError(f"the benchmark's transfer failed: {reason}")
        return time.perf_counter() - start
    finally:
        for owner in owners:
            await owner.endpoint.close()


async def _raw(uploads: list[bytes]) -> float:
    """Seconds for the same chunks, encrypted alike, between two bare WebSocket connections."""
    client, replica = Identity.generate(), Identity.generate()
    initiator = Initiator(client, replica.public, DEPLOYMENT)
    answer, receiving = respond(replica, DEPLOYMENT, lambda key: True, initiator.first())
    sending: Channel = initiator.finish(answer)
    chunks = [
        encode_message(Chunk(blob=bytes(32), offset=offset, data=upload[offset : offset + CHUNK_BYTES]))
        for upload in uploads
        for offset in range(0, len(upload), CHUNK_BYTES)
    ]
    arrived = asyncio.Event()

    async def receive(connection: ServerConnection) -> None:
        for _ in chunks:
            receiving.open(await connection.recv(decode=False))
        arrived.set()

    settings: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": MAX_FRAME_BYTES}
    async with serve(receive, "127.0.0.1", 0, **settings) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None, **settings) as connection:
            start = time.perf_counter()
            for chunk in chunks:
                await connection.send(sending.seal((chunk,)))
            await arrived.wait()
            return time.perf_counter() - start
