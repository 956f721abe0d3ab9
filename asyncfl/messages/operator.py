"""What the operator signs while a deployment runs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from annotated_types import Ge, Le, Len

from asyncfl.digest import digest
from asyncfl.wire import (
    Count,
    Digest,
    Epoch,
    Many,
    PublicKey,
    ShortText,
    Signature,
    Wire,
    pack,
)

MAX_MEMBERS: Final = 16384
"""Clients of one roster."""


class RosterStatement(Wire):
    """The operator: from `start_epoch` on, `members` (client keys, ascending) take part. Numbers ascend by one."""

    KIND: ClassVar = "roster"

    number: Count
    start_epoch: Epoch
    members: Annotated[Many[PublicKey], Len(1, MAX_MEMBERS)]
    signature: Signature

    def body(self) -> bytes:
        """The roster's digest (`asyncfl.federation.Roster.digest`)."""
        return digest("asyncfl/1/roster", pack((self.number, self.start_epoch, self.members)))


class RosterRequest(Wire):
    """Send me your FRONT and the statements of all rosters with numbers above `after`."""

    after: Count


class Epochs(Wire):
    """Epochs from `first` to `last`, both included."""

    first: Epoch
    last: Epoch


class ExclusionStatement(Wire):
    """The operator: what the model leaves out. Numbers ascend by one from 1; each statement replaces those before it.

    Left out is every entry that is named, that has a member who is named, or whose epoch is in one of `spans`. Entries
    and clients ascend, spans ascend and do not touch.
    """

    KIND: ClassVar = "exclusion"

    number: Annotated[int, Ge(1), Le(2**31 - 1)]
    entries: Annotated[Many[Digest], Len(0, 8192)]
    clients: Annotated[Many[PublicKey], Len(0, 4096)]
    spans: Annotated[Many[Epochs], Len(0, 256)]
    reason: ShortText
    signature: Signature

    def body(self) -> bytes:
        """The statement's digest: it enters the versions that are computed under it."""
        spans = tuple(span.to_fields() for span in self.spans)
        return digest(
            "asyncfl/1/exclusion", pack((self.number, self.entries, self.clients, spans, self.reason))
        )


class ExclusionRequest(Wire):
    """Send me your FRONT and the statements of all exclusions with numbers above `after`."""

    after: Count
