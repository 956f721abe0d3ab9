"""The state of a node that runs is read from a copy: one that is of a single moment, or none."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncfl.effects import Put, Table
from asyncfl.errors import StorageError
from node import privacy_events
from node.privacy_events import read_table
from node.storage import Storage

OWNER = b"deployment and key"


@pytest.fixture
async def running(tmp_path: Path) -> Path:
    """The state of a node that has been running for a while, and has something in its log."""
    path = tmp_path / "state.sqlite"
    storage = Storage.open(path, owner=OWNER)
    await storage.commit([Put(Table.PRIVACY, b"1", b"event")])
    os.utime(path, (time.time() - 60,) * 2)
    return path


def around_the_log(monkeypatch: pytest.MonkeyPatch, what: Iterator[Any]) -> None:
    """Take the next step of `what` whenever the log is about to be copied."""
    copyfile = shutil.copyfile

    def copy(source: Path, target: Path) -> None:
        if source.name.endswith("-wal"):
            next(what)
        copyfile(source, target)

    monkeypatch.setattr(privacy_events.shutil, "copyfile", copy)


async def test_a_copy_in_which_the_log_began_anew_is_thrown_away(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = running.with_name("state.sqlite-wal")
    whole = log.read_bytes()

    def begin_anew() -> Iterator[None]:
        log.write_bytes(bytes(32) + whole[32:])
        yield
        log.write_bytes(whole)
        yield
        yield

    around_the_log(monkeypatch, begin_anew())
    assert read_table(running, OWNER, Table.PRIVACY) == {b"1": b"event"}


async def test_a_full_disk_for_copies_is_not_taken_for_the_nodes(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> Iterator[None]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    around_the_log(monkeypatch, full())
    with pytest.raises(StorageError, match=r"no room for a copy of .*set TMPDIR") as caught:
        read_table(running, OWNER, Table.PRIVACY)
    assert not str(caught.value).startswith(str(running))
