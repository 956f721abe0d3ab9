"""A disk that is full, read-only or failing, and state that cannot be trusted: what a person sees, and what goes on."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asyncfl.client.context import PENDING
from asyncfl.effects import Table
from asyncfl.messages import Manifest
from node.deployment_creation import NewDeployment
from node.steps import When
from tests.node.crashes.deployment import Nodes
from tests.node.crashes.faults import Fault
from tests.node.crashes.test_every_point import PARTY, WANTED, finish, start_but

STORAGE_CODE = 3


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A replica that has run once, without anybody to talk to."""
    with Nodes(tmp_path_factory.mktemp("lonely"), NewDeployment(clients=4)) as nodes:
        run_once(nodes)
        yield nodes


def run_once(nodes: Nodes) -> None:
    nodes.start("replica-0")
    nodes.until("replica-0 to be up", nodes.all_up)
    nodes.ask_to_stop("replica-0")
    assert nodes.wait_end("replica-0") == 0


def refusal(nodes: Nodes, name: str, fault: Fault | None = None) -> str:
    """Start a node that must end with the code for its disk; returns what it said last, one line for a person."""
    log = nodes.log(name)
    before = log.stat().st_size if log.exists() else 0
    nodes.start(name, fault=fault)
    return ending(nodes, name, before)


def ending(nodes: Nodes, name: str, before: int) -> str:
    code = nodes.wait_end(name)
    said = nodes.log(name).read_text()[before:]
    assert code == STORAGE_CODE, said
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE about SET value = ? WHERE name = 'program'", (b"9.8.7",))


def foreign_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


REPLACED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a newer database": (newer, "Run asyncfl 9.8.7 or newer"),
    "a text file": (lambda path: path.write_text("shopping list\n" * 500), "is damaged"),
    "another program's database": (foreign_database, "not a state file of asyncfl; move it away"),
    "a directory": (folder_instead, "put the node's state file back"),
    "an empty file": (lambda path: path.write_bytes(b""), "is damaged (the file is empty)"),
    "nothing": (lambda path: path.unlink(), "the state file is gone"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", list(REPLACED))
def test_what_lies_in_place_of_the_database_is_named_and_left_alone(lonely: Nodes, what: str) -> None:
    replace, words = REPLACED[what]
    path = lonely.files.state("replica-0") / "state.sqlite"
    kept = path.with_name("kept")
    shutil.copyfile(path, kept)
    try:
        replace(path)
        before = path.read_bytes() if path.is_file() else None
        said = refusal(lonely, "replica-0")
        assert said.startswith(f"error: {path}: "), said
        assert words in said
        assert (path.read_bytes() if path.is_file() else None) == before
    finally:
        if path.is_dir():
            path.rmdir()
        kept.replace(path)
    run_once(lonely)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("point", "number", "words"),
    [
        ("write blob", errno.ENOSPC, "the disk is full: free some space"),
        ("create blob", errno.EROFS, "the file system is read-only: remount it writable"),
        ("delete blob", errno.EIO, "the disk reports an input/output error"),
    ],
)
def test_a_disk_that_refuses_at_the_start_is_named_with_the_remedy(
    lonely: Nodes, point: str, number: int, words: str
) -> None:
    said = refusal(lonely, "replica-0", Fault(point, When.BEFORE, refusal=number))
    assert said.startswith(f"error: {lonely.files.state('replica-0')}/"), said
    assert words in said
    run_once(lonely)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_disk_that_refuses_while_it_runs_stops_the_node_before_it_says_more(tmp_path: Path) -> None:
    """And when the disk takes writes again, the node goes on where it was."""
    refused = [
        (("replica-0",), "commit", errno.ENOSPC, "No space left on device"),
        (("replica-0",), "put locks", errno.EROFS, "Read-only file system"),
        (("replica-0",), "write received blob", errno.ENOSPC, "the disk is full: free some space"),
        (("replica-0",), "sync folder received blob", errno.EIO, "check the hardware"),
        (("replica-0",), "write blob", errno.EDQUOT, "the disk quota is used up"),
        (PARTY, "put privacy", errno.ENOSPC, "No space left on device"),
        (PARTY, "write blob", errno.ENOSPC, "the disk is full: free some space"),
        (PARTY, "create received blob", errno.EROFS, "the file system is read-only"),
    ]
    with Nodes(tmp_path, WANTED) as nodes:
        start_but(nodes)
        nodes.until("the first entries", lambda: nodes.status("replica-3").get("entries", 0) >= 1)
        for names, point, number, words in refused:
            nodes.kill(names[0])
            log = nodes.log(names[0])
            before = log.stat().st_size
            nodes.start(*names, fault=Fault(point, When.BEFORE, number=3, refusal=number))
            said = ending(nodes, names[0], before)
            assert said.startswith("error: "), said
            assert words in said
            for name in names:
                nodes.check_promises(name)
            nodes.start(*names)
        finish(nodes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_client_whose_upload_is_lost_makes_no_other_one(tmp_path: Path, damage: str) -> None:
    with Nodes(tmp_path, WANTED) as nodes:
        start_but(nodes, PARTY[0])
        nodes.crash(PARTY, Fault("put privacy", When.AFTER))
        name = next(name for name in PARTY if nodes.durable(name)[Table.META].get(PENDING))
        upload = Manifest.decode(nodes.durable(name)[Table.META][PENDING]).core.upload.hex()
        path = nodes.files.state(name) / "blobs" / upload[:2] / upload
        kept = path.read_bytes()
        path.unlink() if damage == "missing" else path.write_bytes(kept[:-100])
        log = nodes.log(PARTY[0])
        before = log.stat().st_size
        nodes.start(*PARTY)
        said = ending(nodes, PARTY[0], before)
        assert said.startswith(f"error: {path}"), said
        path.write_bytes(kept)
        nodes.start(*PARTY)
        finish(nodes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_replica_on_a_disk_that_is_really_full_stops_and_catches_up(tmp_path: Path) -> None:
    """In a mount namespace of its own, where the replica's state lies on a disk of one megabyte."""
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this system gives nobody a mount namespace")
    command = [unshare, "-rm", sys.executable, "-m", "tests.node.crashes.small_disk", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    full, read_only = done.stdout.strip().splitlines()[-2:]
    for said in (full, read_only):
        assert said.startswith("error: "), said
        assert "state/replica-1" in said
    assert "full" in full or "No space left on device" in full
    assert "Read-only file system" in read_only or "read-only" in read_only
