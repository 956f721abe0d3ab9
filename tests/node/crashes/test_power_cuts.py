"""A power cut at any moment: what a node has told others is on disk, whatever becomes of what was not synced."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asyncfl.effects import Table
from asyncfl.errors import StorageError
from node.blobs import BlobStore
from node.state_file import require_no_orphans
from node.storage import Storage
from tests.node.crashes import power_cut
from tests.node.crashes.power_cut import Recording, Said

WRITER = """
import asyncio, os, random, sqlite3, sys
from pathlib import Path
from asyncfl.effects import Delete, Put, Table
from node import blobs as blob_files, state_file, whole_files
from node.blobs import BlobStore
from node.state_file import require_no_orphans

root, heard, mutation = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), sys.argv[3]
chance = random.Random(1)

if mutation == "directories-unsynced":
    blob_files.sync_directory = state_file.sync_directory = whole_files.sync_directory = lambda path: None
if mutation == "blobs-unsynced":
    os.fsync = lambda descriptor: None
for name, line, other in (
    ("log-unsynced", "synchronous = FULL", "synchronous = OFF"),
    ("log-unsynced-at-start", "wal_checkpoint(TRUNCATE)", "user_version"),
):
    source = Path(state_file.__file__).read_text()
    assert line in source
    if mutation == name:
        exec(compile(source.replace(line, other), state_file.__file__, "exec"), state_file.__dict__)

from node.storage import Storage

def say(*words):
    os.write(heard, (" ".join(words) + "\\n").encode())

async def life(number):
    database = root / "state" / "node" / "state.sqlite"
    require_no_orphans(database, database.with_name("blobs"))
    storage = Storage.open(database)
    blobs = BlobStore(database.with_name("blobs"))
    # What is read at a start is relied upon at once.
    for key, value in storage.load()[Table.MANIFESTS].items():
        say("put", key.hex(), value.hex()[:64])
    rows = {}
    for turn in range(12):
        key = f"{number}-{turn % 5}".encode()
        if key in rows and turn % 3 == 0:
            say("begin", "delete", key.hex())
            await storage.commit([Delete(Table.MANIFESTS, key), Put(Table.LOCKS, key, b"for ever")])
            say("delete", key.hex())
            blobs.delete(rows.pop(key))
            continue
        rows[key] = name = blobs.write(chance.randbytes(3000))
        value = name + chance.randbytes(chance.choice([100, 10_000, 60_000]))
        say("begin", "put", key.hex(), value.hex()[:64])
        await storage.commit([Put(Table.MANIFESTS, key, value), Put(Table.SEEN, key, name)])
        say("put", key.hex(), value.hex()[:64])
    if number != 1:
        await storage.close()
        return
    # As if killed between the write and the sync: written it is, and read it will be.
    storage._thread.submit(storage._connection.execute, "PRAGMA synchronous = OFF").result()
    name = blobs.write(b"the last")
    say("begin", "put", b"last".hex(), name.hex())
    await storage.commit([Put(Table.MANIFESTS, b"last", name)])

for number in range(3):
    # Each life is a process; the second ends without closing anything, and its last words may be unsynced.
    if not os.fork():
        asyncio.run(life(number))
        os._exit(0)
    assert os.wait()[1] == 0
"""
MUTATIONS = ("directories-unsynced", "blobs-unsynced", "log-unsynced", "log-unsynced-at-start")


def recorded(folder: Path, *arguments: str) -> Recording:
    """The system calls of `WRITER`."""
    root, trace, heard = folder / "root", folder / "trace", folder / "heard"
    root.mkdir()
    command = power_cut.traced(trace, [sys.executable, "-c", WRITER, str(root), str(heard), *arguments])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this system does not let a process be traced")
    assert done.returncode == 0, done.stderr
    return Recording(trace, root, heard)


def allowed(said: list[str]) -> list[dict[bytes, str]]:
    """What the table may hold: what was said, and what was under way besides."""
    now: dict[bytes, str] = {}
    under_way: list[str] = []
    for line in said:
        words = line.split()
        if words[0] == "begin":
            under_way = words[1:]
            continue
        now = _changed(now, words)
        if under_way[1:2] == words[1:2]:
            under_way = []
    return [now, _changed(now, under_way)] if under_way else [now]


def _changed(rows: dict[bytes, str], words: list[str]) -> dict[bytes, str]:
    key = bytes.fromhex(words[1])
    rest = {other: value for other, value in rows.items() if other != key}
    return {**rest, key: words[2]} if words[0] == "put" else rest


def defect(disk: Path, said: list[str]) -> str | None:
    """What is wrong with a disk after a power cut, as the next start of the node finds it."""
    database = disk / "state" / "node" / "state.sqlite"
    try:
        require_no_orphans(database, database.with_name("blobs"))
        rows = asyncio.run(_load(database))
        found = {key: value.hex()[:64] for key, value in rows.items()}
        if found not in allowed(said):
            return f"{len(found)} rows are not the {len(allowed(said)[0])} that were said to be on disk"
        blobs = BlobStore(database.with_name("blobs"))
        for value in rows.values():
            blobs.read(value[:32])
    except StorageError as error:
        return str(error)
    return None


async def _load(database: Path) -> dict[bytes, bytes]:
    storage = Storage.open(database)
    try:
        return storage.load()[Table.MANIFESTS]
    finally:
        await storage.close()


Cut = tuple[int, float]
"""After how many events the power goes, and how likely it is that an unsynced write is kept."""


def after_every_word(recording: Recording) -> list[Cut]:
    """Just when something was said, with nothing kept that was not synced."""
    return [(place + 1, 0.0) for place, event in enumerate(recording.events) if isinstance(event, Said)]


def at_random(recording: Recording, count: int) -> list[Cut]:
    chance = random.Random(7)
    return [(chance.randrange(len(recording.events)), chance.choice((0.3, 0.7, 0.95))) for _ in range(count)]


def defects(recording: Recording, folder: Path, cuts: list[Cut]) -> list[str]:
    chance = random.Random(8)
    found = []
    for number, (moment, kept) in enumerate(cuts):
        disk = folder / f"disk-{number}"
        disk.mkdir()
        recording.disk_after_cut(moment, disk, chance, kept)
        problem = defect(disk, recording.said(moment))
        if problem is not None:
            found.append(f"after event {moment}, kept {kept:g}: {problem}")
        shutil.rmtree(disk)
    return found


@pytest.mark.skipif(power_cut.STRACE is None, reason="strace is not installed")
@pytest.mark.timeout(600)
def test_nothing_that_was_said_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    recording = recorded(tmp_path, "none")
    assert defects(recording, tmp_path, [*after_every_word(recording), *at_random(recording, 40)]) == []


@pytest.mark.slow
@pytest.mark.skipif(power_cut.STRACE is None, reason="strace is not installed")
@pytest.mark.timeout(1200)
def test_nor_at_any_of_a_thousand_moments(tmp_path: Path) -> None:
    recording = recorded(tmp_path, "none")
    assert defects(recording, tmp_path, at_random(recording, 1000)) == []


@pytest.mark.slow
@pytest.mark.skipif(power_cut.STRACE is None, reason="strace is not installed")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_missing_sync_is_noticed(tmp_path: Path, mutation: str) -> None:
    recording = recorded(tmp_path, mutation)
    assert defects(recording, tmp_path, after_every_word(recording)) != []
