"""Replicas' states on disk with a ledger, made without any training, signed by the keys in the directory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence

import numpy as np

from asyncfl.effects import Put, Table
from asyncfl.exclusions import Exclusion
from asyncfl.fold import FoldCache, FoldJob
from asyncfl.ledger import Ledger
from asyncfl.messages import (
    Attest,
    Certificate,
    GroupId,
    Item,
    LockContent,
    Locked,
    Member,
    ModelVote,
    Vote,
    attest_body,
)
from asyncfl.record import RecordBook
from asyncfl.replica.items import ItemRecord
from node.blobs import BlobStore
from node.deployment_files import DeploymentDirectory
from node.storage import Storage


class MadeLedger:
    """Entries of `groups` clients each, and a certified version after every one of them."""

    def __init__(self, files: DeploymentDirectory, groups: Iterable[tuple[int, Sequence[str]]]) -> None:
        deployment = files.deployment
        self.files = files
        self.federation = deployment.federation()
        self.identities = [files.identity(entry.name) for entry in deployment.replicas]
        self.names = [entry.name for entry in deployment.replicas]
        self.stores = [BlobStore(files.state(name) / "blobs") for name in self.names]
        self.ledger = Ledger(deployment.digest)
        self.rows: list[Put] = []
        self.versions: list[bytes] = []
        self.items: list[bytes] = []
        book, cache, initial = RecordBook(self.ledger), FoldCache(), files.initial_model()
        rng = np.random.default_rng(0)
        for part, (epoch, clients) in enumerate(groups):
            opened = rng.integers(-200, 200, self.federation.upload_dimension).astype("<i4").tobytes()
            for store in self.stores:
                name = store.write(opened)
            members = sorted((deployment.client(client).key, epoch) for client in clients)
            item = Item(
                id=GroupId(epoch=epoch, cell=0, coordinator=part % len(self.names), part=part),
                members=tuple(
                    Member(client=key, epoch=epoch, manifest=bytes([part]) * 32) for key, epoch in members
                ),
                opened=name,
            )
            self._enter(item, len(opened))
            head = self.ledger.head
            size = len(self.federation.rosters[0].members)
            model = FoldJob(self.federation, initial, head, size, cache).run(self.stores[0]).model
            unsigned = Certificate(version=head.chain, entries=head.entries, model=model, votes=())
            certificate = unsigned.model_copy(
                update={"votes": self._votes(ModelVote.KIND, unsigned.body(), 2)}
            )
            self.rows.append(book.put(head, certificate, Exclusion().name, 1_700_000_000.0 + part))
            self.versions.append(head.chain)
        for index in range(len(self.names)):
            self.write(index, self.rows)

    def _votes(self, kind: str, body: bytes, count: int) -> tuple[Vote, ...]:
        digest = self.federation.digest
        return tuple(
            Vote(replica=j, signature=identity.sign(kind, digest, body))
            for j, identity in enumerate(self.identities[:count])
        )

    def _enter(self, item: Item, size: int) -> None:
        locks = self._votes(Locked.KIND, LockContent(id=item.id, members=item.members).digest(), 3)
        attested = self._votes(Attest.KIND, attest_body(item.id, item.digest()), 2)
        record = ItemRecord(item, size, {vote.replica: vote.signature for vote in attested}, locks)
        self.ledger.add(item)
        self.items.append(item.digest())
        self.rows.append(Put(Table.ITEMS, item.digest(), record.encode()))

    def write(self, index: int, rows: Sequence[Put]) -> None:
        """Rows into a replica's state, as the replica writes them."""
        name = self.names[index]
        path = self.files.state(name) / "state.sqlite"

        async def write() -> None:
            storage = Storage.open(path, owner=self.files.deployment.digest + self.identities[index].public)
            await storage.commit(rows)
            await storage.close()

        asyncio.run(write())
        past = time.time() - 10
        os.utime(path, (past, past))

    def record(self, number: int) -> ItemRecord:
        """The row of an entry."""
        name = self.items[number]
        return ItemRecord.decode(next(row.value for row in self.rows if row.key == name))
