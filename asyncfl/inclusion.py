"""Local judgement of a replica: who is alive, where the front is, how long to be patient.

No safety rests on anything here, so it may use clocks and hearsay (protocol section 5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from asyncfl.federation import Roster

PATIENCE_FLOOR: Final = 1.0
PATIENCE_AT_FIRST: Final = 10.0
PATIENCE_CEILING: Final = 3600.0
MEASUREMENTS: Final = 64
OVERDUE_FACTOR: Final = 6.0
LAST_EPOCH: Final = 2**31 - 1
"""The last that messages can name; nobody gets there but clients that claim to."""
END_OF_TIME: Final = 2**63
"""After every epoch: the roster there is the last that is held."""


class Patience:
    """Twice the median time from TASK to STORED; floor 1 s, 10 s before the first measurement."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MEASUREMENTS)
        self._value = PATIENCE_AT_FIRST

    def measured(self, seconds: float) -> None:
        self._times.append(seconds)
        self._value = min(PATIENCE_CEILING, max(PATIENCE_FLOOR, 2 * median(self._times)))

    @property
    def seconds(self) -> float:
        return self._value


@dataclass(slots=True)
class Presence:
    """What a replica has heard of one client. Times are seconds of its own monotonic clock."""

    at: int = 0
    since: float = 0.0
    """When it was first heard to be at that epoch."""
    at_patience: float = PATIENCE_AT_FIRST
    """The patience when it arrived there: a timer keeps the value it was set with."""
    heard: float = float("-inf")
    patience: float = PATIENCE_AT_FIRST
    """The patience it was told when last heard: until then it owes no other sign of life."""
    task_epoch: int = 0
    task_at: float = 0.0
    task_patience: float = PATIENCE_AT_FIRST
    measured: int = 0
    """The last epoch of which the time from TASK to STORED was measured."""
    misses: int = 0
    left_out_until: float = float("-inf")
    left: bool = False
    """Left for good, by its own signed statement."""

    def is_overdue(self, now: float) -> bool:
        """Whether it has had a TASK for more than `6 * patience`."""
        return bool(self.task_epoch) and now - self.task_at > OVERDUE_FACTOR * self.task_patience


