"""Malicious replicas: service refused, delayed, skewed, or promised and not given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from asyncfl.adversary.behaviour import Behaviour, Insider, attacker
from asyncfl.adversary.grouping import Grouping, Shown
from asyncfl.effects import Effect, Fetch, Send, SendBlob
from asyncfl.messages import (
    Front,
    GroupId,
    Lock,
    LockContent,
    Locked,
    LockRefused,
    Member,
    Message,
    Refused,
    Relay,
    Row,
    RowsRequest,
    ShareBad,
    ShareOk,
    Stored,
    TakenOver,
    Task,
    Upload,
    View,
    share_ok_body,
)

OWN_CELLS = "costs only its own cells; clients are at their next epoch (section 4, step 3)"
SLOW_SECONDS = 3.0


@attacker(
    "silent", "replica", tries="says nothing to anybody, but listens",
    rule="n-t answers are enough; clients turn to the next in line",
    without=("never-the-next-in-line",),
)  # fmt: skip
class Silent(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return ()


@attacker(
    "slow", "replica", tries="holds everything that it says for three seconds",
    rule="n-t answers are enough; clients turn to the next in line",
    without=("never-the-next-in-line",),
)  # fmt: skip
class Slow(Behaviour):
    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._held: list[tuple[float, Effect]] = []

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        self._held.append((self.now + SLOW_SECONDS, Send(peer, message)))
        return ()

    def does(self, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, SendBlob):
            self._held.append((self.now + SLOW_SECONDS, effect))
            return ()
        return (effect,)

    def acts(self) -> None:
        while self._held and self._held[0][0] <= self.now:
            self.do(self._held.pop(0)[1])


@attacker(
    "crashing", "replica",
    tries="is gone for four seconds out of every eight, and remembers nothing of what it was told meanwhile",
    rule="n-t answers are enough; all requests are repeated; clients turn to the next in line",
    without=("never-the-next-in-line",),
)  # fmt: skip
class Crashing(Behaviour):
    SECONDS = 4.0

    @property
    def is_gone(self) -> bool:
        return int(self.now // self.SECONDS) % 2 == 0

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if self.is_gone else (message,)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if self.is_gone else (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        return () if self.is_gone and isinstance(effect, SendBlob) else (effect,)


@attacker(
    "drop-updates", "replica",
    tries="stores uploads that clients send it, and neither relays nor groups them",
    rule=OWN_CELLS,
    without=("previous-awaited-for-ever",),
)  # fmt: skip
class DropUpdates(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Relay | Lock) else (message,)


@attacker(
    "never-locks", "replica", tries="relays uploads, and never groups them", rule=OWN_CELLS,
    without=("previous-awaited-for-ever",),
)  # fmt: skip
class NeverLocks(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Lock) else (message,)


@attacker(
    "stored-lies", "replica", tries="says STORED at once, without having anything", rule=OWN_CELLS,
    without=("previous-awaited-for-ever",),
)  # fmt: skip
class StoredLies(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            core = message.manifest.core
            self.send(peer, Stored(epoch=core.epoch, manifest=message.manifest.digest()))
            return ()
        return (message,)


@attacker(
    "refuses-uploads", "replica",
    tries="tells every client that its upload is refused",
    rule="only t+1 refusals give an upload up (section 4, step 3)",
    without=("one-refusal-enough",),
)  # fmt: skip
class RefusesUploads(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            core, name = message.manifest.core, message.manifest.digest()
            self.send(peer, Refused(epoch=core.epoch, manifest=name, reason="no"))
            return ()
        return (message,)


@attacker(
    "share-bad", "replica",
    tries="says SHARE_BAD of every upload",
    rule="n-t SHARE_OKs are enough, and nothing is disclosed (section 3)",
    without=("one-bad-share-ends-it",),
)  # fmt: skip
class FalseShareBad(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ShareOk):
            fields = {name: getattr(message, name) for name in ShareBad.model_fields}
            return (self.me.signed(ShareBad(**fields)),)
        return (message,)


@attacker(
    "blind-oks", "replica",
    tries="says SHARE_OK of whatever it hears of, without its bytes",
    rule="n-t SHARE_OKs include n-2t honest ones, which open the group (section 4, end)",
    without=("two-oks-enough",),
)  # fmt: skip
class BlindOks(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Relay):
            core, name = message.manifest.core, message.manifest.digest()
            body = share_ok_body(core.client, core.epoch, name)
            signature = self.me.sign(ShareOk.KIND, body)
            ok = ShareOk(client=core.client, epoch=core.epoch, manifest=name, signature=signature)
            for other in self.me.others:
                self.send(other, ok)
        return (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        pulls = isinstance(effect, Fetch) and effect.peer in self.me.federation.replica_index
        return () if pulls else (effect,)


@attacker(
    "selective-relay", "replica",
    tries="relays uploads and asks for locks at as few replicas as will do, others in every epoch",
    rule="what a signer lacks it pulls; a revealed group is pulled by all (section 4, steps 5 and 6)",
    without=("nothing-pulled",),
)  # fmt: skip
class SelectiveRelay(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Relay):
            epoch = message.manifest.core.epoch
        elif isinstance(message, Lock):
            epoch = message.content.id.epoch
        else:
            return (message,)
        others = self.me.others
        left_out = {others[(epoch + k) % len(others)] for k in range(self.me.federation.parameters.byzantine)}
        return () if peer in left_out else (message,)


class Favouring(Behaviour):
    """Knows whom it dislikes: `victims`, by public key."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        members = me.federation.rosters[0].members
        self.victims = frozenset(members[: self.count(len(members))])

    def count(self, clients: int) -> int:
        return 1


