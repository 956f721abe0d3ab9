"""A coordinator that asks for locks on groups of its own making, and reveals them with every vote that can be shown.

The common part of all attacks on the lock round (`replicas_groups`): its own machine collects the uploads and forms
an honest group; what other replicas are asked for instead is the attack's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from asyncfl.adversary.behaviour import Behaviour, Insider
from asyncfl.effects import DeleteBlob, Effect
from asyncfl.messages import (
    GroupId,
    Lock,
    LockContent,
    ManifestRequest,
    Member,
    Message,
    Relay,
    Reveal,
)

ROUNDS: Final = 30
"""How often a group is asked for again, once a second."""

Shown = Mapping[int, Sequence[LockContent]]
"""The groups that each replica is asked to lock, in order."""


class Grouping(Behaviour, ABC):
    """Override `groups`. Keeps all uploads for ever, and gives them to whoever asks."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self.shown: dict[GroupId, Shown] = {}
        self._rounds: dict[GroupId, int] = {}
        self._next = 0.0

    @abstractmethod
    def groups(self, lock: Lock) -> Shown:
        """What is asked for in place of an honest LOCK."""

    def content(self, lock: Lock, members: Iterable[Member], part: int = 0) -> LockContent:
        """A group of the honest one's cell, with other members and `part` added to its number."""
        group_id = lock.content.id.model_copy(update={"part": lock.content.id.part + part})
        return LockContent(id=group_id, members=tuple(sorted(members, key=lambda m: (m.client, m.epoch))))

    def reveals(self, group_id: GroupId) -> bool:
        """Whether REVEALs are sent by now."""
        return True

    def to_all(self, *contents: LockContent) -> Shown:
        """The same to everybody, but half of them hear them in the opposite order."""
        return {
            j: contents if j % 2 else contents[::-1] for j in range(self.me.federation.parameters.replicas)
        }

    def ask(self, content: LockContent) -> None:
        """Ask everybody for this group too, from the next second on."""
        self.shown[content.id] = self.to_all(content)
        self._rounds[content.id] = ROUNDS

    def lock(self, content: LockContent) -> Lock:
        """A LOCK with all SHARE_OKs that the coven can show; where they are too few, with invented ones."""
        coven, parameters = self.me.coven, self.me.federation.parameters
        shown = [
            coven.oks_of(coven.manifests[member.manifest]) if member.manifest in coven.manifests else {}
            for member in content.members
        ]
        replicas = range(parameters.replicas)
        supporters = sorted(replicas, key=lambda j: (-sum(j in oks for oks in shown), j))[: parameters.quorum]
        oks = tuple(tuple(given.get(j, bytes(64)) for j in supporters) for given in shown)
        lock = Lock(content=content, supporters=tuple(supporters), oks=oks, signature=bytes(64))
        return self.me.signed(lock)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if not isinstance(message, Lock):
            return (message,)
        if message.content.id not in self.shown:
            self.shown[message.content.id] = self.groups(message)
            self._rounds[message.content.id] = ROUNDS
        contents = self.shown[message.content.id].get(self.me.federation.replica_index[peer], ())
        return [self.lock(content) for content in contents]

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, ManifestRequest):
            for name in message.manifests:
                if name in self.me.coven.manifests:
                    self.send(peer, Relay(manifest=self.me.coven.manifests[name]))
            return ()
        return (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        return () if isinstance(effect, DeleteBlob) else (effect,)

    def acts(self) -> None:
        if self.now < self._next:
            return
        self._next = self.now + 1.0
        for group_id, left in self._rounds.items():
            if not left:
                continue
            self._rounds[group_id] = left - 1
            for peer in self.me.honest:
                for content in self.shown[group_id].get(self.me.federation.replica_index[peer], ()):
                    self.send(peer, self.lock(content))
            if not self.reveals(group_id):
                continue
            for name, content in self._contents(group_id).items():
                for peer in self.me.honest:
                    self.send(peer, Reveal(content=content, votes=self.me.coven.votes_of(name)))

    def _contents(self, group_id: GroupId) -> dict[bytes, LockContent]:
        return {content.digest(): content for shown in self.shown[group_id].values() for content in shown}