@dataclass
class Inclusion:
    """Signs of life of clients, and the front that follows from those of the roster in force."""

    roster_at: Callable[[int], Roster]
    """The roster that applies to an epoch, as far as this replica knows."""
    patience: Patience = field(default_factory=Patience)
    front: int = 1
    clients: dict[bytes, Presence] = field(default_factory=dict)
    excluded: frozenset[bytes] = frozenset()
    """Clients whose groups the operator has taken out of the model: until it takes that back they have left."""
    front_at: float = 0.0
    """When the front last moved."""
    worked_at: float = 0.0
    """When an upload last came that it waited for and that had to queue."""
    places: int = 0
    """TASKs that a coordinator may have outstanding, so that a client may wait for a place through no fault of its
    own; 0: as many as clients ask for."""

    def heard(self, client: bytes, epoch: int, now: float) -> Presence:
        """READY(epoch) arrived."""
        presence = self.clients.setdefault(client, Presence())
        presence.heard, presence.patience = now, self.patience.seconds
        if epoch > presence.at:
            self._arrived(presence, epoch, now)
        return presence

    def _arrived(self, presence: Presence, epoch: int, now: float) -> None:
        """The client has moved on; if it had been given a task in time, its misses halve."""
        if presence.task_epoch and epoch > presence.task_epoch:
            if now - presence.task_at <= OVERDUE_FACTOR * presence.task_patience:
                presence.misses //= 2
            presence.task_epoch = 0
        presence.at, presence.since, presence.at_patience = epoch, now, self.patience.seconds

    def leave(self, client: bytes) -> None:
        """The client has left for good: nobody waits for it."""
        self.clients.setdefault(client, Presence()).left = True

    def has_left(self, client: bytes) -> bool:
        return client in self.excluded or (client in self.clients and self.clients[client].left)

    def tasked(self, client: bytes, epoch: int, now: float) -> None:
        """A TASK went out; the overdue timer keeps the patience it was set with."""
        presence = self.clients.setdefault(client, Presence())
        if presence.task_epoch != epoch:
            presence.task_epoch, presence.task_at = epoch, now
            presence.task_patience = self.patience.seconds

    def stored(self, client: bytes, epoch: int, now: float) -> None:
        """The upload of `epoch` is on disk: measures patience, and moves the client on.

        One measurement for each epoch: a client that sent the same upload again and again could else set everybody's
        patience, and with one second all others would be overdue.
        """
        presence = self.clients.setdefault(client, Presence())
        if presence.task_epoch == epoch > presence.measured:
            presence.measured = epoch
            self.patience.measured(now - presence.task_at)
        if presence.at <= epoch < LAST_EPOCH:
            self._arrived(presence, epoch + 1, now)

    def worked_on(self, epoch: int, now: float) -> None:
        """An upload of `epoch` was accepted. While clients queue, those who come last have their time from then on."""
        if self.places and epoch <= self.front:
            self.worked_at = now

    def is_live(self, client: bytes, now: float) -> bool:
        """Heard from within `patience`, not overdue, and not left out for having been so."""
        presence = self.clients.get(client)
        if presence is None or self.has_left(client) or now - presence.heard > presence.patience:
            return False
        if now < presence.left_out_until:
            return False
        return not presence.is_overdue(now)

    def is_expected(self, client: bytes, epoch: int, now: float) -> bool:
        """Whether a live client may still upload for `epoch`."""
        return self.is_live(client, now) and self.clients[client].at <= epoch

    def update(self, now: float) -> None:
        """Charge overdue clients once a miss, and advance the front.

        The front never falls: a laggard moves itself forward instead (protocol section 4, step 1). A replica
        that hears less than half of the roster at the front keeps its front; whom the operator has retired, from
        whatever epoch on, is not missed there, or the dead could not be retired: their last epoch would never end.
        Who is in that roster no more counts for nothing; who joins at a later epoch holds the front at that epoch,
        and at none before. The front passes no roster's start in one step, and reaches it without the roster before
        where too few of that one are left.
        """
        for presence in self.clients.values():
            limit = OVERDUE_FACTOR * presence.task_patience
            if presence.is_overdue(now) and now >= presence.left_out_until:
                presence.misses += 1
                presence.left_out_until = now + limit * 2 ** min(presence.misses, 16)
        roster = self.roster_at(self.front)
        members = [(client, self.clients[client]) for client in roster.members if client in self.clients]
        live = [presence for client, presence in members if self.is_live(client, now)]
        moving = [presence.at for presence in live if not self._holds_up(presence, now)]
        if 2 * len(live) < self._staying(roster) or not moving:
            start = self._up_to_next(END_OF_TIME, roster)
            if start < END_OF_TIME and self._is_due(start, len(live), now):
                self.front, self.front_at = start, now
        elif min(moving) > self.front:
            joining = [p.at for client, p in self.clients.items() if self._joins(client, p, now)]
            self.front, self.front_at = self._up_to_next(min(moving + joining), roster), now

    def resume(self, front: int, now: float) -> None:
        """After a start: an honest replica was at `front` already; clients have their time from now on."""
        self.front, self.front_at = max(self.front, front), now

    def _staying(self, roster: Roster) -> int:
        """How many members of a roster have not left, and are not retired from whatever epoch on."""
        last = self.roster_at(END_OF_TIME).position
        return sum(client in last and not self.has_left(client) for client in roster.members)

    def _up_to_next(self, epoch: int, roster: Roster) -> int:
        """`epoch`, or the start of the roster after `roster` where that comes first.

        Members of one roster say nothing of the epochs of the next: else a single one that stays could push the
        front as far as it likes.
        """
        while (later := self.roster_at(epoch)).number > roster.number:
            if self.roster_at(later.start_epoch - 1).number == roster.number:
                return later.start_epoch
            epoch = later.start_epoch - 1
        return epoch

    def _is_due(self, start: int, live: int, now: float) -> bool:
        """Whether the roster that starts at `start` may begin although too few of the one before are heard.

        Those who retire go silent at their last epoch, and those who stay may be few, dead or malicious. Half of the
        new roster must wait there; the old one has its time, of which `patience` is enough where `live` is 0.
        """
        following = self.roster_at(start)
        waiting = sum(self.is_live(c, now) and self.clients[c].at >= start for c in following.members)
        seconds = self._limit(self.patience.seconds) if live else self.patience.seconds
        return now - self.front_at > seconds and 2 * waiting >= max(1, self._staying(following))

    def _limit(self, patience: float) -> float:
        """How long the front waits. A place may be held that long by one who never uploads, before the next has its
        time: while clients queue it is twice as long."""
        return OVERDUE_FACTOR * patience * (2 if self.places else 1)

    def _joins(self, client: bytes, presence: Presence, now: float) -> bool:
        """Whether a live client is ahead of the front and a member of the roster at its own epoch."""
        ahead = presence.at > self.front and self.is_live(client, now)
        return ahead and client in self.roster_at(presence.at).position

    def _holds_up(self, presence: Presence, now: float) -> bool:
        """At the front (or behind it) for too long, whoever gave it a TASK, and whether it ever asked for one.

        "Overdue" is known only to the replica that gave the TASK; to all others a client that hangs, or rests, or
        says READY for ever would be live for ever.
        """
        since = presence.since if presence.at < self.front else max(presence.since, self._front_since())
        limit = self._limit(max(presence.at_patience, self.patience.seconds))
        return presence.at <= self.front and now - since > limit

    def _front_since(self) -> float:
        """From when on clients at the front have their time: while clients queue, from the last upload.

        But no longer than a queue of the whole roster takes: uploads of accomplices, sent one by one, would else hold
        the front for a client that never uploads.
        """
        if not self.places:
            return self.front_at
        queue = self.patience.seconds * len(self.roster_at(self.front).members) / self.places
        return max(self.front_at, min(self.worked_at, self.front_at + queue))