@attacker(
    "censor", "replica",
    tries="ignores one client: its READYs, its uploads, and what others say of them",
    rule="a client turns to the next in line; riders; n-t SHARE_OKs without the censor (sections 4 and 5)",
    without=("never-the-next-in-line",),
)  # fmt: skip
class Censor(Favouring):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        about = peer in self.victims
        if isinstance(message, Relay):
            about = message.manifest.core.client in self.victims
        return () if about else (message,)


@attacker(
    "biased-inclusion", "replica",
    tries="gives TASKs to a few clients only",
    rule="only among the cells that the shuffle gives it; others turn to the next in line (section 5)",
    without=("never-the-next-in-line",),
)  # fmt: skip
class BiasedInclusion(Favouring):
    def count(self, clients: int) -> int:
        return clients // 2

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Task) and peer in self.victims else (message,)


@attacker(
    "late-epochs", "replica",
    tries="keeps its groups back until later epochs are in, so that everybody folds again",
    rule="only rows from the changed one on are folded again, and the model stays a function of the set (section 6)",
    without=("fold-by-arrival",),
)  # fmt: skip
class LateEpochs(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Lock):
            epochs = [m.core.epoch for m in self.me.coven.manifests.values()]
            if max(epochs, default=0) < message.content.id.epoch + 2 and self.now < 60:
                return ()
        return (message,)


@attacker(
    "refuses-locks", "replica",
    tries="refuses every LOCK",
    rule="n-t locks are enough (section 4, step 5)",
    without=("one-refusal-kills-a-group", "all-must-lock"),
)  # fmt: skip
class RefusesLocks(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Locked):
            return (LockRefused(id=message.id, group=message.group, reason="no", conflict=()),)
        return (message,)


@attacker(
    "steals-uploads", "replica",
    tries="takes uploads of living coordinators over as soon as they are relayed",
    rule="a takeover is held while the named coordinator can be reached (section 4, step 9)",
    without=("takeovers-not-held", "own-uploads-given-away"),
)  # fmt: skip
class StealsUploads(Grouping):
    def groups(self, lock: Lock) -> Shown:
        return {j: [lock.content] for j in range(self.me.federation.parameters.replicas)}

    def acts(self) -> None:
        super().acts()
        mine, least = self.me.index, self.me.federation.parameters.min_group
        places: dict[tuple[int, int], list[Member]] = {}
        for name, manifest in self.me.coven.manifests.items():
            core = manifest.core
            if core.coordinator != mine and len(self.me.coven.oks.get(name, ())) >= least:
                member = Member(client=core.client, epoch=core.epoch, manifest=name)
                places.setdefault((core.epoch, core.cell), []).append(member)
        for (epoch, cell), members in places.items():
            group = GroupId(epoch=epoch, cell=cell, coordinator=mine, part=300)
            if len(members) >= least and group not in self.shown:
                chosen = sorted(members, key=lambda m: (m.client, m.epoch))[:least]
                self.ask(LockContent(id=group, members=tuple(chosen)))


