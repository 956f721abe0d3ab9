"""Malicious clients."""

from __future__ import annotations

from collections.abc import Iterable

from asyncfl.adversary.behaviour import Behaviour, attacker
from asyncfl.effects import Effect, SendBlob
from asyncfl.messages import Message, Ready, Task, Upload


@attacker(
    "ready-for-ever", "client",
    tries="says READY for ever, takes TASKs and never uploads",
    rule="overdue clients are left out, and who stays at the front for 6 patience is ignored (section 5)",
)  # fmt: skip
class ReadyForEver(Behaviour):
    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Task) else (message,)


@attacker(
    "upload-and-vanish", "client",
    tries="announces uploads and never sends their bytes",
    rule="nothing is vouched for before it is verified and on disk (section 4, step 3)",
)  # fmt: skip
class UploadAndVanish(Behaviour):
    def does(self, effect: Effect) -> Iterable[Effect]:
        return () if isinstance(effect, SendBlob) else (effect,)


@attacker(
    "runs-ahead", "client",
    tries="claims epochs far beyond the front",
    rule="TASKs and uploads only up to front + window (section 4, step 3; section 5)",
)  # fmt: skip
class RunsAhead(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Ready):
            return (message.model_copy(update={"epoch": message.epoch + 1000}),)
        return (message,)


@attacker(
    "broken-signature", "client",
    tries="sends manifests whose signature does not verify",
    rule="check_manifest (section 3)",
)  # fmt: skip
class BrokenSignature(Behaviour):
    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            bad = message.manifest.model_copy(update={"signature": bytes(64)})
            return (Upload(manifest=bad),)
        return (message,)
