"""Bulk data, by content digest. Handled by the shell, never by a machine."""

from __future__ import annotations

from typing import Annotated, Final

from annotated_types import Ge, Le, Len

from asyncfl.wire import (
    Digest,
    Wire,
)

CHUNK_BYTES: Final = 256 * 1024
MAX_BLOB_BYTES: Final = 1 << 36


class Pull(Wire):
    """Send me the blob of this digest from this offset on."""

    blob: Digest
    offset: Annotated[int, Ge(0), Le(MAX_BLOB_BYTES)]


class Chunk(Wire):
    """A piece of a blob; handled by the shell, never by a machine."""

    blob: Digest
    offset: Annotated[int, Ge(0), Le(MAX_BLOB_BYTES)]
    data: Annotated[bytes, Len(1, CHUNK_BYTES)]


class Missing(Wire):
    """I do not have that blob."""

    blob: Digest
