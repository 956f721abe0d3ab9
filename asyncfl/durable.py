"""Rows that a machine finds on its disk: their checksums hold, but another program may have written them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncfl.errors import LocalProtocolError, RemoteProtocolError, StorageError


@contextmanager
def explaining_rows() -> Iterator[None]:
    """While rows are read: whatever is wrong with one is a `StorageError`, never the peer's fault or a bug."""
    try:
        yield
    except (
        RemoteProtocolError,
        LocalProtocolError,
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
    ) as error:
        raise StorageError(
            f"a row of this node's state cannot be read ({type(error).__name__}: {error}): another version of asyncfl "
            "wrote it, or a bug did. Run the version that wrote it. Nothing was changed"
        ) from error


def require_name(key: bytes, digest: bytes) -> None:
    """That a row lies under the digest of what it holds. Raises `StorageError`."""
    if key != digest:
        raise StorageError(
            f"a row of this node's state lies under {key.hex()[:16]}…, but holds {digest.hex()[:16]}…. "
            "Nothing was changed"
        )
