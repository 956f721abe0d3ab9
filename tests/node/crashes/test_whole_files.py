"""Files of the operator and the parties, written by a process that is killed at every one of its system calls."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.identity import Identity
from node import whole_files
from node.deployment_files import read_key, write_key
from node.whole_files import write_whole

KILLED_EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from node.deployment_files import read_key, write_key
from node.whole_files import write_whole

CALLS = ("open", "fdopen", "fchmod", "fsync", "link", "replace", "unlink", "mkdir", "close")

def killed_at(place, work):
    # Whether `work` was killed before its `place`-th system call; each is a process.
    child = os.fork()
    if not child:
        count = itertools.count(1)
        for name in CALLS:
            def call(*arguments, real=getattr(os, name), **options):
                if next(count) == place:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)
            setattr(os, name, call)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

root = Path(sys.argv[1])
kills = 0
for place in itertools.count(1):
    key = root / f"keys-{place}" / "node.key"
    killed = killed_at(place, lambda: write_key(key, Identity.generate()))
    if key.exists():
        read_key(key)
    else:
        assert killed
        # What was interrupted can be done again.
        write_key(key, Identity.generate())
    if not killed:
        break
    kills += 1
for place in itertools.count(1):
    file = root / f"deployment-{place}.toml"
    file.write_bytes(b"old")
    killed = killed_at(place, lambda: write_whole(file, b"new"))
    assert file.read_bytes() in ((b"old", b"new") if killed else (b"new",))
    if not killed:
        break
    kills += 1
print(kills)
"""


def test_a_key_and_a_deployment_file_are_whole_or_as_before_wherever_the_writer_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12


def test_a_full_disk_leaves_neither_part_of_a_file_nor_a_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    with pytest.raises(StorageError, match=r"node\.key: cannot write the key file: No space left"):
        write_key(tmp_path / "node.key", Identity.generate())
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
    identity = Identity.generate()
    write_key(tmp_path / "node.key", identity)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        write_key(tmp_path / "node.key", Identity.generate())
    assert read_key(tmp_path / "node.key").public == identity.public
