"""Rows of one array in a NumPy archive (.npz), without holding the whole array.

An array stored uncompressed (`numpy.savez`) is memory-mapped; a compressed one (`savez_compressed`) is
read as a stream of which only the wanted rows are kept.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from asyncfl.errors import ConfigurationError

_SLAB_BYTES: Final = 1 << 20
_LOCAL_HEADER: Final = struct.Struct("<26xHH")
"""Of a zip member: the lengths of name and extra field, which its data follows (APPNOTE 4.3.7)."""


@dataclass(frozen=True)
class ArchiveArray:
    """One array. `shape` and `dtype` are read from its header; `rows` reads data."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None
    """Where the data begins in the archive, when it is stored uncompressed."""

    @classmethod
    def open(cls, path: Path, key: str) -> ArchiveArray:
        """Raises `ConfigurationError` naming the file and what is wrong with it."""
        with _archive(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in names:
                raise ConfigurationError(
                    f"{path}: no array {key!r}; it holds {', '.join(sorted(names)) or 'none'}, "
                    "and x_train, y_train, x_test, y_test are needed"
                )
            info = archive.getinfo(key + ".npy")
            with archive.open(info) as member:
                shape, fortran, dtype = _header(member, path, key)
                before = member.tell()
            if dtype.hasobject or fortran or not shape:
                raise ConfigurationError(
                    f"{path}: array {key!r} must be a plain array of numbers in C order, "
                    "as numpy.savez writes it"
                )
            if info.file_size != before + dtype.itemsize * prod(shape):
                raise ConfigurationError(
                    f"{path}: array {key!r} is damaged: its header says {shape} {dtype}, its data are "
                    f"{info.file_size - before} bytes"
                )
            offset = None
            if info.compress_type == zipfile.ZIP_STORED:
                with path.open("rb") as file:
                    file.seek(info.header_offset)
                    lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                offset = info.header_offset + _LOCAL_HEADER.size + sum(lengths) + before
            return cls(path, key, shape, dtype, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[Any]:
        """The rows `indices`, in that order (None: all), as a new array. Raises `ConfigurationError`."""
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        if self.offset is not None and 0 not in self.shape:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            return np.array(mapped[wanted])
        return self._streamed(wanted)

    def _streamed(self, wanted: NDArray[np.int64]) -> NDArray[Any]:
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        result = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        row_bytes = max(1, self.dtype.itemsize * prod(self.shape[1:]))
        slab = max(1, _SLAB_BYTES // row_bytes)
        with _archive(self.path) as archive:
            try:
                with archive.open(self.key + ".npy") as member:
                    _header(member, self.path, self.key)
                    done = 0
                    for start in range(0, len(self), slab):
                        if done == len(ordered):
                            break
                        count = min(slab, len(self) - start)
                        data = member.read(count * row_bytes)
                        here = np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
                        stop = int(np.searchsorted(ordered, start + count))
                        result[order[done:stop]] = here[ordered[done:stop] - start]
                        done = stop
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
                raise ConfigurationError(f"{self.path}: array {self.key!r} is damaged: {error}") from error
        return result


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path}: no such file; make it with scripts/make_archive.py FOLDER {path} from the files of MNIST or "
            "CIFAR-10, or with numpy.savez from your own images (docs/how-to/archives.md)"
        ) from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ConfigurationError(f"{path}: not a readable NumPy archive (.npz): {error}") from error
    with archive:
        yield archive


def _header(member: IO[bytes], path: Path, key: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads up to the data. (shape, Fortran order, dtype)."""
    try:
        version = npy.read_magic(member)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(member)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ConfigurationError(f"{path}: array {key!r} is damaged: {error}") from error
    return shape, fortran, dtype
