"""A node never begins anew where it has been before: whatever is missing, it is refused, and nothing is changed."""

# ruff: noqa: ASYNC240  (nothing else runs on these tests' event loops)

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asyncfl.effects import Put, Table
from asyncfl.errors import StorageError
from node.state_file import require_no_orphans
from node.steps import FileAction, FileKind, FileStep, Step, When
from node.storage import Storage

CUT_OFF = """
import asyncio, os, sys
from pathlib import Path
from asyncfl.effects import Put, Table
from node.storage import Storage

async def main():
    storage = Storage.open(Path(sys.argv[1]))
    await storage.commit([Put(Table.LOCKS, b"group", b"content")])
    os._exit(9)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "state.sqlite"


def cut_off(path: Path) -> None:
    """A process that writes a lock and ends without closing anything."""
    done = subprocess.run([sys.executable, "-c", CUT_OFF, str(path)], timeout=60, check=False)
    assert done.returncode == 9


async def load(path: Path) -> dict[Table, dict[bytes, bytes]]:
    storage = Storage.open(path)
    try:
        return storage.load()
    finally:
        await storage.close()


def files(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if not entry.name.endswith(".lock")}


async def test_what_is_only_in_the_log_survives(path: Path) -> None:
    cut_off(path)
    assert (await load(path))[Table.LOCKS] == {b"group": b"content"}


async def test_a_log_that_somebody_has_deleted_is_missed(path: Path) -> None:
    cut_off(path)
    (path.parent / "state.sqlite-wal").unlink()
    before = files(path.parent)
    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"state\.sqlite-wal, which holds what was written last, is gone"
        ) as caught:
            await load(path)
    assert "older copy" in str(caught.value)
    assert files(path.parent) == before


async def test_a_file_that_was_closed_needs_no_log(path: Path) -> None:
    for number in range(3):
        storage = Storage.open(path)
        await storage.commit([Put(Table.META, bytes([number]), b"")])
        await storage.close()
        assert not (path.parent / "state.sqlite-wal").exists()
    assert len((await load(path))[Table.META]) == 3


@pytest.mark.parametrize("left", ["state.sqlite-wal", "state.sqlite.lock", "status.json"])
def test_a_state_file_that_is_gone_is_missed_by_any_trace(path: Path, left: str) -> None:
    """A client between two uploads has no blob that would tell."""
    cut_off(path)
    (path.parent / "status.json").write_text("{}")
    (path.parent / "blobs" / "incoming").mkdir(parents=True)
    for entry in list(path.parent.iterdir()):
        if entry.is_file() and entry.name != left:
            entry.unlink()
    with pytest.raises(StorageError, match=f"{left} is there: this node has run before"):
        require_no_orphans(path, path.parent / "blobs")


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize(
    "action", [FileAction.CREATE, FileAction.WRITE, FileAction.RENAME, FileAction.SYNC_FOLDER]
)
async def test_a_first_start_that_was_cut_off_is_begun_again(
    path: Path, action: FileAction, when: When
) -> None:
    def cut(at: When, step: Step) -> None:
        if at is when and step == FileStep(action, FileKind.DATABASE):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Storage.open(path, observe=cut)
    # As after a power cut in the draft's own journal.
    for suffix in ("-journal", "-wal"):
        (path.parent / f"state.sqlite.new{suffix}").write_bytes(b"left over")
    require_no_orphans(path, path.parent / "blobs")
    named = path.exists()
    if named:
        # In its final form from the first moment: a change of journal under this name could need a repair.
        assert path.read_bytes()[18:20] == b"\x02\x02"
    assert await load(path) == {table: {} for table in Table}
    assert named or not list(path.parent.glob("*.new*"))


async def commit_until_refused(storage: Storage, kept: list[bytes]) -> None:
    for number in range(4):
        await storage.commit([Put(Table.LOCKS, bytes([number]), b"x")])
        kept.append(bytes([number]))


async def test_a_refusal_by_the_disk_at_any_step_of_a_commit_loses_nothing_before_it(path: Path) -> None:
    for place in range(1, 8):
        shutil.rmtree(path.parent, ignore_errors=True)
        count = 0

        def full(when: When, step: Step, place: int = place) -> None:
            nonlocal count
            if isinstance(step, FileStep) or when is When.AFTER:
                return
            count += 1
            if count >= place:
                raise OSError(28, os.strerror(28))

        storage = Storage.open(path, observe=full)
        kept: list[bytes] = []
        with pytest.raises(StorageError, match="No space left") as caught:
            await commit_until_refused(storage, kept)
        assert str(path) in str(caught.value)
        with pytest.raises(StorageError, match="No space left"):
            await storage.commit([Put(Table.LOCKS, b"later", b"x")])
        await storage.close()
        assert sorted((await load(path))[Table.LOCKS]) == kept
