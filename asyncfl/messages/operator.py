"""What the operator signs while a deployment runs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Len

from asyncfl.digest import digest
from asyncfl.wire import (
    Count,
    Epoch,
    Many,
    PublicKey,
    Signature,
    Wire,
    pack,
)


class RosterStatement(Wire):
    """The operator: from `start_epoch` on, `members` (client keys, ascending) take part. Numbers ascend by one."""

    KIND: ClassVar = "roster"

    number: Count
    start_epoch: Epoch
    members: Annotated[Many[PublicKey], Len(1, 16384)]
    signature: Signature

    def body(self) -> bytes:
        """The roster's digest (`asyncfl.federation.Roster.digest`)."""
        return digest("asyncfl/1/roster", pack((self.number, self.start_epoch, self.members)))


class RosterRequest(Wire):
    """Send me your FRONT and the statements of all rosters with numbers above `after`."""

    after: Count
