"""A replica takes no upload from another one's LOCK before the LOCK shows n-t valid SHARE_OKs for it."""

from __future__ import annotations

import pytest
import torch

from asyncfl.masking.protect import UploadContext, protect
from asyncfl.messages import (
    GroupId,
    Lock,
    LockContent,
    LockRefused,
    Manifest,
    ManifestRequest,
    Member,
    Message,
    Relay,
)
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters

LIAR = 3
FAR = 10**6


class Hoard:
    """Replica 3, and a client of its own that signs uploads of epochs that nobody will ever reach."""

    def __init__(self) -> None:
        self.simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=1)
        self.network = self.simulation.network
        self.uploads: dict[bytes, Manifest] = {}
        self.heard: list[Message] = []
        self.liar = self.network.nodes[self.simulation.replica_key(LIAR)]
        self.victim = self.network.nodes[self.simulation.replica_key(0)]
        self.network.on_message = self._on_message
        self.simulation.start()
        self.network.run(seconds=2)

    def _on_message(self, source: Node, target: Node, message: Message) -> Message:
        if source is self.victim and target is self.liar:
            self.heard.append(message)
            if isinstance(message, ManifestRequest):
                self.network.after(0.001, self.relay)
        return message

    def relay(self) -> None:
        for manifest in self.uploads.values():
            self.network.deliver(self.victim, self.liar.key, Relay(manifest=manifest))

    def lock(self, epochs: range, *, supporters: tuple[int, ...] = (0, 1, 2)) -> Lock:
        """A LOCK of one upload of its client's for each of these epochs, whose SHARE_OKs are forged."""
        federation, client = self.simulation.federation, self.simulation.client_ids[0]
        context = self.simulation.replica(0).context
        roster = federation.rosters[0]
        members = []
        for epoch in epochs:
            cell = context.assignment.cell_of(client.public, roster, epoch)
            about = UploadContext(epoch, cell, LIAR, 0, roster.digest, context.version)
            upload = protect(torch.zeros(federation.upload_dimension), about, client, federation)
            digest = upload.manifest.digest()
            self.uploads[digest] = upload.manifest
            self.liar.blobs.data[upload.manifest.core.upload] = upload.payload
            members.append(Member(client=client.public, epoch=epoch, manifest=digest))
        content = LockContent(
            id=GroupId(epoch=epochs[-1], cell=0, coordinator=LIAR, part=0), members=tuple(members)
        )
        signature = self.simulation.replica_ids[LIAR].sign(Lock.KIND, federation.digest, content.digest())
        oks = ((bytes(64),) * len(supporters),) * len(members)
        return Lock(content=content, supporters=supporters, oks=oks, signature=signature)

    def ask(self, lock: Lock) -> None:
        self.network.deliver(self.victim, self.liar.key, lock)

    @property
    def stored(self) -> set[bytes]:
        """Payloads of its client's on the victim's disk."""
        return {manifest.core.upload for manifest in self.uploads.values()} & self.victim.blobs.data.keys()


@pytest.mark.parametrize(
    ("epochs", "supporters", "reason"),
    [
        (range(FAR, FAR + 4), (0, 1, 2), "appears twice"),
        (range(FAR, FAR + 1), (0, 1), "3 distinct replicas"),
        (range(FAR, FAR + 1), (0, 1, 2), "a SHARE_OK is not valid"),
    ],
)
def test_nothing_is_pulled_for_a_lock_that_shows_by_itself_what_is_wrong(
    epochs: range, supporters: tuple[int, ...], reason: str
) -> None:
    hoard = Hoard()
    hoard.ask(hoard.lock(epochs, supporters=supporters))
    hoard.network.run(seconds=2)
    assert [reason in m.reason for m in hoard.heard if isinstance(m, LockRefused)] == [True]
    assert not [m for m in hoard.heard if isinstance(m, ManifestRequest)]
    assert not hoard.stored


def test_riders_of_any_epoch_are_refused_unseen() -> None:
    hoard = Hoard()
    lock = hoard.lock(range(FAR, FAR + 1))
    group = lock.content.id.model_copy(update={"epoch": FAR + 9})
    content = lock.content.model_copy(update={"id": group})
    identity, federation = hoard.simulation.replica_ids[LIAR], hoard.simulation.federation
    signature = identity.sign(Lock.KIND, federation.digest, content.digest())
    hoard.ask(lock.model_copy(update={"content": content, "signature": signature}))
    hoard.network.run(seconds=2)
    assert ["cannot ride" in m.reason for m in hoard.heard if isinstance(m, LockRefused)] == [True]
    assert not hoard.stored


def test_what_comes_along_with_a_lock_is_not_taken_before_its_share_oks_are_verified() -> None:
    """Else the manifests need not even wait to be asked for."""
    hoard = Hoard()
    hoard.ask(hoard.lock(range(FAR, FAR + 1)))
    hoard.relay()
    hoard.network.run(seconds=2)
    assert not hoard.stored
