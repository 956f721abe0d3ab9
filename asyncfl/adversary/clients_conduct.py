"""Malicious clients: what they claim of themselves, what they send twice, and what they never send."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from asyncfl.adversary.behaviour import Behaviour, Insider, attacker
from asyncfl.adversary.clients_dealing import CLIENT, Dealer
from asyncfl.adversary.dealing import Dealing, Doubled
from asyncfl.client.jobs import TrainAndProtect
from asyncfl.effects import Compute, Effect, SendBlob
from asyncfl.messages import (
    Leave,
    Manifest,
    Message,
    Missing,
    Pull,
    Ready,
    Stored,
    Task,
    Upload,
)

ASSIGNED = (
    "cell, coordinator and roster follow from the client and the epoch, and are checked (sections 1, 4)"
)


@attacker(
    "ready-for-ever", CLIENT,
    tries="says READY for ever, takes TASKs and never uploads",
    rule="overdue clients are left out, and who stays at the front for 6 patience is ignored (section 5)",
    without=("nobody-is-overdue",),
)  # fmt: skip
class ReadyForEver(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Task) else (message,)


@attacker(
    "feigned-slowness", CLIENT,
    tries="takes TASKs, and sends each upload as late as it can without being left out",
    rule="overdue after 6 patience, for a time that doubles with each miss (section 5)",
)  # fmt: skip
class FeignedSlowness(Behaviour):
    """Nothing is slower than who delays what it says by a little less than six times the least patience."""

    SECONDS = 5.5

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._held: list[tuple[float, bytes, Message]] = []

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            self._held.append((self.now + self.SECONDS, peer, message))
            return ()
        return (message,)

    def acts(self) -> None:
        while self._held and self._held[0][0] <= self.now:
            self.send(*self._held.pop(0)[1:])


@attacker(
    "minutes-late", CLIENT,
    tries="takes TASKs, and sends each upload a minute late",
    rule="overdue clients are left out, and who stays at the front for 6 patience is ignored (section 5)",
    without=("nobody-is-overdue",),
)  # fmt: skip
class MinutesLate(FeignedSlowness):
    SECONDS = 60.0


@attacker(
    "upload-and-vanish", CLIENT,
    tries="announces uploads and never sends their bytes",
    rule="overdue clients are left out: who waits for the bytes goes on without them (section 5)",
    without=("nobody-is-overdue",),
)  # fmt: skip
class UploadAndVanish(Behaviour):
    def does(self, effect: Effect) -> Iterable[Effect]:
        return () if isinstance(effect, SendBlob) else (effect,)


@attacker(
    "half-uploads", CLIENT,
    tries="sends every manifest to everybody, and its bytes to one replica in two only",
    rule="replicas pull what they lack from each other (section 4, steps 3 and 5)",
    without=("bytes-from-the-client-alone",),
)  # fmt: skip
class HalfUploads(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            for other in self.me.federation.replica_keys:
                self.send(other, message)
            return ()
        return (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, SendBlob) and self.me.federation.replica_index[effect.peer] % 2:
            return ()
        return (effect,)


@attacker(
    "runs-ahead", CLIENT,
    tries="moves itself to epochs far beyond the front, whose cells it has looked up",
    rule="TASKs and uploads only up to front + window (section 4, step 3; section 5)",
    without=("beyond-the-window",),
)  # fmt: skip
class RunsAhead(Behaviour):
    def begins(self) -> None:
        self.me.machine.context.epoch += 1000
        self.me.machine.last_epoch = None


@attacker(
    "two-uploads", CLIENT,
    tries="makes two uploads for one epoch, and sends them to different replicas",
    rule="a replica vouches for one upload of a (client, epoch), which is locked once (section 4, steps 3 and 5)",
    without=("two-uploads-vouched",),
)  # fmt: skip
class TwoUploads(Behaviour):
    ELSEWHERE = 0
    """How far down the line the second one's coordinator is."""

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self.spare: dict[bytes, Manifest] = {}

    def does(self, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Compute) and isinstance(effect.job, TrainAndProtect):
            return (Compute(effect.key, Doubled(effect.job, self.spare, self.ELSEWHERE)),)
        return (effect,)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Missing):
            return ()
        if isinstance(message, Upload) and (other := self.spare.get(message.manifest.digest())):
            for index, replica in enumerate(self.me.federation.replica_keys):
                both = (message, Upload(manifest=other))
                for upload in both if index % 2 else both[::-1]:
                    self.send(replica, upload)
            return ()
        return (message,)

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Pull):
            self.do(SendBlob(peer, message.blob, message.offset))
            return ()
        if isinstance(message, Stored):
            # What it hears of the one stands for the other: on to the next epoch.
            known = next((a for a, b in self.spare.items() if b.digest() == message.manifest), None)
            return (message if known is None else message.model_copy(update={"manifest": known}),)
        return (message,)


@attacker(
    "two-coordinators", CLIENT,
    tries="makes two uploads for one epoch, each naming another coordinator, and brings each to its own",
    rule="a replica vouches for one upload of a (client, epoch), which is locked once (section 4, steps 3 and 5)",
    without=("two-uploads-vouched",),
)  # fmt: skip
class TwoCoordinators(TwoUploads):
    ELSEWHERE = 1

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload) and (other := self.spare.get(message.manifest.digest())):
            keys = self.me.federation.replica_keys
            self.send(keys[other.core.coordinator], Upload(manifest=other))
            return (message,) if peer == keys[message.manifest.core.coordinator] else ()
        return super().says(peer, message)


