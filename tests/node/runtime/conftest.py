"""A scripted machine, a recording network and a disk that can be held up or made to fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from asyncfl.effects import Delete, Effect, Put
from asyncfl.errors import StorageError
from asyncfl.messages import Message
from node.blobs import BlobStore
from node.looplag import LoopLag
from node.runtime import Runtime
from tests.node.runtime.numbers import PEER, number_of, numbered


class Scripted:
    """Answers each event with what the test put under its name; keeps what it heard."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[..., list[Effect]]] = {}
        self.heard: list[tuple[Any, ...]] = []
        self.ticks = 0
        self.needed: set[bytes] = set()

    def needs(self, blob: bytes) -> bool:
        return blob in self.needed

    def __getattr__(self, event: str) -> Callable[..., list[Effect]]:
        def method(*arguments: Any) -> list[Effect]:
            self.heard.append((event, *arguments[:-1]))
            answer = self.answers.get(event)
            return answer(*arguments[:-1]) if answer is not None else []

        return method

    def tick(self, now: float) -> list[Effect]:
        self.ticks += 1
        return self.answers["tick"]() if "tick" in self.answers else []

    def status(self, now: float) -> dict[str, Any]:
        return {"state": "up", "entries": 7}


class Recorded:
    """One list of what happened on network, disk and blob store, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def of(self, kind: str) -> list[Any]:
        return [event[1] for event in self.events if event[0] == kind]


class RecordingNetwork:
    def __init__(self, record: Recorded) -> None:
        self._record = record.events.append
        self.counters = SimpleNamespace(bytes_in=11, bytes_out=22)
        self.failure: Exception | None = None
        self.slow_to_close = 0.0

    async def start(self) -> None:
        self._record(("start", None))
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        self._record(("close", None))
        await asyncio.sleep(self.slow_to_close)

    def send(self, peer: bytes, message: Message) -> bool:
        self._record(("send", number_of(message)))
        return True

    def send_blob(self, peer: bytes, digest: bytes, offset: int) -> None:
        self._record(("send_blob", (peer, digest, offset)))

    def fetch(self, peer: bytes, digest: bytes, size: int) -> None:
        self._record(("fetch", (peer, digest, size)))


class Disk:
    def __init__(self, record: Recorded) -> None:
        self._record = record.events.append
        self.ready = asyncio.Event()
        self.ready.set()
        self.failure: StorageError | None = None

    async def commit(self, writes: Sequence[Put | Delete]) -> None:
        self._record(("begin", [write.key for write in writes]))
        await self.ready.wait()
        if self.failure is not None:
            raise self.failure
        self._record(("commit", [write.key for write in writes]))


class Bench:
    """A runtime with everything around it; `async with bench:` runs it until the block ends."""

    def __init__(self, folder: Path) -> None:
        self.record = Recorded()
        self.machine = Scripted()
        self.network = RecordingNetwork(self.record)
        self.disk = Disk(self.record)
        self.blobs = BlobStore(folder / "blobs")
        self.status_file = folder / "status.json"
        self.stop = asyncio.Event()
        self.lag = LoopLag()
        self.workers = ThreadPoolExecutor(1)
        self.runtime = Runtime(
            self.machine,
            name="replica-0",
            role="aggregator",
            deployment=bytes(32),
            storage=self.disk,
            blobs=self.blobs,
            workers=self.workers,
            status=self.status_file,
            lag=self.lag,
        )
        self.running: asyncio.Task[None]

    @property
    def sent(self) -> list[int]:
        return self.record.of("send")

    async def __aenter__(self) -> Bench:
        self.measuring = asyncio.create_task(self.lag.run())
        self.running = asyncio.create_task(self.runtime.run(self.network, self.stop))
        await self.until(lambda: self.record.of("start") or self.running.done())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stop.set()
        self.disk.ready.set()
        try:
            await self.running
        finally:
            self.measuring.cancel()
            self.workers.shutdown(wait=False)

    async def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 (there is no event for most conditions)
                await asyncio.sleep(0.002)

    def hear(self, number: int) -> None:
        self.runtime.message(PEER, numbered(number))

    async def status(self) -> dict[str, Any]:
        text = await asyncio.to_thread(self.status_file.read_text)
        value = json.loads(text)
        assert isinstance(value, dict)
        return value

    async def first_status(self) -> dict[str, Any]:
        """The status once there is one: the first is written in the background."""
        for _ in range(1000):
            if await asyncio.to_thread(self.status_file.exists):
                break
            await asyncio.sleep(0.01)
        return await self.status()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Any blocking call on an event loop is an error."""
    with blockbuster_ctx():
        yield
