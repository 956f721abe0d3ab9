"""Virtual time, connections, crashes: what stands in for sockets, disks and clocks."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from asyncfl.digest import content_digest
from asyncfl.effects import (
    Compute,
    DeleteBlob,
    Effect,
    Fetch,
    Job,
    Machine,
    Notify,
    Persist,
    Put,
    Send,
    SendBlob,
    Table,
)
from asyncfl.errors import BlobMissing
from asyncfl.messages import Message, Missing, Pull

FETCH_SECONDS: Final = 15.0
"""How long a fetch may go without progress, as with the real transport."""

Durable = dict[Table, dict[bytes, bytes]]


class MemoryBlobs:
    """A content-addressed store in memory."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def read(self, digest: bytes) -> bytes:
        try:
            return self.data[digest]
        except KeyError:
            raise BlobMissing(f"blob {digest.hex()[:12]} is not stored") from None

    def write(self, data: bytes) -> bytes:
        digest = content_digest(data)
        self.data[digest] = data
        return digest

    def has(self, digest: bytes) -> bool:
        return digest in self.data


@dataclass
class Node:
    """One party: a machine made from its durable state, and that state."""

    name: str
    key: bytes
    make: Callable[[Durable], Machine]
    compute_seconds: Callable[[tuple[Any, ...]], float]
    durable: Durable = field(default_factory=lambda: {table: {} for table in Table})
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    machine: Machine | None = None
    life: int = 0
    """Counts restarts, so that what was under way before a crash finds nobody."""
    fetching: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    """Blobs asked for: (peer, digest), and which attempt it is."""
    events: list[tuple[float, Notify]] = field(default_factory=list)
    clock: Callable[[float], float] = lambda now: now
    """What this node's own clock shows at a virtual time: clocks may be off, and run fast or slow."""


