"""Replicas' states on disk with a ledger, made without any training, signed by the keys in the directory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence

import numpy as np

from asyncfl.effects import Put, Table
from asyncfl.exclusions import Exclusion, put_exclusion
from asyncfl.fold import FoldCache, FoldJob
from asyncfl.ledger import Ledger
from asyncfl.messages import (
    Attest,
    Certificate,
    ExclusionStatement,
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
from asyncfl.replica.item_record import ItemRecord, Signatures
from node.blobs import BlobStore
from node.deployment_files import OPERATOR_KEY_FILE, DeploymentDirectory, read_key
from node.rollback import sign
from node.storage import Storage

GROUPS = [
    (1, ("client-0", "client-1", "client-2")),
    (1, ("client-3", "client-4", "client-5")),
    (2, ("client-0", "client-3", "client-6")),
    (2, ("client-1", "client-4", "client-7")),
    (3, ("client-2", "client-5", "client-7")),
]
"""Of eight clients: epochs and members."""


class MadeLedger:
    """Entries of `groups` clients each, and a certified version after every one of them."""

    def __init__(
        self, files: DeploymentDirectory, groups: Iterable[tuple[int, Sequence[str]]], *, correct: int = 0
    ) -> None:
        deployment = files.deployment
        self.files = files
        self.correct = correct
        """Of a hundred test examples, how many the first group's members got right; one more with every group."""
        self.federation = deployment.federation()
        self.identities = [files.identity(entry.name) for entry in deployment.replicas]
        self.names = [entry.name for entry in deployment.replicas]
        self.stores = [BlobStore(files.state(name) / "blobs") for name in self.names]
        self.ledger = Ledger(deployment.digest)
        self.rows: list[Put] = []
        self.versions: list[bytes] = []
        self.items: list[bytes] = []
        self._book, self._cache, self._initial = RecordBook(self.ledger), FoldCache(), files.initial_model()
        self._rng = np.random.default_rng(0)
        for epoch, clients in groups:
            self.enter(epoch, clients)
            self.certify()
        for index in range(len(self.names)):
            self.write(index, self.rows)

    def enter(self, epoch: int, clients: Sequence[str]) -> None:
        """One entry more; on no disk yet."""
        part = len(self.items)
        values = self._rng.integers(-200, 200, self.federation.upload_dimension).astype("<i4")
        place = self.federation.metrics_segment
        if place is not None:
            scale = len(clients) * place.bound / place.clip
            values[place.start : place.stop] = round((self.correct + part) * scale), round(100 * scale)
        for store in self.stores:
            name = store.write(values.tobytes())
        keys = {client.name: client.key for client in self.files.deployment.clients}
        item = Item(
            id=GroupId(epoch=epoch, cell=0, coordinator=part % len(self.names), part=part),
            members=tuple(
                Member(client=key, epoch=epoch, manifest=bytes([part]) * 32)
                for key in sorted(keys[client] for client in clients)
            ),
            opened=name,
        )
        locks = self._votes(Locked.KIND, LockContent(id=item.id, members=item.members).digest(), 3)
        attested = self._votes(Attest.KIND, attest_body(item.id, item.digest()), 2)
        record = ItemRecord(item.encode(), values.nbytes, Signatures(attested), Signatures(locks))
        self.ledger.add(item)
        self.items.append(item.digest())
        self.rows.append(Put(Table.ITEMS, item.digest(), record.encode()))

    def exclude(self, statement: ExclusionStatement) -> None:
        """The operator's statement, signed here; on no disk yet."""
        operator = read_key(self.files.root / OPERATOR_KEY_FILE)
        signed = sign(operator, self.files.deployment.digest, statement)
        self.ledger.exclude(Exclusion.of(signed))
        self.rows.append(put_exclusion(signed))

    def certify(self) -> None:
        """The version of all entries under the exclusion in force."""
        head, counted, exclusion = self.ledger.head, self.ledger.counted_head, self.ledger.exclusion
        size = len(self.federation.rosters[0].members)
        model = FoldJob(self.federation, self._initial, counted, size, self._cache).run(self.stores[0]).model
        unsigned = Certificate(
            version=exclusion.version(head.chain), entries=head.entries, model=model, votes=(),
            statement=exclusion.number,
        )  # fmt: skip
        votes = self._votes(ModelVote.KIND, unsigned.body(), 2)
        certificate = unsigned.model_copy(update={"votes": votes})
        at = 1_700_000_000.0 + len(self.versions)
        self.rows.append(self._book.put(head, certificate, exclusion.name, at))
        self.versions.append(certificate.version)

    def _votes(self, kind: str, body: bytes, count: int) -> tuple[Vote, ...]:
        digest = self.federation.digest
        return tuple(
            Vote(replica=j, signature=identity.sign(kind, digest, body))
            for j, identity in enumerate(self.identities[:count])
        )

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
