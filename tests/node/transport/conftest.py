"""Endpoints on localhost whose handlers write down what happens, and links between them that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
from blockbuster import BlockBuster, blockbuster_ctx
from chaos.link import LOCALHOST, Link
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from asyncfl.channel import Channel, Initiator
from asyncfl.errors import StorageError
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

    def disk_refused(self, error: StorageError) -> None:
        self._record("disk_refused", error)

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


class Net:
    """Makes nodes and links, and takes them down again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.links: list[Link] = []
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

    async def linked(self, **limits: Any) -> tuple[Node, Node, Link]:
        """The same over a link whose weather can be changed."""
        server = await self.node("server", **limits)
        link = await self.link(server)
        client = await self.node("client", listen=False, dial={server.key: link.url}, **limits)
        await server.wait_for("connected")
        await client.wait_for("connected")
        return server, client, link

    async def link(self, server: Node) -> Link:
        assert server.endpoint.port is not None
        link = Link((LOCALHOST, server.endpoint.port), Random(1))
        await link.start()
        self.links.append(link)
        return link

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
            if connection.state is not State.CLOSED:
                connection.transport.abort()
            await connection.wait_closed()
        for link in self.links:
            await link.close()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    before = asyncio.all_tasks()
    made = Net(tmp_path)
    yield made
    await made.close()
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    assert not left, f"tasks outlive the endpoints that started them: {left}"


async def eventually(condition: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition to become true, with a deadline."""
    return eventually
