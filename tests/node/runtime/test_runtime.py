"""Effects are carried out in order, persist before send, off the event loop where they take long."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from asyncfl.digest import content_digest
from asyncfl.effects import (
    Blobs,
    Compute,
    DeleteBlob,
    Effect,
    Fetch,
    Notify,
    Persist,
    Put,
    Send,
    SendBlob,
    Table,
)
from asyncfl.errors import ConfigurationError, InvalidItem, LocalProtocolError, StorageError
from asyncfl.messages import Message
from node import runtime as runtime_module
from node.storage import Storage
from tests.node.runtime.numbers import PEER, number_of, numbered

if TYPE_CHECKING:
    from .conftest import Bench


def put(number: int) -> Persist:
    return Persist((Put(Table.META, number.to_bytes(4, "big"), b"value"),))


def keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in numbers]


def persist_and_answer(peer: bytes, message: Message) -> list[Effect]:
    number = number_of(message)
    return [put(number), Send(peer, message)]


# --- order -----------------------------------------------------------------------------------------------


async def test_nothing_is_sent_before_what_precedes_it_is_on_disk(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [
        put(1),
        Send(PEER, numbered(1)),
        put(2),
        Send(PEER, numbered(2)),
    ]
    bench.disk.ready.clear()
    async with bench:
        await bench.until(lambda: bench.record.of("begin"))
        await asyncio.sleep(0.05)
        assert bench.sent == []
        bench.disk.ready.set()
        await bench.until(lambda: bench.sent == [1, 2])
        assert bench.record.of("commit") == [keys(1, 2)]


async def test_everything_that_waits_for_the_disk_goes_in_one_transaction(bench: Bench) -> None:
    bench.machine.answers["receive"] = persist_and_answer
    async with bench:
        bench.disk.ready.clear()
        bench.hear(0)
        await bench.until(lambda: bench.record.of("begin"))
        for number in range(1, 101):
            bench.hear(number)
        assert bench.sent == []
        bench.disk.ready.set()
        await bench.until(lambda: len(bench.sent) == 101)
    assert bench.record.of("commit") == [keys(0), keys(*range(1, 101))]
    assert bench.sent == list(range(101))


async def test_effects_of_several_events_keep_their_order(bench: Bench) -> None:
    digest = await asyncio.to_thread(bench.blobs.write, b"blob")
    bench.machine.answers["start"] = lambda: [
        Send(PEER, numbered(1)),
        SendBlob(PEER, digest, 3),
        put(1),
        Fetch(PEER, digest, 4),
        Send(PEER, numbered(2)),
    ]
    async with bench:
        await bench.until(lambda: len(bench.sent) == 2)
    kinds = [kind for kind, _ in bench.record.events if kind not in {"start", "close"}]
    assert kinds == ["begin", "commit", "send", "send_blob", "fetch", "send"]
    assert bench.record.of("send_blob") == [(PEER, digest, 3)]
    assert bench.record.of("fetch") == [(PEER, digest, 4)]


async def test_a_blob_is_deleted_only_after_the_write_that_forgets_it(bench: Bench) -> None:
    digest = await asyncio.to_thread(bench.blobs.write, b"blob")
    bench.machine.answers["start"] = lambda: [put(1), DeleteBlob(digest), Fetch(PEER, digest, 4)]
    bench.disk.ready.clear()
    async with bench:
        await bench.until(lambda: bench.record.of("begin"))
        assert await asyncio.to_thread(bench.blobs.has, digest)
        bench.disk.ready.set()
        await bench.until(lambda: bench.record.of("fetch"))
        assert not await asyncio.to_thread(bench.blobs.has, digest)


async def test_a_blob_that_has_come_into_use_since_is_not_deleted(bench: Bench) -> None:
    digest = await asyncio.to_thread(bench.blobs.write, b"blob")
    bench.machine.answers["start"] = lambda: [put(1), DeleteBlob(digest), Send(PEER, numbered(1))]
    bench.disk.ready.clear()
    async with bench:
        await bench.until(lambda: bench.record.of("begin"))
        bench.machine.needed.add(digest)
        bench.disk.ready.set()
        await bench.until(lambda: bench.sent)
        assert await asyncio.to_thread(bench.blobs.has, digest)


class Writing:
    """A job that has written its blob and is not done."""

    def __init__(self) -> None:
        self.written, self.done = threading.Event(), threading.Event()

    def run(self, blobs: Blobs) -> bytes:
        digest = blobs.write(b"blob")
        self.written.set()
        assert self.done.wait(10)
        return digest


async def test_what_a_job_has_written_is_not_deleted_before_the_machine_has_heard_of_it(bench: Bench) -> None:
    job, digest = Writing(), content_digest(b"blob")
    bench.machine.answers["start"] = lambda: [Compute(("write", 1), job)]
    bench.machine.answers["receive"] = lambda peer, message: [DeleteBlob(digest), Send(peer, message)]
    async with bench:
        assert await asyncio.to_thread(job.written.wait, 10)
        bench.hear(1)
        await bench.until(lambda: bench.sent == [1])
        assert await asyncio.to_thread(bench.blobs.has, digest)
        job.done.set()
        await bench.until(lambda: ("computed", ("write", 1), digest) in bench.machine.heard)
        bench.hear(2)
        await bench.until(lambda: bench.sent == [1, 2])
        assert not await asyncio.to_thread(bench.blobs.has, digest)


async def test_a_fetch_that_ends_after_its_blob_was_deleted_has_failed(bench: Bench) -> None:
    """The transport may have stored it before, and says so after."""
    digest = await asyncio.to_thread(bench.blobs.write, b"blob")
    bench.machine.answers["start"] = lambda: [
        Fetch(PEER, digest, 4),
        DeleteBlob(digest),
        Send(PEER, numbered(1)),
    ]
    async with bench:
        await bench.until(lambda: bench.sent)
        bench.runtime.fetched(PEER, digest)
        assert ("fetch_failed", PEER, digest, "deleted meanwhile") in bench.machine.heard
        bench.runtime.fetched(PEER, digest)
        assert ("fetched", PEER, digest) in bench.machine.heard


async def test_a_stop_finishes_what_is_queued_and_then_closes(bench: Bench) -> None:
    bench.machine.answers["receive"] = persist_and_answer
    async with bench:
        bench.disk.ready.clear()
        bench.hear(1)
        bench.hear(2)
        bench.stop.set()
        await asyncio.sleep(0.05)
        assert not bench.record.of("close")
        bench.disk.ready.set()
        await bench.running
    kinds = [kind for kind, _ in bench.record.events]
    assert bench.sent == [1, 2]
    assert kinds[-1] == "close"


async def test_a_network_that_will_not_close_is_left_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "CLOSE_S", 0.05)
    bench.network.slow_to_close = 3600
    async with bench:
        bench.stop.set()
        async with asyncio.timeout(2):
            await bench.running


# --- failures --------------------------------------------------------------------------------------------


async def test_a_failed_commit_ends_the_node_and_nothing_more_is_sent(bench: Bench) -> None:
    bench.machine.answers["receive"] = persist_and_answer

    async def fill_disk() -> None:
        async with bench:
            bench.hear(1)
            await bench.until(lambda: bench.sent == [1])
            bench.disk.failure = StorageError("state.sqlite: the disk is full")
            bench.disk.ready.clear()
            bench.hear(2)
            await bench.until(lambda: len(bench.record.of("begin")) == 2)
            bench.hear(3)
            bench.disk.ready.set()
            await bench.until(bench.running.done)

    with pytest.raises(StorageError, match=r"state\.sqlite: the disk is full"):
        await fill_disk()
    assert bench.sent == [1]
    bench.hear(4)
    await asyncio.sleep(0.02)
    assert bench.sent == [1]
    assert len(bench.record.of("begin")) == 2
    assert bench.record.of("close")
    status = await bench.status()
    assert status["state"] == "failed"
    assert "disk is full" in status["error"]


async def test_a_machine_that_fails_ends_the_node_before_it_says_more(bench: Bench) -> None:
    def fail(peer: bytes, message: Message) -> list[Effect]:
        raise KeyError("half changed")

    async def wait_for_end() -> None:
        bench.machine.answers["receive"] = fail
        bench.hear(1)
        bench.machine.answers["receive"] = persist_and_answer
        bench.hear(2)
        await bench.until(bench.running.done)

    with pytest.raises(LocalProtocolError, match="KeyError: 'half changed'"):
        async with bench:
            await wait_for_end()
    assert bench.sent == []


async def test_an_address_in_use_ends_the_run_with_its_own_error(bench: Bench) -> None:
    bench.network.failure = ConfigurationError("cannot listen on 127.0.0.1:80: the port is in use")
    with pytest.raises(ConfigurationError, match="port is in use"):
        async with bench:
            pass
    assert bench.record.of("close")


# --- jobs ------------------------------------------------------------------------------------------------


class Work:
    def __init__(self, outcome: object, seconds: float = 0.0) -> None:
        self.outcome = outcome
        self.seconds = seconds

    def run(self, blobs: Blobs) -> object:
        time.sleep(self.seconds)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_a_jobs_result_goes_back_to_the_machine_and_its_effects_are_carried_out(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [Compute(("open", 3), Work("result"))]
    bench.machine.answers["computed"] = lambda key, result: [put(1), Send(PEER, numbered(1))]
    async with bench:
        await bench.until(lambda: bench.sent == [1])
    assert ("computed", ("open", 3), "result") in bench.machine.heard


async def test_a_job_starts_only_after_the_write_that_precedes_it(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [put(1), Compute(("open",), Work("result"))]
    bench.disk.ready.clear()
    async with bench:
        await asyncio.sleep(0.05)
        assert not any(event[0] == "computed" for event in bench.machine.heard)
        bench.disk.ready.set()
        await bench.until(lambda: ("computed", ("open",), "result") in bench.machine.heard)


@pytest.mark.parametrize("error", [InvalidItem("a bad sum"), ZeroDivisionError("a bug in a task")])
async def test_a_job_that_raises_is_told_to_the_machine(bench: Bench, error: Exception) -> None:
    bench.machine.answers["start"] = lambda: [Compute(("open",), Work(error))]
    bench.machine.answers["compute_failed"] = lambda key, error: [Send(PEER, numbered(1))]
    async with bench:
        await bench.until(lambda: bench.sent == [1])
    assert ("compute_failed", ("open",), error) in bench.machine.heard


async def test_a_full_disk_found_by_a_job_ends_the_node_as_a_storage_error(bench: Bench) -> None:
    def pass_on(key: tuple[str, ...], error: Exception) -> list[Effect]:
        raise LocalProtocolError(f"job {key} failed") from error

    bench.machine.answers["start"] = lambda: [
        Compute(("open",), Work(StorageError("blobs: the disk is full")))
    ]
    bench.machine.answers["compute_failed"] = pass_on
    with pytest.raises(StorageError, match="blobs: the disk is full"):
        async with bench:
            await bench.until(bench.running.done)


async def test_a_slow_job_holds_up_neither_messages_nor_ticks(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [Compute(("train",), Work("done", seconds=0.6))]
    bench.machine.answers["receive"] = persist_and_answer
    async with bench:
        await asyncio.sleep(0.05)
        ticks, began = bench.machine.ticks, time.monotonic()
        for number in range(20):
            bench.hear(number)
            await bench.until(lambda number=number: number in bench.sent)
        assert time.monotonic() - began < 0.4
        await bench.until(lambda: ("computed", ("train",), "done") in bench.machine.heard)
        assert bench.machine.ticks - ticks >= 5


async def test_the_same_job_twice_at_once_is_a_bug(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [Compute(("x",), Work(1, 0.1)), Compute(("x",), Work(2))]
    with pytest.raises(LocalProtocolError, match="under way already"):
        async with bench:
            await bench.until(bench.running.done)


async def test_a_result_that_comes_after_the_end_is_ignored(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [Compute(("train",), Work("late", seconds=0.3))]
    async with bench:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.4)
    assert not any(event[0] == "computed" for event in bench.machine.heard)


# --- the rest --------------------------------------------------------------------------------------------


async def test_events_of_the_network_reach_the_machine(bench: Bench) -> None:
    async with bench:
        bench.runtime.connected(PEER)
        bench.runtime.fetched(PEER, b"d" * 32)
        bench.runtime.fetch_failed(PEER, b"e" * 32, "gone")
        bench.runtime.disconnected(PEER, "closed")
    assert [event for event in bench.machine.heard if event[0] != "start"] == [
        ("connected", PEER),
        ("fetched", PEER, b"d" * 32),
        ("fetch_failed", PEER, b"e" * 32, "gone"),
        ("disconnected", PEER),
    ]


async def test_messages_are_dropped_while_too_much_waits_for_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "MAX_QUEUED", 10)
    bench.machine.answers["receive"] = persist_and_answer
    async with bench:
        bench.disk.ready.clear()
        bench.hear(0)
        await bench.until(lambda: bench.record.of("begin"))
        for number in range(1, 1000):
            bench.hear(number)
        bench.disk.ready.set()
        await bench.until(lambda: len(bench.sent) > 1)
        bench.hear(5000)
        await bench.until(lambda: 5000 in bench.sent)
    assert bench.sent == [0, 1, 2, 3, 4, 5, 6, 5000]
    assert (await bench.status())["events"]["overloaded"] == 993


async def test_nothing_is_repeated_while_what_was_said_before_still_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "TICK_S", 0.001)
    bench.machine.answers["receive"] = persist_and_answer
    bench.machine.answers["tick"] = lambda: [Send(PEER, numbered(7))]
    async with bench:
        await bench.until(lambda: bench.sent.count(7) > 3)
        bench.disk.ready.clear()
        bench.hear(0)
        await bench.until(lambda: bench.record.of("begin"))
        ticks = bench.machine.ticks
        await asyncio.sleep(0.1)
        assert bench.machine.ticks <= ticks + 1, "what waits for the disk was asked for again and again"
        bench.disk.ready.set()
        await bench.until(lambda: bench.machine.ticks > ticks + 3)


async def test_the_status_file_is_whole_whenever_it_is_read_and_says_how_the_node_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "STATUS_S", 0.001)
    bench.machine.answers["start"] = lambda: [Notify("entry", {"epoch": 3}), Notify("entry", {"epoch": 4})]
    async with bench:
        status = await bench.first_status()
        for _ in range(200):
            status = await bench.status()
        assert status["state"] == "up"
        assert status["entries"] == 7
        assert (status["name"], status["role"]) == ("replica-0", "aggregator")
        assert (status["bytes_in"], status["bytes_out"]) == (11, 22)
        assert status["events"] == {"entry": 2}
        assert set(status["loop_lag_ms"]) == {"max", "p99"}
        assert abs(status["time"] - time.time()) < 5
    assert (await bench.status())["state"] == "stopped"


async def test_what_is_worth_a_log_line_is_logged_at_its_level(bench: Bench) -> None:
    bench.machine.answers["start"] = lambda: [Notify("slow_peer", {"seconds": 3}, "warning")]
    with structlog.testing.capture_logs() as lines:
        async with bench:
            await asyncio.sleep(0.02)
    assert {"event": "slow_peer", "seconds": 3, "log_level": "warning"} in lines


async def test_what_a_stopped_node_had_promised_is_in_its_state_file(bench: Bench, tmp_path: Path) -> None:
    storage = await asyncio.to_thread(Storage.open, tmp_path / "state.sqlite")
    bench.runtime._storage = storage
    bench.machine.answers["receive"] = persist_and_answer
    async with bench:
        for number in range(300):
            bench.hear(number)
    await storage.close()
    again = await asyncio.to_thread(Storage.open, tmp_path / "state.sqlite")
    loaded = await asyncio.to_thread(again.load)
    await again.close()
    assert bench.sent == list(range(300))
    assert set(loaded[Table.META]) == set(keys(*range(300)))


async def test_a_blocked_event_loop_shows_in_the_measurement(bench: Bench) -> None:
    async with bench:
        await asyncio.sleep(0.05)
        before = bench.lag.milliseconds()["max"]
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass
        await asyncio.sleep(0.05)
        assert before < 150
        assert bench.lag.milliseconds()["max"] >= 150
