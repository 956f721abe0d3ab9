"""Every exception that asyncfl raises on purpose.

::

    AsyncflError
    ├── ConfigurationError      the user's deployment, key or option is wrong; nothing was changed
    │   └── ParameterError      parameters that cannot be safe or cannot work together
    │       └── RuleError       inputs that an aggregation rule cannot take, or too few for so many bad ones
    ├── LocalProtocolError      our own fault: a bug in this process; never evidence against a peer
    ├── RemoteProtocolError     the peer's fault
    │   ├── MalformedMessage    bytes that are no valid message: closes the peer's channel
    │   ├── HandshakeError      the peer could not prove who it is
    │   └── InvalidItem         a relayed or gossiped item that fails a check: dropped, closes nothing
    │       ├── DealingError    an upload that its own client's signature proves to be dealt badly
    │       ├── InvalidEvidence evidence that proves nothing
    │       │   └── UnjudgedEvidence  evidence that needs a roster which is not held here
    │       └── RosterConflict  another roster that the operator signed under a number that is held
    ├── UpdateError             the trained update cannot be masked: wrong length, NaN or infinity
    ├── OpeningError            no subset of the share sums at hand opens the group (yet)
    ├── UnsupportedEvent        a privacy event that cannot be interpreted: epsilon is never guessed
    ├── StorageError            the disk or database refused; names the file and the remedy
    │   └── BlobMissing         a blob that is not (or no longer) stored
    └── DeadlineExceeded        a wait ended; names what was waited for

Only a `RemoteProtocolError` may ever count against a peer.
"""

from __future__ import annotations


class AsyncflError(Exception):
    """Base of all deliberate errors. The message names the cause and, where there is one, the remedy."""


class ConfigurationError(AsyncflError):
    """The user's deployment file, key file, task or option is wrong."""


class ParameterError(ConfigurationError):
    """Protocol parameters that are unsafe or cannot fit together (protocol section 10)."""


class RuleError(ParameterError):
    """Inputs that an aggregation rule cannot take: too few for so many bad ones, of a wrong shape, or not finite."""


class LocalProtocolError(AsyncflError):
    """A bug in this process: it tried to do what the protocol forbids."""


class RemoteProtocolError(AsyncflError):
    """A peer broke the protocol."""


class MalformedMessage(RemoteProtocolError):
    """Bytes that do not decode to a valid message within the limits."""


class HandshakeError(RemoteProtocolError):
    """The peer did not complete the Noise handshake with a known identity."""


class InvalidItem(RemoteProtocolError):
    """A relayed, gossiped or pulled item failed verification."""


class RosterConflict(InvalidItem):
    """The operator signed another roster under a number that is held: its error, or a stolen key."""


class DealingError(InvalidItem):
    """An upload whose client signed what cannot be honest: `shown` are the bytes that open its commitment."""

    def __init__(self, reason: str, shown: bytes) -> None:
        super().__init__(reason)
        self.shown = shown


class InvalidEvidence(InvalidItem):
    """Evidence that does not prove what it claims."""


class UnjudgedEvidence(InvalidEvidence):
    """Evidence about a roster that is not held here: whoever holds a newer deployment file can judge it."""


class UpdateError(AsyncflError):
    """A trained update that cannot be masked: of the wrong length, or with NaN or infinite coordinates."""


class OpeningError(AsyncflError):
    """No subset of the share sums at hand opens the group."""


class UnsupportedEvent(AsyncflError):
    """A durable privacy event of unknown form, or one that cannot have happened in this deployment."""


class StorageError(AsyncflError):
    """The disk or the database refused; the message names the file and what to do."""


class BlobMissing(StorageError):
    """The blob is not stored: never was, or was deleted since."""


class DeadlineExceeded(AsyncflError):
    """A wait ended without result; the message names what was waited for and for how long."""