class Network:
    """Connects nodes pairwise where `linked` allows, and moves virtual time (seconds) forward."""

    def __init__(
        self,
        seed: int,
        *,
        latency: tuple[float, float] = (0.005, 0.05),
        tick: float = 0.1,
        linked: Callable[[Node, Node], bool] = lambda a, b: True,
    ) -> None:
        self.now = 0.0
        self.nodes: dict[bytes, Node] = {}
        self.rng = np.random.default_rng(seed)
        self.latency = latency
        self.tick_seconds = tick
        self.linked = linked
        self.delivered = 0
        self.on_message: Callable[[Node, Node, Message], Message | None] = lambda source, target, message: (
            message
        )
        """Sees every message as it is sent; may replace it, or drop it by returning None."""
        self.before_effect: Callable[[Node, Effect], None] = lambda node, effect: None
        """Sees every effect before it is carried out; may crash the node."""
        self.hold: Callable[[Node, Node, Message], float] = lambda source, target, message: 0.0
        """Seconds that a message (and all behind it on its connection) is kept for, besides the latency."""
        self.duplicates = 0.0
        """Probability that a message arrives twice."""
        self.prepare: Callable[[Node, Job], Job] = lambda node, job: job
        """Sees every job before it runs; may replace it."""
        self.on_failure: Callable[[Node, Exception], bool] = lambda node, error: False
        """Told of what a machine raises; False: it is raised."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._drawn: list[float] = []
        """Uniform numbers drawn ahead, the next one last."""
        self._cut: set[frozenset[bytes]] = set()
        self._connections: dict[bytes, dict[bytes, int]] = defaultdict(dict)
        """The number of the connection by either end, then by the other."""
        self._last_arrival: dict[tuple[bytes, bytes], float] = {}

    # parties

    def add(self, node: Node) -> None:
        self.nodes[node.key] = node

    def start(self, key: bytes) -> None:
        """(Re)start a node from its durable state."""
        node = self.nodes[key]
        node.life += 1
        node.fetching.clear()
        node.machine = node.make({table: dict(rows) for table, rows in node.durable.items()})
        self._on(node, "start")
        self._schedule_tick(node, node.life)
        for other in self.nodes.values():
            self._connect(node, other)

    def crash(self, key: bytes) -> None:
        """Lose everything that is not durable."""
        node = self.nodes[key]
        node.machine = None
        node.life += 1
        for other in self.nodes.values():
            self._disconnect(node, other)

    def is_up(self, key: bytes) -> bool:
        return self.nodes[key].machine is not None

    def cut(self, a: bytes, b: bytes) -> None:
        """Break the link between two nodes until `heal`."""
        self._cut.add(frozenset((a, b)))
        self._disconnect(self.nodes[a], self.nodes[b])

    def heal(self, a: bytes, b: bytes) -> None:
        self._cut.discard(frozenset((a, b)))
        self._connect(self.nodes[a], self.nodes[b])

    def _connect(self, a: Node, b: Node) -> None:
        if a is b or a.machine is None or b.machine is None or b.key in self._connections[a.key]:
            return
        if frozenset((a.key, b.key)) in self._cut or not self.linked(a, b):
            return
        self._count += 1
        connection = self._connections[a.key][b.key] = self._connections[b.key][a.key] = self._count
        for node, peer in ((a, b), (b, a)):
            self._deliver(node, peer.key, connection, partial(self._on, node, "connected", peer.key))

    def _disconnect(self, a: Node, b: Node) -> None:
        if self._connections[a.key].pop(b.key, None) is None:
            return
        del self._connections[b.key][a.key]
        self._last_arrival.pop((a.key, b.key), None)
        self._last_arrival.pop((b.key, a.key), None)
        for node, peer in ((a, b), (b, a)):
            if node.machine is None:
                continue
            self._on(node, "disconnected", peer.key)
            for source, digest in list(node.fetching):
                if source == peer.key:
                    self._fail_fetch(node, source, digest, "the peer is gone")

    # time

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` at now + seconds."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, action))

    def run(self, *, until: Callable[[], bool] | None = None, seconds: float = 3600.0) -> bool:
        """Advance until `until()` holds (checked after every event); False if `seconds` pass first."""
        deadline, queue = self.now + seconds, self._queue
        while queue:
            if until is not None and until():
                return True
            if queue[0][0] > deadline:
                break
            time, _, action = heapq.heappop(queue)
            self.now = max(self.now, time)
            action()
        self.now = deadline
        return until is not None and until()

    def _schedule_tick(self, node: Node, life: int) -> None:
        def act() -> None:
            if node.machine is not None and node.life == life:
                self._on(node, "tick")
                self._schedule_tick(node, life)

        self.after(self.tick_seconds, act)

    def _uniform(self) -> float:
        """A number in [0, 1), as `self.rng.random()` would give it; many are drawn at once."""
        if not self._drawn:
            self._drawn = self.rng.random(1024).tolist()[::-1]
        return self._drawn.pop()

    def _deliver(
        self, target: Node, source: bytes, connection: int, action: Callable[[], None], held: float = 0.0
    ) -> None:
        """In order within a connection; lost if the connection has gone by then."""
        (low, high), link, links = self.latency, (source, target.key), self._connections[target.key]
        arrival = self.now + low + (high - low) * self._uniform() + held
        arrival = self._last_arrival[link] = max(arrival, self._last_arrival.get(link, 0.0))

        def act() -> None:
            if links.get(source) == connection and target.machine is not None:
                self.delivered += 1
                action()

        self.after(arrival - self.now, act)

    def deliver(self, target: Node, source: bytes, message: Message) -> None:
        """A message of somebody who is no node of this network, at once."""
        self._on(target, "receive", source, message)

    # effects

    def _on(self, node: Node, event: str, *arguments: Any) -> None:
        if node.machine is None:
            return
        try:
            effects = getattr(node.machine, event)(*arguments, node.clock(self.now))
        except Exception as error:
            if not self.on_failure(node, error):
                raise
            return
        self._execute(node, effects)

    def _execute(self, node: Node, effects: Iterable[Effect]) -> None:
        life = node.life
        for effect in effects:
            self.before_effect(node, effect)
            if node.life != life or node.machine is None:
                return
            self._carry_out(node, effect)

    def _carry_out(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                self._send(node, peer, message)
            case Persist(writes):
                for write in writes:
                    if isinstance(write, Put):
                        node.durable[write.table][write.key] = write.value
                    else:
                        node.durable[write.table].pop(write.key, None)
            case SendBlob(peer, digest, _):
                self._send_blob(node, peer, digest)
            case Fetch(peer, digest, _):
                self._fetch(node, peer, digest)
            case DeleteBlob(digest):
                if node.machine is not None and not node.machine.needs(digest):
                    node.blobs.data.pop(digest, None)
            case Compute(key, job):
                self._compute(node, key, job)
            case Notify():
                node.events.append((self.now, effect))

    def _send(self, node: Node, peer: bytes, message: Message) -> None:
        connection = self._connections[node.key].get(peer)
        target = self.nodes.get(peer)
        if connection is None or target is None:
            return
        seen = self.on_message(node, target, message)
        if seen is None:
            return
        if isinstance(seen, Missing):
            blob = seen.blob
            self._deliver(
                target, node.key, connection, lambda: self._fail_fetch(target, node.key, blob, "missing")
            )
            return
        held = self.hold(node, target, seen)
        duplicate = self.duplicates > 0 and self._uniform() < self.duplicates
        arrive = partial(self._on, target, "receive", node.key, seen)
        self._deliver(target, node.key, connection, arrive, held)
        if duplicate:
            self._deliver(target, node.key, connection, arrive, held)

    def _fetch(self, node: Node, peer: bytes, digest: bytes) -> None:
        if node.blobs.has(digest):
            self.after(0.0, lambda: self._find(node, peer, digest))
            return
        self._count += 1
        attempt = node.fetching[peer, digest] = self._count
        self.after(FETCH_SECONDS, lambda: self._give_up(node, peer, digest, attempt))
        if peer not in self._connections[node.key]:
            self.after(0.0, lambda: self._fail_fetch(node, peer, digest, "not connected"))
            return
        self._send(node, peer, Pull(blob=digest, offset=0))

    def _find(self, node: Node, peer: bytes, digest: bytes) -> None:
        """End the fetch of a blob that was here when it was asked for."""
        if node.blobs.has(digest):
            self._on(node, "fetched", peer, digest)
        else:
            self._on(node, "fetch_failed", peer, digest, "deleted meanwhile")

    def _send_blob(self, node: Node, peer: bytes, digest: bytes) -> None:
        if not node.blobs.has(digest):
            self._send(node, peer, Missing(blob=digest))
            return
        connection, target = self._connections[node.key].get(peer), self.nodes.get(peer)
        if connection is None or target is None:
            return
        data = node.blobs.data[digest]

        def arrive() -> None:
            if (node.key, digest) in target.fetching:
                del target.fetching[node.key, digest]
                target.blobs.data[digest] = data
                self._on(target, "fetched", node.key, digest)

        self._deliver(target, node.key, connection, arrive)

    def _fail_fetch(self, node: Node, peer: bytes, digest: bytes, reason: str) -> None:
        if (peer, digest) in node.fetching:
            del node.fetching[peer, digest]
            self._on(node, "fetch_failed", peer, digest, reason)

    def _give_up(self, node: Node, peer: bytes, digest: bytes, attempt: int) -> None:
        if node.fetching.get((peer, digest)) == attempt:
            self._fail_fetch(node, peer, digest, "no progress")

    def _compute(self, node: Node, key: tuple[Any, ...], job: Job) -> None:
        life, job = node.life, self.prepare(node, job)

        def act() -> None:
            if node.machine is None or node.life != life:
                return
            try:
                result = job.run(node.blobs)
            except Exception as error:
                self._on(node, "compute_failed", key, error)
            else:
                self._on(node, "computed", key, result)

        self.after(node.compute_seconds(key), act)
