"""Malicious coordinators: groups that would single a client out, alone or combined with others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from asyncfl.adversary.behaviour import Behaviour, Insider, attacker
from asyncfl.adversary.grouping import Grouping, Shown
from asyncfl.messages import (
    GroupId,
    Lock,
    LockContent,
    Locked,
    LockRefused,
    Member,
    Message,
    Reveal,
)

ONCE = "an id and a (client, epoch) are locked once, for ever (section 4, step 5)"


@attacker(
    "differencing", "replica",
    tries="asks for locks on a group, and on the same group less one member",
    rule=ONCE,
    without=("lock-rule-off", "uploads-locked-twice"),
)  # fmt: skip
class Differencing(Grouping):
    def groups(self, lock: Lock) -> Shown:
        members = lock.content.members
        return self.to_all(lock.content, self.content(lock, members[1:] or members, 1000))


@attacker(
    "waits-for-restarts",
    "replica",
    tries="gathers locks on a group, waits until signers have restarted, and asks for the group less one member",
    rule="locks are on disk, and are never deleted (section 4, step 5)",
    without=("lock-table-forgotten",),
)
class WaitsForRestarts(Grouping):
    WAIT = 5.0

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._began: dict[GroupId, float] = {}

    def groups(self, lock: Lock) -> Shown:
        self._began[lock.content.id] = self.now
        return {j: [lock.content] for j in range(self.me.federation.parameters.replicas)}

    def reveals(self, group_id: GroupId) -> bool:
        return self.now >= self._began[group_id] + 2 * self.WAIT

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        # Its own machine would reveal the group at once.
        return () if isinstance(message, Locked) else super().hears(peer, message)

    def acts(self) -> None:
        for group_id, began in self._began.items():
            if self.now >= began + self.WAIT and len(self.shown[group_id][0]) == 1:
                whole = self.shown[group_id][0][0]
                part = group_id.model_copy(update={"part": group_id.part + 1000})
                less = LockContent(id=part, members=whole.members[1:] or whole.members)
                self.shown[group_id] = self.to_all(whole, less)
        super().acts()


@attacker(
    "two-groups-one-id", "replica",
    tries="shows one half of the replicas another group under the same id",
    rule=ONCE,
    without=("lock-rule-off",),
)  # fmt: skip
class TwoGroupsOneId(Grouping):
    def groups(self, lock: Lock) -> Shown:
        members = lock.content.members
        return self.to_all(lock.content, self.content(lock, members[:-1] or members))


@attacker(
    "disjoint-groupings", "replica",
    tries="cuts the same uploads into disjoint groups in two ways, each shown to half of the replicas first",
    rule=ONCE,
    without=("lock-rule-off", "uploads-locked-twice"),
)  # fmt: skip
class DisjointGroupings(Grouping):
    def groups(self, lock: Lock) -> Shown:
        members = lock.content.members
        least = min(self.me.federation.parameters.min_group, len(members))
        one = [self.content(lock, members[:least], 1), self.content(lock, members[least:] or members, 2)]
        other = [self.content(lock, members[-least:], 3), self.content(lock, members[:-least] or members, 4)]
        return self.to_all(*one, *other)


@attacker(
    "lone-member", "replica",
    tries="asks for locks on groups of a single client",
    rule="at least min_group members of one cell (section 4, step 4)",
    without=("group-below-minimum",),
)  # fmt: skip
class LoneMember(Grouping):
    def groups(self, lock: Lock) -> Shown:
        alone = [self.content(lock, [member], 1 + k) for k, member in enumerate(lock.content.members)]
        return self.to_all(*alone)


@attacker(
    "member-twice", "replica",
    tries="names one member of a group twice, so that its weight in the sum differs",
    rule="each client once in a group (section 4, step 4)",
    without=("client-twice-in-group",),
)  # fmt: skip
class MemberTwice(Grouping):
    def groups(self, lock: Lock) -> Shown:
        members = lock.content.members
        return self.to_all(self.content(lock, (*members, members[0])))


class Hoarding(Grouping, ABC):
    """Lets one epoch pass without a group, to have its uploads at hand for the next."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self.hoard: list[Member] = []
        self._first: tuple[int, int] | None = None

    def groups(self, lock: Lock) -> Shown:
        place = lock.content.id.epoch, lock.content.id.cell
        if self._first in (None, place):
            self._first = place
            self.hoard += lock.content.members
            return {}
        return self.of(lock)

    @abstractmethod
    def of(self, lock: Lock) -> Shown:
        """Groups of `lock` and the hoard."""

    def fill(self, members: Iterable[Member], count: int) -> list[Member]:
        """`count` members of the hoard, of other clients than `members`."""
        taken = {member.client for member in members}
        return [member for member in self.hoard if member.client not in taken][:count]


