"""The ledger and opened sums of a replica's state, read without touching it, also while the replica runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asyncfl.effects import Table
from asyncfl.errors import StorageError
from asyncfl.exclusions import Exclusions
from asyncfl.ledger import Ledger
from asyncfl.replica.items import ItemRecord
from node.deployment_files import DeploymentDirectory
from node.privacy_events import read_table
from node.supervisor.evaluation import find_blob
from node.supervisor.evaluator import read_blob


@dataclass(frozen=True, slots=True)
class StoredSums:
    """Opened sums in the replicas' stores, each checked against its digest."""

    files: DeploymentDirectory

    def read(self, digest: bytes) -> bytes:
        path = find_blob(self.files, digest.hex())
        if path is None:
            raise StorageError(
                f"no replica here has the opened sum {digest.hex()[:16]}: its state is not complete"
            )
        return read_blob(path, digest.hex())

    def write(self, data: bytes) -> bytes:
        raise StorageError("a copy of a state is not written to")

    def has(self, digest: bytes) -> bool:
        return find_blob(self.files, digest.hex()) is not None


def read_ledger(files: DeploymentDirectory, name: str) -> Ledger:
    """The entries that replica `name` has on this machine, and what of them counts. Raises `StorageError`."""
    deployment = files.deployment
    path: Path = files.state(name) / "state.sqlite"
    owner = deployment.digest + deployment.replica(name).key
    exclusions = Exclusions(deployment.federation())
    exclusions.load(read_table(path, owner, Table.EXCLUSIONS))
    rows = read_table(path, owner, Table.ITEMS)
    ledger = Ledger(deployment.digest)
    ledger.exclude(exclusions.in_force)
    for value in rows.values():
        ledger.add(ItemRecord.decode(value).item)
    return ledger
