"""What a replica keeps of an entry, for ever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field

from asyncfl.messages import Entry, Item, Vote
from asyncfl.wire import pack, unpack

SIGNED_BYTES = 65
"""A replica's index and its signature."""


class Signatures(MutableMapping[int, bytes]):
    """By replica, in the replicas' order, in one piece of bytes: as `Vote`s they take eight times as much."""

    __slots__ = ("_held",)

    def __init__(self, votes: Iterable[Vote] = ()) -> None:
        self._held = b""
        for vote in votes:
            self[vote.replica] = vote.signature

    def __getitem__(self, replica: int) -> bytes:
        for at in range(0, len(self._held), SIGNED_BYTES):
            if self._held[at] == replica:
                return self._held[at + 1 : at + SIGNED_BYTES]
        raise KeyError(replica)

    def __setitem__(self, replica: int, signature: bytes) -> None:
        signatures = {**self, replica: signature}
        self._held = b"".join(bytes((each,)) + signatures[each] for each in sorted(signatures))

    def __delitem__(self, replica: int) -> None:
        at = list(self).index(replica) * SIGNED_BYTES
        self._held = self._held[:at] + self._held[at + SIGNED_BYTES :]

    def __iter__(self) -> Iterator[int]:
        return iter(self._held[::SIGNED_BYTES])

    def __len__(self) -> int:
        return len(self._held) // SIGNED_BYTES

    def votes(self) -> tuple[Vote, ...]:
        """As they travel."""
        return tuple(Vote(replica=j, signature=signature) for j, signature in self.items())


@dataclass(slots=True)
class ItemRecord:
    """An item held, and who attests it."""

    encoded: bytes
    """The item, as the ledger holds it: the same object."""
    size: int
    votes: Signatures = field(default_factory=Signatures)
    locks: Signatures = field(default_factory=Signatures)
    """The n-t LOCKED signatures that opened the group, for audit; none where whoever showed the item had none."""
    entry: Entry | None = None
    """Kept until certified, for replicas that still have to open the group."""
    certified: bool = False
    resend_at: float = 0.0

    @property
    def item(self) -> Item:
        return Item.decode(self.encoded)

    def encode(self) -> bytes:
        votes, locks = (tuple(signatures.items()) for signatures in (self.votes, self.locks))
        entry = self.entry.encode() if self.entry else b""
        return pack((self.encoded, self.size, votes, entry, locks))

    @classmethod
    def decode(cls, value: bytes) -> ItemRecord:
        encoded, size, votes, entry, locks = unpack(value)
        held, locked = (Signatures(map(Vote.from_fields, each)) for each in (votes, locks))
        record = cls(Item.decode(encoded).encode(), size, held, locked)
        record.entry = Entry.decode(entry) if entry else None
        record.certified = record.entry is None
        return record