@attacker(
    "false-taken-over", "replica",
    tries="tells coordinators that their uploads have been taken over",
    rule="t+1 must say so, or it holds for a while only (section 4, step 9)",
    without=("one-taken-over-enough",),
)  # fmt: skip
class FalseTakenOver(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Relay):
            core = message.manifest.core
            member = Member(client=core.client, epoch=core.epoch, manifest=message.manifest.digest())
            content = LockContent(
                id=GroupId(epoch=core.epoch, cell=core.cell, coordinator=self.me.index, part=0),
                members=(member,),
            )
            self.send(self.me.federation.replica_keys[core.coordinator], TakenOver(content=content))
        return (message,)


class Boasting(Behaviour, ABC):
    """Lies in its FRONTs. Override `fields`."""

    @abstractmethod
    def fields(self, peer: bytes) -> dict[str, int]:
        """What `peer` is told in place of what is so."""

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Front):
            message = self.me.signed(message.model_copy(update=self.fields(peer)))
        return (message,)


FRONTS = "the (t+1)-th largest of n-t answers (section 4, step 1)"


@attacker(
    "front-far-ahead", "replica", tries="reports a front far ahead, to choose clients' epochs",
    rule=FRONTS, without=("largest-front",),
)  # fmt: skip
class FrontFarAhead(Boasting):
    def fields(self, peer: bytes) -> dict[str, int]:
        return {"front": 1000 + peer[0]}


@attacker(
    "front-behind", "replica", tries="reports the first front for ever", rule=FRONTS,
    without=("smallest-front",),
)  # fmt: skip
class FrontBehind(Boasting):
    def fields(self, peer: bytes) -> dict[str, int]:
        return {"front": 1}


@attacker(
    "long-patience",
    "replica",
    tries="reports a patience of a day",
    rule=FRONTS,
    without=("largest-patience",),
)  # fmt: skip
class LongPatience(Boasting):
    def fields(self, peer: bytes) -> dict[str, int]:
        return {"patience": 86_400_000}


@attacker(
    "no-patience", "replica", tries="reports a patience of a millisecond", rule=FRONTS,
    without=("smallest-patience",),
)  # fmt: skip
class NoPatience(Boasting):
    def fields(self, peer: bytes) -> dict[str, int]:
        return {"patience": 1}


@attacker(
    "roster-of-nobody", "replica", tries="reports a roster that does not exist",
    rule="a roster is used when n-t replicas report it and the operator signed it (section 6)",
    without=("largest-roster",),
)  # fmt: skip
class RosterOfNobody(Boasting):
    def fields(self, peer: bytes) -> dict[str, int]:
        return {"roster": 2**31 - 1}


@attacker(
    "false-finish",
    "replica",
    tries="says in every FRONT that training is over",
    rule="t+1 of n-t answers must say so (section 5)",
    without=("one-finish-enough",),
)
class FalseFinish(Boasting):
    def fields(self, peer: bytes) -> dict[str, int]:
        return {"finished": True}


@attacker(
    "flood", "replica",
    tries="says everything five times, and sends views, pins, row requests and locks of nothing all the time",
    rule="one pending fold and 64 pending locks for each replica; repetitions are answered from memory (sections 4, 6)",
    without=("locks-without-limit",),
)  # fmt: skip
class Flood(Behaviour):
    BURST = 128
    """Locks that are said at once, in one of 32 ticks: whatever is not limited is worked on at the same time."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._count = 0

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return (message,) * 5

    def acts(self) -> None:
        self._count += 1
        name = self._count.to_bytes(32, "big")
        rows = (Row(epoch=1 + self._count, items=(name,)),)
        parts = self.BURST if self._count % 32 == 0 else 1
        locks = [self.me.signed(self._lock_of_nothing(name, part)) for part in range(parts)]
        for peer in self.me.others:
            self.send(peer, View(base=name, base_epoch=0, entries=1, rows=rows, pinned=True))
            self.send(peer, RowsRequest(base=name, first=1))
            for lock in locks:
                self.send(peer, lock)

    def _lock_of_nothing(self, name: bytes, part: int) -> Lock:
        """Nothing is wrong with it until its SHARE_OKs are verified."""
        federation, epoch = self.me.federation, 1 + self._count
        group = GroupId(epoch=epoch, cell=0, coordinator=self.me.index, part=part)
        member = Member(client=federation.rosters[0].members[0], epoch=epoch, manifest=name)
        supporters = tuple(range(federation.parameters.quorum))
        return Lock(
            content=LockContent(id=group, members=(member,)),
            supporters=supporters,
            oks=((bytes(64),) * len(supporters),),
            signature=bytes(64),
        )
