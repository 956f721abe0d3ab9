"""The shell around one state machine: events go in, effects are carried out, in order, persist before send.

Effects wait in one queue. Whatever is queued when the disk is ready is taken as one batch: all its writes go
into one transaction, and only after that is on disk are its messages sent, jobs started and blobs deleted, in
the order in which the machine asked. So nothing is ever sent that a crash could make the node forget.

A database that refuses, or a machine that fails, ends the run: nothing more is sent, `run` raises.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from asyncfl.effects import (
    Compute,
    Delete,
    DeleteBlob,
    Effect,
    Fetch,
    Machine,
    Notify,
    Persist,
    Put,
    Send,
    SendBlob,
)
from asyncfl.errors import ConfigurationError, LocalProtocolError, StorageError
from asyncfl.messages import Message
from node.jobs import BlobFiles, JobBlobs, Written, run_job
from node.looplag import LoopLag
from node.steps import FileAction, FileKind, Observer, observed, unobserved

TICK_S: Final = 0.05
STATUS_S: Final = 0.5
CLOSE_S: Final = 5.0
"""For what is queued to be written and sent, and the peers told, once a stop is asked for."""
MAX_QUEUED: Final = 20_000
"""Effects that may wait for the disk. Beyond that arriving messages are dropped, as a network might."""
SLICE_S: Final = 0.005
"""How long effects are carried out before others may use the event loop."""

log = structlog.get_logger("node")


class Network(Protocol):
    """What the shell needs of `node.transport.Endpoint`."""

    @property
    def counters(self) -> Any: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def send(self, peer: bytes, message: Message) -> bool: ...
    def send_blob(self, peer: bytes, digest: bytes, offset: int) -> None: ...
    def fetch(self, peer: bytes, digest: bytes, size: int) -> None: ...


class Disk(Protocol):
    """What the shell needs of `node.storage.Storage`."""

    async def commit(self, writes: Sequence[Put | Delete]) -> None: ...


class Runtime:
    """Runs one node. It is the `Handler` of the endpoint that is given to `run`.

    `workers` carries out jobs; several nodes of a process may share it. `status` is the file that says how
    the node is, and in which deployment (its digest), rewritten twice a second.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        name: str,
        role: str,
        deployment: bytes,
        storage: Disk,
        blobs: BlobFiles,
        workers: Executor,
        status: Path,
        lag: LoopLag,
        clock: Callable[[], float] = time.monotonic,
        observe: Observer = unobserved,
    ) -> None:
        self._machine = machine
        self._name = name
        self._role = role
        self._deployment = deployment.hex()
        self._storage = storage
        self._blobs = JobBlobs(blobs)
        self._workers = workers
        self._status = status
        self._lag = lag
        self._clock = clock
        self._observe = observe
        self._events: Counter[str] = Counter()
        self._queue: deque[Effect] = deque()
        self._asked = 0
        """Effects that the machine has asked for, ever."""
        self._performed = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._jobs: dict[tuple[Any, ...], Written] = {}
        self._fetching: dict[tuple[bytes, bytes], bool] = {}
        """The fetches under way, by peer and blob; False once that blob was deleted meanwhile."""
        self._closing = False
        self._failure: Exception | None = None
        self._ended = asyncio.Event()
        self._network: Network

    # --- the life of a node ------------------------------------------------------------------------

    async def run(self, network: Network, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then finish what is queued and close `network`.

        Raises `StorageError` when the disk refused, whatever `network.start` raises, and `LocalProtocolError`
        when the machine failed.
        """
        self._network = network
        self._feed(self._machine.start)
        executing = asyncio.create_task(self._execute(), name=f"execute {self._name}")
        others = [
            asyncio.create_task(work, name=f"{what} {self._name}")
            for what, work in (("tick", self._tick()), ("status", self._report()))
        ]
        stopping = asyncio.create_task(stop.wait(), name=f"stop {self._name}")
        ended = asyncio.create_task(self._ended.wait(), name=f"ended {self._name}")
        try:
            await network.start()
            await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
            self._closing = True
            if self._failure is None:
                await self._drain()
        finally:
            self._closing = True
            for task in (executing, stopping, ended, *others):
                task.cancel()
            await asyncio.gather(executing, stopping, ended, *others, return_exceptions=True)
            await self._close_network(network)
            await self._write_status("stopped" if self._failure is None else "failed")
        if self._failure is not None:
            await asyncio.to_thread(_log_failure, self._failure)
            raise self._failure

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("close_deadline", waited_for="the disk", queued=len(self._queue), seconds=CLOSE_S)

    async def _close_network(self, network: Network) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await network.close()
        except TimeoutError:
            log.warning("close_deadline", waited_for="the channels to close", seconds=CLOSE_S)

    def _fail(self, error: Exception) -> None:
        """End the run; the first failure counts."""
        self._closing = True
        if self._failure is None:
            self._failure = _as_deliberate(error)
        self._ended.set()
        self._idle.set()

    # --- events ------------------------------------------------------------------------------------

    def connected(self, peer: bytes) -> None:
        """See `node.transport.Handler`."""
        self._feed(self._machine.connected, peer)

    def disconnected(self, peer: bytes, reason: str) -> None:
        """See `node.transport.Handler`."""
        self._feed(self._machine.disconnected, peer)

    def message(self, peer: bytes, message: Message) -> None:
        """See `node.transport.Handler`. Dropped while too much waits for the disk."""
        if len(self._queue) > MAX_QUEUED:
            self._events["overloaded"] += 1
        else:
            self._feed(self._machine.receive, peer, message)

    def fetched(self, peer: bytes, digest: bytes) -> None:
        """See `node.transport.Handler`."""
        if self._fetching.pop((peer, digest), True):
            self._feed(self._machine.fetched, peer, digest)
        else:
            self._feed(self._machine.fetch_failed, peer, digest, "deleted meanwhile")

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str) -> None:
        """See `node.transport.Handler`."""
        self._fetching.pop((peer, digest), None)
        self._feed(self._machine.fetch_failed, peer, digest, reason)

    def disk_refused(self, error: StorageError) -> None:
        """See `node.transport.Handler`. The disk that takes no blob will not take the next lock either."""
        self._fail(error)

    def _feed(self, event: Callable[..., list[Effect]], *arguments: Any) -> None:
        if self._closing:
            return
        try:
            effects = event(*arguments, self._clock())
        except Exception as error:
            # Its state may be half changed: nothing it says from here on can be trusted.
            self._fail(error)
            return
        if effects:
            self._asked += len(effects)
            self._queue.extend(effects)
            self._idle.clear()
            self._arrived.set()

    async def _tick(self) -> None:
        """A tick repeats what nobody answered: not before it has been said, or who is slow gets ever slower."""
        due = 0
        while True:
            await asyncio.sleep(TICK_S)
            if self._performed >= due:
                self._feed(self._machine.tick)
                due = self._asked

    # --- effects -----------------------------------------------------------------------------------

    async def _execute(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._queue:
                    batch = list(self._queue)
                    self._queue.clear()
                    writes = [
                        write for effect in batch if isinstance(effect, Persist) for write in effect.writes
                    ]
                    if writes:
                        await self._storage.commit(writes)
                    await self._perform(batch)
                self._idle.set()
        except Exception as error:
            self._fail(error)

    async def _perform(self, batch: Sequence[Effect]) -> None:
        """Everything of a batch but its writes, which are on disk."""
        resumed = time.monotonic()
        for effect in batch:
            self._performed += 1
            match effect:
                case Send(peer, message):
                    self._network.send(peer, message)
                case SendBlob(peer, digest, offset):
                    self._network.send_blob(peer, digest, offset)
                case Fetch(peer, digest, size):
                    self._fetching.setdefault((peer, digest), True)
                    self._network.fetch(peer, digest, size)
                case Compute():
                    self._compute(effect)
                case DeleteBlob(digest):
                    await self._delete(digest)
                case Notify(event, fields, level):
                    self._notify(event, fields, level)
                case Persist():
                    pass
            if time.monotonic() - resumed > SLICE_S:
                await asyncio.sleep(0)
                if self._failure is not None:
                    return
                resumed = time.monotonic()

    def _compute(self, effect: Compute) -> None:
        if effect.key in self._jobs:
            raise LocalProtocolError(f"the job {effect.key!r} is under way already")
        blobs = self._jobs[effect.key] = self._blobs.open()
        # The context carries the node's name into what the job logs.
        future = asyncio.get_running_loop().run_in_executor(
            self._workers, copy_context().run, run_job, effect.job, blobs
        )

        def finished(done: asyncio.Future[Any]) -> None:
            del self._jobs[effect.key]
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                self._feed(self._machine.computed, effect.key, done.result())
            elif isinstance(error, Exception):
                self._feed(self._machine.compute_failed, effect.key, error)
            else:
                self._fail(LocalProtocolError(f"the job {effect.key!r} ended with {error!r}"))

        future.add_done_callback(finished)

    async def _delete(self, digest: bytes) -> None:
        # Its machine may have found another use for it since: a client can name any blob as its upload's payload.
        if self._machine.needs(digest):
            return
        for fetch in self._fetching:
            if fetch[1] == digest:
                self._fetching[fetch] = False
        # Waited for, so that a later fetch of the same blob is not undone.
        try:
            await asyncio.to_thread(self._blobs.delete, digest, list(self._jobs.values()))
        except StorageError as error:
            log.warning("blob_not_deleted", error=str(error))

    def _notify(self, event: str, fields: Any, level: str) -> None:
        self._events[event] += 1
        getattr(log, level)(event, **fields)

    # --- status ------------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            await self._write_status(None)
            await asyncio.sleep(STATUS_S)

    async def _write_status(self, final: str | None) -> None:
        try:
            content = self._machine.status(self._clock())
        except Exception as error:
            content = {}
            self._fail(error)
        counters = self._network.counters
        content |= {
            "name": self._name,
            "role": self._role,
            "deployment": self._deployment,
            "pid": os.getpid(),
            "time": time.time(),
            "bytes_in": counters.bytes_in,
            "bytes_out": counters.bytes_out,
            "loop_lag_ms": self._lag.milliseconds(),
            "queued": len(self._queue),
            "jobs": len(self._jobs),
            "events": dict(self._events),
        }
        if final is not None:
            content["state"] = final
        if self._failure is not None:
            content["error"] = str(self._failure)
        try:
            await asyncio.to_thread(_replace, self._status, json.dumps(content), self._observe)
        except OSError as error:
            log.warning("status_not_written", file=str(self._status), reason=error.strerror)


def _as_deliberate(error: Exception) -> Exception:
    """The error to end with: the disk's refusal stays that, also where a job or the machine passed it on."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StorageError):
            return cause
        cause = cause.__cause__
    if isinstance(error, LocalProtocolError | ConfigurationError):
        return error
    wrapped = LocalProtocolError(
        f"stopped itself: {type(error).__name__}: {error} (a bug in this program or in the task's own code; "
        "the log has the details)"
    )
    wrapped.__cause__ = error
    return wrapped


def _log_failure(failure: Exception) -> None:
    # The disk's refusal or a user's mistake needs no traceback; whatever else ends a node is a bug.
    deliberate = isinstance(failure, StorageError | ConfigurationError)
    log.error("node_failed", error=str(failure), exc_info=None if deliberate else failure)


def _replace(path: Path, text: str, observe: Observer) -> None:
    """Whole or not at all, but not synced: it is rewritten twice a second, and nothing rests on it."""
    draft = path.with_name(path.name + ".new")
    with observed(observe, FileAction.WRITE, FileKind.STATUS):
        draft.write_text(text, encoding="utf-8")
    with observed(observe, FileAction.RENAME, FileKind.STATUS):
        draft.replace(path)
