"""What goes into a state file comes out again, all or nothing, and bad files are refused untouched."""

# ruff: noqa: ASYNC220, ASYNC240  (nothing else runs on these tests' event loops)

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.effects import Delete, Put, Table
from asyncfl.errors import StorageError
from node import state_file
from node.storage import Storage

OWNER = b"deployment and key"


def run(script: str, *arguments: object, expect: int = 0) -> str:
    """Run `script` in a process of its own; returns its output."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expect, done.stderr
    return done.stdout


async def filled(path: Path, count: int = 200) -> None:
    """Write a state file with rows in two tables and close it."""
    storage = Storage.open(path, owner=OWNER)
    rows = [(number.to_bytes(4, "big"), bytes([number % 256]) * (50 + number)) for number in range(count)]
    await storage.commit([Put(Table.LOCKS, key, value) for key, value in rows])
    await storage.commit([Put(Table.SHARES, key, value[::-1]) for key, value in rows])
    await storage.close()


async def content(path: Path) -> dict[Table, dict[bytes, bytes]]:
    storage = Storage.open(path, owner=OWNER)
    try:
        return storage.load()
    finally:
        await storage.close()


def on_thread(storage: Storage, statement: str) -> None:
    storage._thread.submit(storage._connection.execute, statement).result()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "state.sqlite"


async def test_a_new_file_has_every_table_empty(path: Path) -> None:
    assert await content(path) == {table: {} for table in Table}


async def test_writes_are_applied_in_order_and_kept(path: Path) -> None:
    storage = Storage.open(path)
    await storage.commit(
        [Put(Table.META, b"a", b"1"), Put(Table.META, b"a", b"2"), Put(Table.ITEMS, b"", b"")]
    )
    await storage.commit([Delete(Table.META, b"b"), Put(Table.META, b"b", b"3"), Delete(Table.ITEMS, b"")])
    await storage.close()
    again = Storage.open(path)
    loaded = again.load()
    await again.close()
    assert loaded[Table.META] == {b"a": b"2", b"b": b"3"}
    assert loaded[Table.ITEMS] == {}


async def test_concurrent_commits_are_all_kept(path: Path) -> None:
    storage = Storage.open(path)
    await asyncio.gather(*(storage.commit([Put(Table.META, bytes([n]), b"x")]) for n in range(50)))
    assert len(storage.load()[Table.META]) == 50
    await storage.close()


async def test_a_commit_after_close_is_refused(path: Path) -> None:
    storage = Storage.open(path)
    await storage.close()
    with pytest.raises(StorageError, match="already closed"):
        await storage.commit([Put(Table.META, b"a", b"1")])


async def test_files_of_a_node_are_private(path: Path) -> None:
    storage = Storage.open(path)
    await storage.commit([Put(Table.SHARES, b"a", b"secret")])
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert path.parent.stat().st_mode & 0o077 == 0
    await storage.close()


async def test_a_deleted_share_is_not_left_in_the_file(path: Path) -> None:
    storage = Storage.open(path)
    await storage.commit([Put(Table.SHARES, b"a", b"a very recognisable share" * 20)])
    await storage.close()
    assert b"recognisable" in path.read_bytes()
    storage = Storage.open(path)
    await storage.commit([Delete(Table.SHARES, b"a")])
    await storage.close()
    assert b"recognisable" not in path.read_bytes()


# --- refused, and left as they are -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"\0" * 4096 + data[4096:],
        lambda data: b"not a database at all" * 1000,
        lambda data: data[: len(data) // 2],
        lambda data: data[:8192] + os.urandom(4096) + data[12288:],
        lambda data: b"",
    ],
    ids=["no header", "another file", "cut in half", "a page of noise", "cut to nothing"],
)
async def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage) -> None:
    await filled(path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(StorageError) as caught:
        await content(path)
    message = str(caught.value)
    assert str(path) in message
    assert "damaged" in message
    assert "under its identity" in message
    assert path.read_bytes() == damaged


@pytest.fixture(scope="module")
def sound() -> bytes:
    folder = Path(tempfile.mkdtemp())
    asyncio.run(filled(folder / "state.sqlite", 20))
    data = (folder / "state.sqlite").read_bytes()
    shutil.rmtree(folder)
    return data


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_changes_what_is_loaded(sound: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sound) * 8 - 1))
    flipped = bytearray(sound)
    flipped[place // 8] ^= 1 << place % 8

    async def load(file: bytes) -> dict[Table, dict[bytes, bytes]]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.sqlite"
            path.write_bytes(file)
            return await content(path)

    try:
        loaded = asyncio.run(load(bytes(flipped)))
    except StorageError:
        return
    assert loaded == asyncio.run(load(sound))


async def test_a_newer_schema_is_refused_with_the_version_that_is_needed(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE about SET value = ? WHERE name = 'program'", (b"9.8.7",))
    before = path.read_bytes()
    with pytest.raises(
        StorageError, match=r"asyncfl 9\.8\.7 \(schema 99\).*Run asyncfl 9\.8\.7 or newer"
    ) as caught:
        await content(path)
    assert "Nothing was changed" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [0, -(2**31)])
async def test_a_schema_that_never_was_is_damage(path: Path, number: int) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {number}")
    with pytest.raises(StorageError, match=f"damaged.*schema is number {number}"):
        await content(path)


async def test_another_nodes_file_is_refused(path: Path) -> None:
    await filled(path)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="another node or deployment"):
        Storage.open(path, owner=b"somebody else")
    assert path.read_bytes() == before


async def test_another_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="not a state file of asyncfl"):
        Storage.open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_open_elsewhere_is_refused_until_that_process_dies(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from pathlib import Path; from node.storage import Storage\n"
         "s = Storage.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder, holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match=f"in use by process {holder.pid}; .*stop that process first"):
            Storage.open(path)
        holder.kill()
        holder.wait()
    storage = Storage.open(path)
    with pytest.raises(StorageError, match=f"in use by process {os.getpid()}"):
        Storage.open(path)
    await storage.close()


async def test_a_lost_state_file_beside_blobs_is_refused(tmp_path: Path) -> None:
    database, blobs = tmp_path / "state.sqlite", tmp_path / "blobs"
    state_file.require_no_orphans(database, blobs)
    (blobs / "ab").mkdir(parents=True)
    state_file.require_no_orphans(database, blobs)
    (blobs / "ab" / "abcd").write_bytes(b"an upload")
    with pytest.raises(StorageError, match="has run before"):
        state_file.require_no_orphans(database, blobs)
    await filled(database)
    state_file.require_no_orphans(database, blobs)


# --- migrations ------------------------------------------------------------------------------------------


def test_the_schema_has_exactly_the_tables_that_machines_write() -> None:
    created = "\n".join(statement for step in state_file.MIGRATIONS for statement in step)
    for table in Table:
        assert f'"{table}"' in created, f"a new table needs a migration: {table}"


async def test_an_older_file_is_migrated_with_its_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path, 5)
    before = await content(path)
    step = ("ALTER TABLE meta ADD COLUMN extra INTEGER",)
    monkeypatch.setattr(state_file, "MIGRATIONS", (*state_file.MIGRATIONS, step))
    newer = len(state_file.MIGRATIONS)
    monkeypatch.setattr(state_file, "SCHEMA_VERSION", newer)
    assert await content(path) == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (newer,)


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path, 5)
    before = await content(path)
    with monkeypatch.context() as patched:
        broken = ("DELETE FROM locks", "ALTER TABLE nowhere ADD COLUMN extra INTEGER")
        patched.setattr(state_file, "MIGRATIONS", (*state_file.MIGRATIONS, broken))
        patched.setattr(state_file, "SCHEMA_VERSION", len(state_file.MIGRATIONS))
        with pytest.raises(StorageError):
            await content(path)
    assert await content(path) == before


async def test_a_creation_that_was_cut_off_is_begun_again(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("state.sqlite.new").write_bytes(b"half a database")
    assert await content(path) == {table: {} for table in Table}


# --- a disk that refuses ---------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing_and_stops_all_later_commits(path: Path) -> None:
    await filled(path)
    before = await content(path)
    storage = Storage.open(path, owner=OWNER)
    on_thread(storage, "PRAGMA max_page_count = 1")  # becomes the present size
    with pytest.raises(StorageError, match=r"the disk is full; free some space") as caught:
        await storage.commit([Put(Table.META, b"small", b"1"), Put(Table.META, b"big", bytes(1 << 20))])
    assert str(path) in str(caught.value)
    on_thread(storage, "PRAGMA max_page_count = 1000000")
    with pytest.raises(StorageError, match="the disk is full"):
        await storage.commit([Put(Table.META, b"small", b"1")])
    await storage.close()
    assert await content(path) == before


def test_a_write_that_the_system_cuts_off_loses_no_earlier_commit(path: Path) -> None:
    # The limit on file sizes makes real writes fail, in the middle, like a disk that fills up.
    output = run(
        """
        import asyncio, resource, sys
        from pathlib import Path
        from asyncfl.effects import Put, Table
        from asyncfl.errors import StorageError
        from node.storage import Storage

        async def main():
            storage = Storage.open(Path(sys.argv[1]), owner=b"deployment and key")
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
            done = 0
            try:
                while True:
                    await storage.commit([Put(Table.META, b"%d" % done, bytes(5000))])
                    done += 1
            except StorageError as error:
                print(done, error)
            await storage.close()

        asyncio.run(main())
        """,
        path,
    )
    done, _, message = output.partition(" ")
    assert int(done) > 10
    assert str(path) in message
    assert "check the disk" in message
    assert set(asyncio.run(content(path))[Table.META]) >= {b"%d" % number for number in range(int(done))}


@pytest.mark.parametrize("existing", [True, False], ids=["existing file", "new file"])
def test_a_directory_that_cannot_be_written_is_refused(existing: bool) -> None:
    # Not below pytest's own folder: another user, which root becomes here, cannot enter that.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node" / "state.sqlite"
        path.parent.mkdir()
        if existing:
            asyncio.run(filled(path))
        for file in path.parent.iterdir():
            file.chmod(0o444)
        path.parent.chmod(0o555)
        Path(folder).chmod(0o755)
        output = run(
            """
            import os, sys
            from pathlib import Path
            from asyncfl.errors import StorageError
            from node.storage import Storage
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            try:
                Storage.open(Path(sys.argv[1]), owner=b"deployment and key")
            except StorageError as error:
                print(error)
            """,
            path,
        )
        path.parent.chmod(0o755)
        assert str(path) in output
        assert "writable" in output
