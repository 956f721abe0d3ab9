"""The ledger and opened sums of a replica's state, read without touching it, also while the replica runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfl.effects import Table
from asyncfl.errors import StorageError
from asyncfl.exclusions import Exclusions
from asyncfl.ledger import Ledger
from asyncfl.replica.item_record import ItemRecord
from node.deployment_files import DeploymentDirectory
from node.privacy_events import read_tables
from node.supervisor.evaluation import find_blobs
from node.supervisor.evaluator import read_blob


@dataclass(frozen=True, slots=True)
class StoredSums:
    """Opened sums in the replicas' stores, each checked against its digest; a damaged one is looked for elsewhere."""

    files: DeploymentDirectory

    def read(self, digest: bytes) -> bytes:
        copies = find_blobs(self.files, digest.hex())
        if not copies:
            raise StorageError(
                f"no replica here has the opened sum {digest.hex()[:16]}: its state is not complete"
            )
        return read_blob(copies, digest.hex())

    def write(self, data: bytes) -> bytes:
        raise StorageError("a copy of a state is not written to")

    def has(self, digest: bytes) -> bool:
        return bool(find_blobs(self.files, digest.hex()))


@dataclass(frozen=True, slots=True)
class StateBlobs:
    """The blobs of some replicas' states, each checked against its digest; a damaged one is looked for elsewhere."""

    files: DeploymentDirectory
    names: tuple[str, ...]

    def read(self, digest: bytes) -> bytes:
        copies = list(self._paths(digest))
        if not copies:
            raise StorageError(f"blob {digest.hex()[:16]} is not in the state of {', '.join(self.names)}")
        return read_blob(copies, digest.hex())

    def write(self, data: bytes) -> bytes:
        raise StorageError("a copy of a state is not written to")

    def has(self, digest: bytes) -> bool:
        return next(self._paths(digest), None) is not None

    def _paths(self, digest: bytes) -> Iterator[Path]:
        name = digest.hex()
        for replica in self.names:
            path = self.files.state(replica) / "blobs" / name[:2] / name
            try:
                found = path.is_file()
            except PermissionError:
                found = True  # Reading it says why it cannot be read.
            if found:
                yield path


LEDGER_TABLES: Final = (Table.ITEMS, Table.MODELS, Table.CERTIFICATES, Table.EXCLUSIONS, Table.ROSTERS)


def read_replica(files: DeploymentDirectory, name: str) -> dict[Table, dict[bytes, bytes]]:
    """What replica `name` has on this machine of its ledger and its models. Raises `StorageError`."""
    owner = files.deployment.digest + files.deployment.replica(name).key
    return read_tables(files.state(name) / "state.sqlite", owner, LEDGER_TABLES)


def read_ledger(files: DeploymentDirectory, name: str) -> Ledger:
    """The entries that replica `name` has on this machine, and what of them counts. Raises `StorageError`."""
    deployment = files.deployment
    tables = read_replica(files, name)
    exclusions = Exclusions(deployment.federation())
    exclusions.load(tables[Table.EXCLUSIONS])
    ledger = Ledger(deployment.digest)
    ledger.exclude(exclusions.in_force)
    for value in tables[Table.ITEMS].values():
        ledger.add(ItemRecord.decode(value).item)
    return ledger
