"""One identity's presence on the network: its server, its dialled peers, one live channel for each.

The newest authenticated channel of a peer wins. When both sides dialled each other at once, the one dialled
by the smaller public key stays: both sides decide alike, so neither closes what the other keeps.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.frames import CloseCode
from websockets.uri import parse_uri

from asyncfl.channel import Channel
from asyncfl.errors import ConfigurationError, HandshakeError, LocalProtocolError, StorageError
from asyncfl.identity import Identity
from asyncfl.messages import Message, encode_message
from asyncfl.wire import MAX_MESSAGE_BYTES
from node.blobs import BlobStore
from node.transport.connections import (
    Gate,
    Guarded,
    GuardedServerConnection,
    common_settings,
    dial,
    server_connection,
)
from node.transport.dialer import Backoff
from node.transport.handshake import accept as accept_handshake
from node.transport.handshake import initiate
from node.transport.incoming import Fetches
from node.transport.limits import Limits
from node.transport.link import DUPLICATE, REPLACED, Counters, Link
from node.transport.outgoing import Outgoing

log = structlog.get_logger("transport")

DISK_THREADS: Final = 4
UNCONNECTED_S: Final = 0.1
"""A fetch from an unconnected peer fails after this wait, so that asking again at once cannot spin."""


class Handler(Protocol):
    """What an endpoint tells its owner, always from the event loop. Methods must return quickly."""

    def connected(self, peer: bytes) -> None: ...

    def disconnected(self, peer: bytes, reason: str) -> None: ...

    def message(self, peer: bytes, message: Message) -> None: ...

    def fetched(self, peer: bytes, digest: bytes) -> None: ...

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None: ...

    def disk_refused(self, error: StorageError) -> None:
        """What arrived could not be kept: nothing that the peer can help."""
        ...


class Endpoint:
    """Channels between `identity` and its peers in one deployment.

    `listen` is (host, port), port 0 for any, or None; `dial` maps the Ed25519 keys of peers to keep connected
    to their ``ws://`` or ``wss://`` URLs; `accept` says whether a key may connect to us. To be used from one
    event loop.
    """

    def __init__(
        self,
        identity: Identity,
        federation_digest: bytes,
        *,
        handler: Handler,
        blobs: BlobStore,
        listen: tuple[str, int] | None,
        dial: Mapping[bytes, str],
        accept: Callable[[bytes], bool],
        limits: Limits | None = None,
    ) -> None:
        for peer, url in dial.items():
            try:
                parse_uri(url)
            except InvalidURI:
                raise ConfigurationError(
                    f"{url!r}, the address of {peer.hex()[:16]}…, is not of the form ws://host:port"
                ) from None
        self.identity = identity
        self.counters = Counters()
        self._deployment = federation_digest
        self._handler = handler
        self._blobs = blobs
        self._listen = listen
        self._dial = dict(dial)
        self._accept = accept
        self._limits = limits or Limits()
        self._gate = Gate(self._limits)
        self._links: dict[bytes, Link] = {}
        self._free: dict[bytes, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._pool = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="blobs")
        self._server: Server | None = None
        self._closing = False

    def __repr__(self) -> str:
        return f"Endpoint({self.identity.public.hex()[:16]}…, {len(self._links)} channels)"

    @property
    def peers(self) -> frozenset[bytes]:
        """The keys of connected peers."""
        return frozenset(self._links)

    @property
    def port(self) -> int | None:
        """The port that is listened on, once started."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else None

    async def start(self) -> None:
        """Listen and dial. Raises `ConfigurationError` when the address cannot be listened on."""
        if self._listen is not None:
            host, port = self._listen
            try:
                self._server = await serve(
                    self._serve,
                    host,
                    port,
                    create_connection=server_connection(self._gate),
                    open_timeout=self._limits.handshake_s,
                    server_header=None,
                    **common_settings(self._limits),
                )
            except OSError as error:
                raise ConfigurationError(_listen_failure(host, port, error)) from error
        for peer, url in self._dial.items():
            self._free[peer] = asyncio.Event()
            self._free[peer].set()
            self._spawn(self._keep_dialling(peer, url), f"dial {peer.hex()[:16]}")
        self._spawn(self._watch(), "watch channels")

    async def close(self) -> None:
        """Close every channel and wait for everything that this endpoint started."""
        self._closing = True
        for timer in self._timers:
            timer.cancel()
        if self._server is not None:
            self._server.close(close_connections=False)  # first of all, so that nobody new comes in
        links = list(self._links.values())
        for link in links:
            link.stop("this side is shutting down", CloseCode.GOING_AWAY)
        for link in links:
            await link.ended.wait()  # no longer than `close_s`, and all at the same time
            await link.fetches.wait_closed()
        dialling = [task for task in self._tasks if not task.done()]
        for task in dialling:
            task.cancel()
        if dialling:
            await asyncio.wait(dialling)
        self._gate.drop_all()
        if self._server is not None:
            await self._server.wait_closed()
        self._pool.shutdown(wait=False)

    def send(self, peer: bytes, message: Message) -> bool:
        """Queue `message` for `peer`, without ever waiting.

        False: dropped and counted, because there is no channel or the peer's queue is full.
        """
        encoded = encode_message(message)
        if len(encoded) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(
                f"{type(message).__name__} has {len(encoded)} bytes, more than {MAX_MESSAGE_BYTES}"
            )
        link = self._links.get(peer)
        if link is not None and link.send(encoded):
            return True
        self.counters.dropped += 1
        log.debug(
            "message_dropped",
            peer=peer.hex()[:16],
            type=type(message).__name__,
            reason="not connected" if link is None else "its queue is full",
        )
        return False

    def send_blob(self, peer: bytes, digest: bytes, offset: int) -> None:
        """Stream a blob in the background; MISSING is sent when it is not in the store."""
        link = self._links.get(peer)
        if link is None or not link.outgoing.add(digest, offset):
            self.counters.dropped += 1
            log.debug("blob_dropped", peer=peer.hex()[:16], blob=digest.hex()[:16])

    def fetch(self, peer: bytes, digest: bytes, size: int) -> None:
        """Pull a blob of exactly `size` bytes; ends with the handler's `fetched` or `fetch_failed`."""
        link = self._links.get(peer)
        if link is not None and not link.stopped:
            link.fetches.fetch(digest, size)
            return

        def fail() -> None:
            self._timers.discard(timer)
            self._fetch_failed(peer, digest, f"{peer.hex()[:16]}… is not connected")

        timer = asyncio.get_running_loop().call_later(UNCONNECTED_S, fail)
        self._timers.add(timer)

    async def _serve(self, websocket: ServerConnection) -> None:
        assert isinstance(websocket, GuardedServerConnection)
        try:
            # The gate's timer, running since the first packet, is the deadline.
            channel = await accept_handshake(websocket, self.identity, self._deployment, self._accept)
        except HandshakeError as error:
            self.counters.handshakes_refused += 1
            log.info("handshake_refused", address=websocket.address, reason=str(error))
            websocket.drop()
            return
        except Exception:
            log.exception("handshake_failed", address=websocket.address, reason="a bug on this side")
            websocket.drop()
            return
        await self._carry(websocket, channel, initiated=False)

    async def _keep_dialling(self, peer: bytes, url: str) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._limits)
        said: str | None = None
        while True:
            await self._free[peer].wait()
            try:
                connection = await dial(url, self._limits)
                try:
                    async with asyncio.timeout(self._limits.handshake_s):
                        channel = await initiate(connection, self.identity, peer, self._deployment)
                except BaseException:
                    connection.drop()
                    raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if not isinstance(error, OSError | TimeoutError | WebSocketException | HandshakeError):
                    log.exception("dial_failed", peer=peer.hex()[:16], reason="a bug on this side")
                wait = backoff.next()
                # The same failure again is news to nobody.
                (log.debug if reason == said else log.warning)(
                    "dial_failed", peer=peer.hex()[:16], url=url, reason=reason, retry_s=round(wait, 2)
                )
                said = reason
                await asyncio.sleep(wait)
                continue
            said = None
            since = loop.time()
            code = await self._carry(connection, channel, initiated=True)
            if loop.time() - since >= self._limits.stable_s and code != REPLACED:
                backoff.reset()
            if code == REPLACED:
                log.warning("replaced", peer=peer.hex()[:16], reason="another process uses this identity")
            await asyncio.sleep(backoff.next())

    async def _carry(self, connection: Guarded, channel: Channel, *, initiated: bool) -> int | None:
        """Register a channel and run it to its end. Returns the close code that the peer gave, if any."""
        peer = channel.peer
        link = Link(
            connection,
            channel,
            initiated=initiated,
            limits=self._limits,
            counters=self.counters,
            outgoing=lambda ready: Outgoing(self._blobs, self._in_thread, self._limits, ready),
            deliver=self._handler.message,
        )
        old = self._links.get(peer)
        if self._closing or (old is not None and not old.stopped and not self._supersedes(link, old)):
            await connection.close(DUPLICATE, "another channel stays")
            connection.drop()
            return DUPLICATE
        link.fetches = Fetches(
            peer,
            blobs=self._blobs,
            in_thread=self._in_thread,
            limits=self._limits,
            send=partial(self.send, peer),
            fetched=partial(self._handler.fetched, peer),
            failed=partial(self._fetch_failed, peer),
            disk_refused=self._handler.disk_refused,
            predecessor=old.fetches if old is not None else None,
        )
        if old is not None:
            self._retire(old, "replaced by a newer channel", REPLACED)
        self._links[peer] = link
        if peer in self._free:
            self._free[peer].clear()
        log.info("connected", peer=peer.hex()[:16], initiated=initiated)
        self._handler.connected(peer)
        reason = "cancelled"
        try:
            reason = await link.run()
        finally:
            self._retire(link, reason, CloseCode.NORMAL_CLOSURE)
            await link.fetches.wait_closed()
            if self._links.get(peer) is link:
                del self._links[peer]
                if peer in self._free:
                    self._free[peer].set()
        return link.close_code

    def _retire(self, link: Link, reason: str, code: int) -> None:
        """Take a channel out of use; its owner hears of it once."""
        if link.retired:
            return
        link.retired = True
        link.stop(reason, code)
        link.fetches.close(f"{link.peer.hex()[:16]}… was disconnected: {reason}")
        log.info("disconnected", peer=link.peer.hex()[:16], reason=reason)
        self._handler.disconnected(link.peer, reason)

    def _supersedes(self, new: Link, old: Link) -> bool:
        if new.initiated == old.initiated:
            return True
        return new.initiated == (self.identity.public < new.peer)

    async def _watch(self) -> None:
        """Show every peer that we are there, and cut those that are not."""
        loop = asyncio.get_running_loop()
        interval, silence = self._limits.heartbeat_s, self._limits.silence_s
        while True:
            slept_at = loop.time()
            await asyncio.sleep(interval)
            # After a pause of this process itself, what the peers sent meanwhile is still unread.
            overslept = loop.time() - slept_at > 2 * interval
            for link in list(self._links.values()):
                connection = link.connection
                if overslept or not connection.reading:
                    connection.heard = loop.time()
                if loop.time() - connection.heard > silence:
                    link.stop(f"nothing was heard from it for {silence:g} s", abruptly=True)
                else:
                    connection.beat()

    def _fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None:
        log.info("fetch_failed", peer=peer.hex()[:16], blob=digest.hex()[:16], reason=reason)
        self._handler.fetch_failed(peer, digest, reason)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _listen_failure(host: str, port: int, error: OSError) -> str:
    where = f"cannot listen on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use; stop what uses it or change the address in the deployment"
    if error.errno == errno.EACCES:
        return f"{where}: not permitted; ports below 1024 need privileges"
    return f"{where}: {error.strerror or error}"
