"""The store on disk: complete or absent, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.digest import content_digest
from asyncfl.errors import InvalidItem, LocalProtocolError, StorageError
from node import blobs
from node.blobs import MAX_SUSPENDED, BlobStore

SOURCE = b"s" * 32


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_what_is_written_is_read_back_under_its_digest(store: BlobStore) -> None:
    for data in (b"", b"x", bytes(1 << 20)):
        digest = store.write(data)
        assert digest == content_digest(data)
        assert store.has(digest)
        assert store.size(digest) == len(data)
        assert store.read(digest) == data
        assert store.write(data) == digest
    assert len(list(store.digests())) == 3


def test_the_file_is_in_a_folder_of_two_digits_and_nothing_stays_in_incoming(store: BlobStore) -> None:
    digest = store.write(b"x")
    assert store.path(digest) == store.root / digest.hex()[:2] / digest.hex()
    assert list((store.root / "incoming").iterdir()) == []


def test_an_absent_blob_is_a_storage_error_that_names_it(store: BlobStore) -> None:
    digest = content_digest(b"absent")
    assert not store.has(digest)
    for call in (store.read, store.size, lambda name: store.read_into(name, 0, memoryview(bytearray(1)))):
        with pytest.raises(StorageError, match=digest.hex()):
            call(digest)
    store.delete(digest)


def test_a_range_is_read_into_place_and_must_be_there(store: BlobStore) -> None:
    digest = store.write(b"0123456789")
    target = bytearray(b"......")
    store.read_into(digest, 3, memoryview(target)[1:5])
    assert target == b".3456."
    with pytest.raises(StorageError, match="shorter"):
        store.read_into(digest, 8, memoryview(target))


def test_a_damaged_blob_is_noticed_when_it_is_read(store: BlobStore) -> None:
    digest = store.write(b"precious")
    store.path(digest).write_bytes(b"precioux")
    with pytest.raises(StorageError, match="damaged"):
        store.read(digest)


def test_a_deleted_blob_is_gone(store: BlobStore) -> None:
    digest = store.write(b"x")
    store.delete(digest)
    assert not store.has(digest)


def test_a_name_of_the_wrong_length_is_our_own_bug(store: BlobStore) -> None:
    with pytest.raises(LocalProtocolError):
        store.has(b"../../etc/passwd")


def test_leftovers_are_cleaned_at_start_and_complete_blobs_stay(store: BlobStore) -> None:
    digest = store.write(b"x")
    incoming = store.receive(SOURCE, content_digest(b"long enough"), 11)
    incoming.append([b"long"])
    incoming.suspend()
    (store.root / "incoming" / "17.tmp").write_bytes(b"torn")
    again = BlobStore(store.root)
    assert list((store.root / "incoming").iterdir()) == []
    assert again.read(digest) == b"x"


def test_what_somebody_else_put_among_the_blobs_is_left_alone(store: BlobStore) -> None:
    digest = store.write(b"x")
    strange = store.path(digest).parent / ".DS_Store"
    strange.write_bytes(b"")
    (store.root / "ab").mkdir(exist_ok=True)
    (store.root / "ab" / "notes.txt").write_bytes(b"")
    assert list(store.digests()) == [digest]
    assert strange.exists()


def test_a_process_killed_while_writing_leaves_a_complete_blob_or_none(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom node.blobs import BlobStore\n"
        "store = BlobStore(sys.argv[1])\nprint('ready', flush=True)\n"
        "for number in range(10**6): store.write(number.to_bytes(8, 'little') * 20000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(0.25)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait(5)
    process.stdout.close()
    store = BlobStore(tmp_path)
    names = list(store.digests())
    assert names
    for digest in names:
        assert len(store.read(digest)) == 160_000


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.data())
def test_a_receive_interrupted_anywhere_ends_with_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    digest = content_digest(content)
    incoming = store.receive(SOURCE, digest, len(content))
    while incoming.offset < len(content):
        if data.draw(st.booleans()):
            offset = incoming.offset
            incoming.suspend()
            incoming = store.receive(SOURCE, digest, len(content))
            assert incoming.offset == offset
        size = data.draw(st.integers(1, 1000))
        incoming.append([content[incoming.offset : incoming.offset + size]])
    incoming.finish()
    assert store.read(digest) == content


def test_wrong_content_is_refused_and_deleted(store: BlobStore) -> None:
    digest = content_digest(b"right")
    incoming = store.receive(SOURCE, digest, 5)
    incoming.append([b"wrong"])
    with pytest.raises(InvalidItem, match="digest"):
        incoming.finish()
    assert not store.has(digest)
    assert list((store.root / "incoming").iterdir()) == []
    assert store.receive(SOURCE, digest, 5).offset == 0


def test_one_sources_half_is_not_continued_by_another(store: BlobStore) -> None:
    digest = content_digest(b"0123456789")
    incoming = store.receive(SOURCE, digest, 10)
    incoming.append([b"01234"])
    incoming.suspend()
    other = store.receive(b"t" * 32, digest, 10)
    assert other.offset == 0
    assert store.receive(SOURCE, digest, 10).offset == 5


def test_another_announced_size_starts_again(store: BlobStore) -> None:
    digest = content_digest(b"0123456789")
    incoming = store.receive(SOURCE, digest, 10)
    incoming.append([b"01234"])
    incoming.suspend()
    assert store.receive(SOURCE, digest, 11).offset == 0


def test_a_receive_under_way_is_not_begun_twice(store: BlobStore) -> None:
    digest = content_digest(b"x")
    incoming = store.receive(SOURCE, digest, 1)
    with pytest.raises(LocalProtocolError):
        store.receive(SOURCE, digest, 1)
    incoming.discard()
    store.receive(SOURCE, digest, 1)


def test_growing_beyond_the_size_is_our_own_bug(store: BlobStore) -> None:
    incoming = store.receive(SOURCE, content_digest(b"x"), 1)
    with pytest.raises(LocalProtocolError):
        incoming.append([b"xy"])


def test_interrupted_receives_are_kept_in_a_bounded_number(store: BlobStore) -> None:
    for number in range(MAX_SUSPENDED + 10):
        incoming = store.receive(SOURCE, content_digest(bytes([number])), 10)
        incoming.append([b"x"])
        incoming.suspend()
    assert len(list((store.root / "incoming").iterdir())) == MAX_SUSPENDED
    assert store.receive(SOURCE, content_digest(bytes([0])), 10).offset == 0
    assert store.receive(SOURCE, content_digest(bytes([MAX_SUSPENDED])), 10).offset == 1


def test_a_partial_file_that_changed_meanwhile_is_not_continued(store: BlobStore) -> None:
    digest = content_digest(b"0123456789")
    incoming = store.receive(SOURCE, digest, 10)
    incoming.append([b"01234"])
    incoming.suspend()
    (part,) = (store.root / "incoming").iterdir()
    part.write_bytes(b"0")
    assert store.receive(SOURCE, digest, 10).offset == 0


def test_writers_of_the_same_blob_do_not_disturb_each_other(store: BlobStore) -> None:
    data = bytes(200_000)
    threads = [threading.Thread(target=store.write, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(content_digest(data)) == data
    assert list((store.root / "incoming").iterdir()) == []


def test_a_blob_is_synced_before_it_gets_its_name(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (order.append("rename"), rename(self, to))[1])
    store.write(b"x")
    assert order.index("fsync") < order.index("rename")
    assert order[-1] == "fsync"
    assert order.count("fsync") == 3  # the file, the new folder's name, the file's name


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(28, "disk is full"), (30, "read-only"), (13, "permission"), (5, "hardware"), (122, "quota")],
)
def test_a_refusing_disk_is_a_storage_error_with_a_remedy(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(blobs, "_write_all", refuse)
    with pytest.raises(StorageError, match=remedy) as caught:
        store.write(b"x")
    assert str(store.root) in str(caught.value)
    assert list((store.root / "incoming").iterdir()) == []
    incoming = store.receive(SOURCE, content_digest(b"x"), 1)
    with pytest.raises(StorageError, match=remedy):
        incoming.append([b"x"])
    incoming.discard()
    monkeypatch.undo()
    assert store.read(store.write(b"x")) == b"x"


def test_a_root_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        BlobStore(tmp_path / "file")
