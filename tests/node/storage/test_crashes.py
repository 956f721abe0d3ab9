"""A process killed at any moment leaves whole transactions, and every one it acknowledged."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncfl.effects import Table
from node.storage import Storage

WRITER = """
import asyncio, sys
from pathlib import Path
from asyncfl.effects import Delete, Put, Table
from node.storage import Storage

async def main():
    storage = Storage.open(Path(sys.argv[1]))
    number = len(storage.load()[Table.LOCKS])
    while True:
        key = number.to_bytes(4, "big")
        await storage.commit([
            Put(Table.LOCKS, key, bytes(2000)), Put(Table.SHARES, key, bytes(3000)),
            Put(Table.META, b"last", key),
            Delete(Table.GROUPS, (number - 1).to_bytes(4, "big", signed=True)), Put(Table.GROUPS, key, b""),
        ])
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""
BETWEEN = """
import asyncio, os, signal, sys
from pathlib import Path
from asyncfl.effects import Put, Table
from node.storage import Storage

def trace(statement):
    if statement == "COMMIT":
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    storage = Storage.open(Path(sys.argv[1]))
    await storage.commit([Put(Table.META, b"kept", b"1")])
    storage._thread.submit(storage._connection.set_trace_callback, trace).result()
    # Larger than the page cache, so that pages of the unfinished transaction are in the log already.
    await storage.commit([Put(Table.META, b"%d" % n, bytes(100_000)) for n in range(100)])

asyncio.run(main())
"""


def load(path: Path) -> dict[Table, dict[bytes, bytes]]:
    async def body() -> dict[Table, dict[bytes, bytes]]:
        storage = Storage.open(path)
        try:
            return storage.load()
        finally:
            await storage.close()

    return asyncio.run(body())


@pytest.mark.timeout(60)
def test_kills_around_commits_leave_whole_transactions_and_all_acknowledged_ones(tmp_path: Path) -> None:
    path, chance, acknowledged = tmp_path / "state.sqlite", random.Random(1), -1
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = int(writer.stdout.readline())
            time.sleep(chance.uniform(0, 0.1))
            writer.kill()
            for line in writer.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        tables = load(path)
        count = len(tables[Table.LOCKS])
        assert count in {acknowledged + 1, acknowledged + 2}
        last = (count - 1).to_bytes(4, "big")
        assert set(tables[Table.LOCKS]) == {number.to_bytes(4, "big") for number in range(count)}
        assert tables[Table.SHARES].keys() == tables[Table.LOCKS].keys()
        assert tables[Table.META] == {b"last": last}
        assert tables[Table.GROUPS] == {last: b""}


def test_a_kill_between_write_and_commit_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    done = subprocess.run([sys.executable, "-c", BETWEEN, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "state.sqlite-wal").stat().st_size > 1_000_000
    assert load(path)[Table.META] == {b"kept": b"1"}
