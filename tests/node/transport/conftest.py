"""Endpoints on localhost whose handlers write down what happens, and a TCP proxy that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from blockbuster import BlockBuster, blockbuster_ctx
from websockets.asyncio.client import ClientConnection, connect

from asyncfl.channel import Channel, Initiator
from asyncfl.identity import Identity
from asyncfl.messages import Message, Pull
from node.blobs import BlobStore
from node.transport import Endpoint, Limits

DEPLOYMENT = b"d" * 32
QUICK = Limits(
    handshake_s=2.0,
    heartbeat_s=0.1,
    silence_s=1.0,
    stalled_write_s=5.0,
    close_s=0.3,
    retry_first_s=0.02,
    retry_base_s=0.05,
    retry_cap_s=0.2,
    stable_s=0.5,
    progress_s=1.0,
)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def nothing_blocks_the_event_loop() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as detector:
        yield detector


class Node:
    """An endpoint that serves its own blobs and records its events in order."""

    def __init__(self, net: Net, name: str, identity: Identity) -> None:
        self.net = net
        self.name = name
        self.identity = identity
        self.events: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.log: list[tuple[Any, ...]] = []
        self.messages: list[Message] = []
        self.serves = True
        self.endpoint: Endpoint
        self.blobs: BlobStore

    @property
    def key(self) -> bytes:
        return self.identity.public

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.endpoint.port}"

    def _record(self, *event: Any) -> None:
        self.log.append(event)
        self.events.put_nowait(event)

    def connected(self, peer: bytes) -> None:
        self._record("connected", peer)

    def disconnected(self, peer: bytes, reason: str) -> None:
        self._record("disconnected", peer, reason)

    def message(self, peer: bytes, message: Message) -> None:
        if isinstance(message, Pull) and self.serves:
            self.endpoint.send_blob(peer, message.blob, message.offset)
        else:
            self.messages.append(message)
            self._record("message", peer, message)

    def fetched(self, peer: bytes, digest: bytes) -> None:
        self._record("fetched", peer, digest)

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None:
        self._record("fetch_failed", peer, digest, reason)

    async def wait_for(self, kind: str, within: float = 10.0) -> tuple[Any, ...]:
        """The next event of this kind; others are passed over."""
        async with asyncio.timeout(within):
            while True:
                event = await self.events.get()
                if event[0] == kind:
                    return event

    async def store(self, data: bytes) -> bytes:
        return await asyncio.to_thread(self.blobs.write, data)

    async def load(self, digest: bytes) -> bytes:
        return await asyncio.to_thread(self.blobs.read, digest)


class Proxy:
    """Forwards TCP connections to a port until told otherwise."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self.limit: int | None = None
        """Bytes towards the dialler after which the connections are cut."""
        self.frozen = asyncio.Event()
        self.accepted = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self, target: int) -> None:
        self.target = target
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def freeze(self) -> None:
        """Keep the connections open but let nothing through any more."""
        self.frozen.set()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, there_writer]
        for source, sink, counted in ((reader, there_writer, False), (there_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, counted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self.frozen.is_set():
                    await asyncio.Event().wait()
                if counted and self.limit is not None:
                    self.limit -= len(data)
                    if self.limit < 0:
                        self.limit = None
                        self.cut()
                        return
                sink.write(data)
                await sink.drain()
        sink.close()


class Net:
    """Makes nodes and proxies, and takes them down again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []
        self.raws: list[ClientConnection] = []

    async def node(
        self,
        name: str,
        *,
        dial: dict[bytes, str] | None = None,
        listen: bool | int = True,
        accept: Callable[[bytes], bool] = lambda key: True,
        deployment: bytes = DEPLOYMENT,
        identity: Identity | None = None,
        start: bool = True,
        **limits: Any,
    ) -> Node:
        node = Node(self, name, identity or Identity.generate())
        node.blobs = await asyncio.to_thread(BlobStore, self.root / f"{name}-{len(self.nodes)}")
        port = 0 if listen is True else int(listen)
        node.endpoint = Endpoint(
            node.identity,
            deployment,
            handler=node,
            blobs=node.blobs,
            listen=None if listen is False else ("127.0.0.1", port),
            dial=dial or {},
            accept=accept,
            limits=replace(QUICK, **limits),
        )
        self.nodes.append(node)
        if start:
            await node.endpoint.start()
        return node

    async def pair(self, **limits: Any) -> tuple[Node, Node]:
        """A listener and one that dials it, connected."""
        server = await self.node("server", **limits)
        client = await self.node("client", listen=False, dial={server.key: server.url}, **limits)
        await server.wait_for("connected")
        await client.wait_for("connected")
        return server, client

    async def proxied(self, **limits: Any) -> tuple[Node, Node, Proxy]:
        """The same through a proxy."""
        server = await self.node("server", **limits)
        proxy = await self.proxy(server)
        client = await self.node("client", listen=False, dial={server.key: proxy.url}, **limits)
        await server.wait_for("connected")
        await client.wait_for("connected")
        return server, client, proxy

    async def proxy(self, server: Node) -> Proxy:
        proxy = Proxy()
        assert server.endpoint.port is not None
        await proxy.start(server.endpoint.port)
        self.proxies.append(proxy)
        return proxy

    async def raw(self, server: Node, **settings: Any) -> ClientConnection:
        """A WebSocket connection without any handshake of ours."""
        connection = await connect(
            server.url,
            compression=None,
            proxy=None,
            max_size=None,
            ping_interval=None,
            close_timeout=0.2,
            **settings,
        )
        self.raws.append(connection)
        return connection

    async def impostor(self, server: Node, identity: Identity) -> tuple[ClientConnection, Channel]:
        """An authenticated channel in the hands of software that does what it likes."""
        connection = await self.raw(server)
        initiator = Initiator(identity, server.key, DEPLOYMENT)
        await connection.send(initiator.first())
        answer = await connection.recv()
        assert isinstance(answer, bytes)
        channel = initiator.finish(answer)
        await connection.send(channel.seal(()))
        welcome = await connection.recv()
        assert isinstance(welcome, bytes)
        assert channel.open(welcome) == []
        return connection, channel

    async def close(self) -> None:
        for node in self.nodes:
            async with asyncio.timeout(10):
                await node.endpoint.close()
        for connection in self.raws:
            connection.transport.abort()
            await connection.wait_closed()
        for proxy in self.proxies:
            await proxy.close()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    before = asyncio.all_tasks()
    made = Net(tmp_path)
    yield made
    await made.close()
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}  # type: ignore[arg-type]
    assert not left, f"tasks outlive the endpoints that started them: {left}"


async def eventually(condition: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition to become true, with a deadline."""
    return eventually
