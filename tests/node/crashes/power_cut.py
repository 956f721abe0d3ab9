"""What a disk may hold after a power cut: read from the system calls that a process has made.

`strace` writes down every write, rename and fsync, in order. At any moment the disk holds what was synced, and of the
rest any part: a write may be lost or torn at any sector, the names in a directory may be those of the last sync or of
any moment since. Directories are taken to lose their last changes in order, as journals do; files in any order.
"""

from __future__ import annotations

import codecs
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

STRACE: Final = shutil.which("strace")
CALLS: Final = (
    "openat,write,pwrite64,ftruncate,lseek,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "mkdir,mkdirat"
)
SECTOR: Final = 512
_LINE: Final = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(.*)", re.DOTALL)
_UNFINISHED: Final = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>", re.DOTALL)
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_TEXT: Final = r'"((?:[^"\\]|\\.)*)"'


def traced(trace: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` and writes its system calls to `trace`."""
    assert STRACE is not None
    options = ["-f", "-qq", "-y", "-x", "-s", "8000000", "-e", f"trace={CALLS}", "-e", "signal=none"]
    return [STRACE, *options, "-o", str(trace), "--", *command]


@dataclass(frozen=True, slots=True)
class Inode:
    """A file or a directory, whatever it is called: files that have the same name one after the other are different."""

    number: int
    is_folder: bool = False


@dataclass(slots=True)
class Change:
    """One thing that may or may not be on disk at a power cut."""

    synced_by: int | None = None
    """Number of the event after which it is certainly on disk."""


@dataclass(slots=True)
class Named(Change):
    """A name in a directory: `inode` appears under `path`, `old` disappears."""

    path: str = ""
    inode: Inode | None = None
    old: str = ""


@dataclass(slots=True)
class Written(Change):
    inode: Inode = field(default_factory=lambda: Inode(-1))
    offset: int = 0
    data: bytes = b""
    size: int | None = None
    """Cut to this size, instead."""


@dataclass(slots=True)
class Said:
    """A line that the process wrote where the test listens: what it takes to be durable from then on."""

    text: str


Event = Named | Written | Said


class Recording:
    """The system calls of one process on the files under `root`, which did not exist before."""

    def __init__(self, trace: Path, root: Path, heard: Path) -> None:
        """`heard` is a file to which the process writes what it takes to be durable."""
        self.events: list[Event] = []
        self._root = str(root)
        self._heard = str(heard)
        self._names: dict[str, Inode] = {str(root): Inode(0, is_folder=True)}
        self._offsets: dict[int, int] = {}
        self._inodes = 0
        reached = [0]
        for began, name, arguments, result in _calls(trace):
            if not result.startswith("-"):
                self._take(name, arguments, result, reached[began])
            reached.append(len(self.events))

    def _take(self, name: str, arguments: str, result: str, before: int) -> None:
        """One call that has ended; when it began there were `before` events."""
        match name:
            case "openat":
                self._open(arguments, result)
            case "write":
                self._write(arguments)
            case "pwrite64":
                self._pwrite(arguments)
            case "ftruncate":
                if (inode := self._names.get(_descriptor(arguments)[1])) is not None:
                    self.events.append(Written(inode=inode, size=int(arguments.rsplit(", ", 1)[1])))
            case "lseek":
                self._offsets[_descriptor(arguments)[0]] = int(result.split(maxsplit=1)[0])
            case "fsync" | "fdatasync":
                self._sync(_descriptor(arguments)[1], before)
            case "rename" | "renameat" | "renameat2":
                old, new = _texts(arguments)
                if self._inside(new):
                    inode = self._names.pop(old)
                    self._names[new] = inode
                    self.events.append(Named(path=new, inode=inode, old=old))
            case "unlink" | "unlinkat":
                path = _texts(arguments)[0]
                if self._inside(path):
                    self._names.pop(path)
                    self.events.append(Named(old=path))
            case "mkdir" | "mkdirat":
                self._create(_texts(arguments)[0], is_folder=True)

    def _inside(self, path: str) -> bool:
        return path.startswith(self._root + os.sep)

    def _create(self, path: str, *, is_folder: bool = False) -> None:
        if self._inside(path):
            self._inodes += 1
            self._names[path] = Inode(self._inodes, is_folder)
            self.events.append(Named(path=path, inode=self._names[path]))

    def _open(self, arguments: str, result: str) -> None:
        number, path = _descriptor(result)
        self._offsets[number] = 0
        if not self._inside(path):
            return
        if path not in self._names:
            assert "O_CREAT" in arguments, arguments
            self._create(path)
        elif "O_TRUNC" in arguments:
            self.events.append(Written(inode=self._names[path], size=0))

    def _write(self, arguments: str) -> None:
        number, path = _descriptor(arguments)
        data = _data(arguments)
        offset = self._offsets.get(number, 0)
        self._offsets[number] = offset + len(data)
        if path == self._heard:
            self.events += [Said(line) for line in data.decode().splitlines()]
        elif path in self._names:
            self.events.append(Written(inode=self._names[path], offset=offset, data=data))

    def _pwrite(self, arguments: str) -> None:
        _, path = _descriptor(arguments)
        if path in self._names:
            offset = int(arguments.rsplit(", ", 1)[1])
            self.events.append(Written(inode=self._names[path], offset=offset, data=_data(arguments)))

    def _sync(self, path: str, before: int) -> None:
        """What was complete when the sync began is on disk once it has ended: from the next event on."""
        inode = self._names.get(path)
        if inode is None:
            return
        for event in self.events[:before]:
            if isinstance(event, Said) or event.synced_by is not None:
                continue
            if isinstance(event, Written):
                mine = event.inode is inode
            else:
                mine = os.path.dirname(event.path or event.old) == path
            if mine:
                event.synced_by = len(self.events)

    def said(self, moment: int) -> list[str]:
        """What the process had said in the first `moment` events."""
        return [event.text for event in self.events[:moment] if isinstance(event, Said)]

    def disk_after_cut(self, moment: int, target: Path, chance: random.Random, kept: float) -> None:
        """Write to `target` what may be left of the root when the power goes after the first `moment` events.

        Of what was not synced a write is kept with probability `kept`, and torn as often as not.
        """
        names = {self._root: Inode(0, is_folder=True)}
        contents: dict[int, bytearray] = {}
        stopped: set[str] = set()
        for event in self.events[:moment]:
            if isinstance(event, Said):
                continue
            sure = event.synced_by is not None and event.synced_by <= moment
            if isinstance(event, Written):
                _apply(event, contents.setdefault(event.inode.number, bytearray()), sure, chance, kept)
                continue
            folder = os.path.dirname(event.path or event.old)
            if not sure and (folder in stopped or chance.random() >= kept):
                # Later changes of this directory are lost too.
                stopped.add(folder)
                continue
            if event.old:
                names.pop(event.old, None)
            if event.inode is not None:
                names[event.path] = event.inode
        for path, inode in sorted(names.items()):
            place = target / os.path.relpath(path, self._root)
            if not place.parent.is_dir():
                continue  # The directory's own name was lost.
            if inode.is_folder:
                place.mkdir(exist_ok=path == self._root)
            else:
                place.write_bytes(contents.get(inode.number, b""))


def _apply(event: Written, content: bytearray, sure: bool, chance: random.Random, kept: float) -> None:
    if event.size is not None:
        if sure or chance.random() < kept:
            del content[event.size :]
            content.extend(bytes(event.size - len(content)))
        return
    torn = not sure and chance.random() < 0.5
    if not sure and not torn and chance.random() >= kept:
        return
    for start in range(0, len(event.data), SECTOR):
        if torn and chance.random() >= kept:
            continue
        part = event.data[start : start + SECTOR]
        place = event.offset + start
        content.extend(bytes(max(0, place + len(part) - len(content))))
        content[place : place + len(part)] = part


def _calls(trace: Path) -> Iterator[tuple[int, str, str, str]]:
    """(how many calls had ended when it began, name, arguments, result) of every call, in the order of their ends."""
    waiting: dict[str, tuple[int, str]] = {}
    ended = 0
    for line in trace.read_text(errors="surrogateescape").splitlines():
        if unfinished := _UNFINISHED.fullmatch(line):
            waiting[unfinished[1]] = (ended, unfinished[3])
            continue
        began = ended
        if resumed := _RESUMED.fullmatch(line):
            began, head = waiting.pop(resumed[1])
            whole = f"{resumed[1]} {resumed[2]}({head}{resumed[3]}"
        else:
            whole = line
        if call := _LINE.fullmatch(whole):
            ended += 1
            yield began, call[2], call[3], call[4] + call[5]


def _descriptor(text: str) -> tuple[int, str]:
    """`5</path>` as (5, "/path")."""
    found = re.match(r"(\d+)(?:<(.*?)>(?:\(deleted\))?(?=$|[,) ]))?", text)
    assert found is not None, text[:200]
    return int(found[1]), (found[2] or "").removesuffix(" (deleted)")


def _texts(arguments: str) -> list[str]:
    return [_unescape(text).decode() for text in re.findall(_TEXT, arguments)]


def _data(arguments: str) -> bytes:
    found = re.search(_TEXT, arguments[arguments.index(">, ") :] if ">, " in arguments else arguments)
    assert found is not None
    return _unescape(found[1])


def _unescape(text: str) -> bytes:
    return codecs.escape_decode(text.encode())[0]
