"""Every limit and deadline of the transport, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    handshake_s: float = 10.0
    """From the first packet to an authenticated channel, in either direction."""
    handshake_bytes: int = 8192
    """All that an unauthenticated connection may send, HTTP headers included."""
    unauthenticated: int = 256
    """Unauthenticated incoming connections at once, in all."""
    unauthenticated_per_address: int = 64
    """The same from one address; a whole localhost deployment shares one."""

    heartbeat_s: float = 1.0
    """How often each side says that it is there."""
    silence_s: float = 6.0
    """A peer from which nothing was heard for this long is gone."""
    stalled_write_s: float = 30.0
    """A peer that is there but takes no data for this long is cut."""
    close_s: float = 1.0
    """For a polite goodbye, after which the connection is dropped."""

    retry_first_s: float = 0.1
    retry_base_s: float = 0.2
    retry_cap_s: float = 3.0
    """Wait before dialling again (full jitter): uniform in [0, first], then in [0, min(cap, base * 2^n)]."""
    stable_s: float = 5.0
    """A channel that lived this long resets the wait."""

    control_messages: int = 4096
    control_bytes: int = 16 << 20
    """Control messages queued for one peer; more are dropped and counted."""
    outgoing_blobs: int = 256
    """Blobs one peer may have asked for and not yet got; further requests are dropped."""
    incoming_blobs: int = 4
    """Blobs received from one peer at once; further fetches wait."""
    chunks_ahead: int = 4
    """Chunks read from disk before the connection takes them, for each peer; read on when half are gone."""
    unwritten_chunks: int = 8
    """Chunks received and not yet on disk, for each blob; beyond that the peer is not read from."""
    write_chunks: int = 4
    """Chunks that are hashed and written in one go, unless the blob ends or its peer pauses."""
    progress_s: float = 15.0
    """A fetch that gets nothing for this long fails."""