@attacker(
    "broken-signature", CLIENT,
    tries="sends manifests whose signature does not verify",
    rule="the client's signature covers all of a manifest (section 3)",
    without=("manifests-unsigned",),
)  # fmt: skip
class BrokenSignature(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            bad = message.manifest.model_copy(update={"signature": bytes(64)})
            return (Upload(manifest=bad),)
        return (message,)


@attacker(
    "flood-of-uploads", CLIENT,
    tries="sends every upload to everybody again and again, and asks for its TASK again in between",
    rule="what is known is answered from memory, and measured once for each client and epoch (section 5)",
    without=("every-repetition-measured",),
)  # fmt: skip
class FloodOfUploads(Behaviour):
    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._last: Manifest | None = None

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            self._last = message.manifest
        return (message,) * 10

    def acts(self) -> None:
        upload = self._last
        epoch = self.me.machine.epoch if upload is None else upload.core.epoch
        for index, peer in enumerate(self.me.federation.replica_keys):
            self.send(peer, Ready(epoch=epoch, coordinator=index, roster=0, uploaded=0, wants_task=True))
            if upload is not None:
                self.send(peer, Upload(manifest=upload))


@attacker(
    "forged-leave", CLIENT,
    tries="forges LEAVEs, in its own and others' names",
    rule="a LEAVE is signed, and speaks for the channel it comes from alone (sections 5 and 7)",
    without=("leaves-unsigned",),
)  # fmt: skip
class ForgedLeave(Behaviour):
    def acts(self) -> None:
        unsigned = Leave(epoch=1, uploads=0, signature=bytes(64))
        for other in self.me.federation.rosters[0].members[:3]:
            identity = self.me.coven.identities.get(other)
            forged = unsigned if identity is None or identity is self.me.identity else unsigned.model_copy(
                update={"signature": identity.sign(Leave.KIND, self.me.federation.digest, unsigned.body())}
            )  # fmt: skip
            for peer in self.me.federation.replica_keys:
                self.send(peer, forged)


@attacker(
    "asks-everybody", CLIENT,
    tries="asks every replica for a TASK at once, as if each were its coordinator",
    rule="one upload of a (client, epoch) is vouched for, whoever gave the TASK (section 4, step 3)",
)  # fmt: skip
class AsksEverybody(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Ready):
            index = self.me.federation.replica_index[peer]
            return (message.model_copy(update={"coordinator": index, "wants_task": True}),)
        return (message,)


@attacker(
    "claims-to-have-uploaded", CLIENT,
    tries="names an upload that was never made, so that its next TASK waits for it",
    rule="a coordinator waits two patience for a previous upload, no longer (section 5)",
    without=("claims-awaited-for-ever",),
)  # fmt: skip
class ClaimsToHaveUploaded(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Ready):
            return (message.model_copy(update={"uploaded": message.epoch + 500}),)
        return (message,)


class Misplaced(Dealer, ABC):
    """Names something else in its manifests than it should. Override `changes`."""

    @abstractmethod
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        """Fields of the core that are to be others."""

    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        return dealing.rebuild(**self.changes(dealing.manifest))


@attacker(
    "wrong-cell", CLIENT,
    tries="names the cell of its choice, to surround somebody or to be with its friends",
    rule=ASSIGNED,
    without=("assignment-unchecked",),
)  # fmt: skip
class WrongCell(Misplaced):
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        context = self.me.machine.context
        cells = len(context.assignment.cells(context.roster, manifest.core.epoch))
        return {"cell": (manifest.core.cell + 1) % cells}


@attacker(
    "wrong-epoch", CLIENT,
    tries="names an earlier or later epoch than that of its TASK, whose cell suits it better",
    rule=ASSIGNED,
    without=("assignment-unchecked",),
)  # fmt: skip
class WrongEpoch(Misplaced):
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        return {"epoch": manifest.core.epoch + 1}


@attacker(
    "forged-uploads", CLIENT,
    tries="makes uploads in the name of another client, so that this one's own are refused, or its cell is filled",
    rule="an upload is taken from its own client's channel, or under its signature (section 3)",
    without=("uploads-in-any-name",),
)  # fmt: skip
class ForgedUploads(Misplaced):
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        context, coven = self.me.machine.context, self.me.coven
        victim = next(key for key in context.roster.members if key not in coven.identities)
        cell = context.assignment.cell_of(victim, context.roster, manifest.core.epoch)
        return {"client": victim, "cell": cell}


@attacker(
    "wrong-roster", CLIENT,
    tries="names a roster that the operator never signed",
    rule=ASSIGNED,
    without=("any-roster-digest",),
)  # fmt: skip
class WrongRoster(Misplaced):
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        return {"roster_digest": bytes(32)}


@attacker(
    "wrong-coordinator", CLIENT,
    tries="names another coordinator than the one that gave the TASK",
    rule="a coordinator groups only uploads that name it; others wait for its absence (section 4, step 9)",
)  # fmt: skip
class WrongCoordinator(Misplaced):
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        return {"coordinator": (manifest.core.coordinator + 1) % self.me.federation.parameters.replicas}


@attacker(
    "of-no-replica",
    CLIENT,
    tries="names a coordinator that does not exist",
    rule=ASSIGNED,
    without=("any-coordinator",),
)  # fmt: skip
class OfNoReplica(Dealer):
    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._named: Manifest | None = None

    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        self._named, _ = dealing.rebuild(coordinator=15)
        return dealing.manifest, dealing.payload

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        return (Upload(manifest=self._named),) if isinstance(message, Upload) and self._named else (message,)


@attacker(
    "another-deployment", CLIENT,
    tries="sends uploads made for another deployment",
    rule="the deployment's digest is in the core and in every signature (sections 3 and 8)",
    without=("other-deployments-taken",),
)  # fmt: skip
class AnotherDeployment(Misplaced):
    def changes(self, manifest: Manifest) -> Mapping[str, Any]:
        return {"deployment": bytes(32)}