@attacker(
    "minority-of-its-cell", "replica",
    tries="fills a group of one client up with late uploads",
    rule="at least min_group members of one cell, riders come on top (section 4, step 4)",
    without=("riders-count",),
)  # fmt: skip
class MinorityOfItsCell(Hoarding):
    def of(self, lock: Lock) -> Shown:
        victim = lock.content.members[0]
        riders = self.fill([victim], self.me.federation.parameters.min_group)
        return self.to_all(self.content(lock, [victim, *riders], 1))


@attacker(
    "riders-of-the-future", "replica",
    tries="adds uploads of a later epoch to a group",
    rule="riders are of the last 8 epochs, never of later ones (section 4, step 4)",
    without=("riders-of-any-epoch",),
)  # fmt: skip
class RidersOfTheFuture(Hoarding):
    def of(self, lock: Lock) -> Shown:
        epoch, cell = self._first or (1, 0)
        past = lock.content.id.model_copy(update={"epoch": epoch, "cell": cell})
        later = [m for m in lock.content.members if m.client not in {own.client for own in self.hoard}]
        return self.to_all(self.content(lock.model_copy(update={"content": lock.content.model_copy(
            update={"id": past})}), [*self.hoard, *later[:1]], 1))  # fmt: skip


@attacker(
    "foreign-cell", "replica",
    tries="takes uploads of another coordinator's cell over while that one lives, with riders of its own",
    rule="riders only on the coordinator's own cells; a takeover is held while the named one can be reached "
    "(section 4, steps 4 and 9)",
    without=("riders-on-any-cell",),
)  # fmt: skip
class ForeignCell(Hoarding):
    def of(self, lock: Lock) -> Shown:
        mine = lock.content.id.coordinator
        seen = [m for m in self.me.coven.manifests.values() if m.core.coordinator != mine]
        places = sorted({(m.core.epoch, m.core.cell) for m in seen if m.core.epoch >= lock.content.id.epoch})
        if not places:
            return {}
        epoch, cell = places[-1]
        own = [
            Member(client=m.core.client, epoch=epoch, manifest=m.digest())
            for m in seen
            if (m.core.epoch, m.core.cell) == (epoch, cell)
        ]
        stolen = lock.content.id.model_copy(update={"epoch": epoch, "cell": cell})
        asked = lock.model_copy(update={"content": lock.content.model_copy(update={"id": stolen})})
        return self.to_all(self.content(asked, [*own, *self.fill(own, 1)], 1))


@attacker(
    "signs-conflicts", "replica",
    tries="signs locks of whatever anybody asks for, conflicting ones too",
    rule="two sets of n-t signers share an honest one (section 4, step 5)",
    without=("one-lock-fewer",),
    beside="differencing",
)  # fmt: skip
class SignsConflicts(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, LockRefused):
            return (self.me.signed(Locked(id=message.id, group=message.group, signature=bytes(64))),)
        return (message,)


@attacker(
    "reveals-unlocked", "replica",
    tries="sends REVEAL with the coven's votes alone, also for groups of one, without asking for any lock",
    rule="n-t lock signatures on identical content (section 4, step 6)",
    without=("reveal-without-locks",),
)  # fmt: skip
class RevealsUnlocked(Grouping):
    def groups(self, lock: Lock) -> Shown:
        members = lock.content.members
        contents = (self.content(lock, members[:1], 1), lock.content)
        for content in contents:
            votes = self.me.coven.votes_of(content.digest())
            for peer in self.me.honest:
                self.send(peer, Reveal(content=content, votes=votes))
        return {}


@attacker(
    "invented-oks", "replica",
    tries="asks for locks on uploads that nobody vouched for, with SHARE_OKs of its own making",
    rule="n-t valid SHARE_OKs for each member (section 4, step 5)",
    without=("oks-unchecked",),
)  # fmt: skip
class InventedOks(Grouping):
    def groups(self, lock: Lock) -> Shown:
        return {j: [lock.content] for j in range(self.me.federation.parameters.replicas)}

    def acts(self) -> None:
        super().acts()
        parameters, mine = self.me.federation.parameters, self.me.index
        places: dict[tuple[int, int], list[Member]] = {}
        for name, record in self.me.machine.uploads.records.items():
            core = record.manifest.core
            if core.coordinator == mine and record.stored:
                member = Member(client=core.client, epoch=core.epoch, manifest=name)
                places.setdefault((core.epoch, core.cell), []).append(member)
        for (epoch, cell), members in places.items():
            group = GroupId(epoch=epoch, cell=cell, coordinator=mine, part=500)
            if len(members) >= parameters.min_group and group not in self.shown:
                self.ask(
                    LockContent(id=group, members=tuple(sorted(members, key=lambda m: (m.client, m.epoch))))
                )
