"""An audit finds what was changed in a replica's state, and names it; of an honest run it has nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import pytest

from asyncfl.audit import Audit, find_differences
from asyncfl.effects import Table
from asyncfl.errors import StorageError
from asyncfl.federation import Federation
from asyncfl.messages import Vote
from asyncfl.record import VersionRecord
from asyncfl.replica.item_record import ItemRecord
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import MemoryBlobs
from tests.core.builders import make_simulation

Tables = dict[Table, dict[bytes, bytes]]


class Checked(MemoryBlobs):
    """A store that compares what it reads with its digest, as the one on disk does."""

    def read(self, digest: bytes) -> bytes:
        data = super().read(digest)
        if MemoryBlobs().write(data) != digest:
            raise StorageError(f"blob {digest.hex()[:12]} is damaged")
        return data


@cache
def run() -> Simulation:
    """Four epochs, in the middle of which the operator takes the first out of the model."""
    simulation = make_simulation(8, last_epoch=4, cell_size=4, min_group=3)
    simulation.start()
    network = simulation.network

    def reached() -> bool:
        return all(r.context.ledger.last_epoch >= 2 for r in simulation.running_replicas())

    assert network.run(until=reached, seconds=100)
    simulation.tell(0, simulation.sign_exclusion(1, spans=[(1, 1)], reason="poison"))
    assert network.run(until=simulation.is_drained, seconds=100)
    return simulation


def audit(
    tables: Tables | None = None,
    blobs: dict[bytes, bytes] | None = None,
    replica: int = 0,
    federation: Federation | None = None,
) -> Audit:
    simulation = run()
    node = simulation.network.nodes[simulation.replica_key(replica)]
    store = Checked()
    store.data = dict(node.blobs.data) if blobs is None else blobs
    durable = {table: dict(rows) for table, rows in node.durable.items()} if tables is None else tables
    result = Audit(federation or simulation.federation, replica, simulation.initial, durable, store, store)
    result.run()
    return result


def state(replica: int = 0) -> tuple[Tables, dict[bytes, bytes]]:
    node = run().network.nodes[run().replica_key(replica)]
    return deepcopy({table: dict(rows) for table, rows in node.durable.items()}), dict(node.blobs.data)


@pytest.mark.parametrize("replica", range(4))
def test_an_honest_run_has_no_problems(replica: int) -> None:
    found = audit(replica=replica)
    assert found.problems == []
    assert len(found.items) >= 6
    assert len(found.versions) >= 4
    assert {version.record.certificate.statement for version in found.versions} == {0, 1}
    assert found.signatures > 5 * len(found.items)
    assert all(len(record.locks) >= 3 for record in found.items.values()), "an entry without its locks"
    assert all(version.record.certificate.version in found.models for version in found.versions)


def test_replicas_of_an_honest_run_do_not_contradict_each_other() -> None:
    assert list(find_differences({str(j): audit(replica=j) for j in range(4)})) == []


def first_item(tables: Tables, epoch: int = 1) -> tuple[bytes, ItemRecord]:
    """The entry of `epoch` whose name is least."""
    records = {name: ItemRecord.decode(encoded) for name, encoded in tables[Table.ITEMS].items()}
    name = min(name for name, record in records.items() if record.item.id.epoch == epoch)
    return name, records[name]


def forged_lock(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, record = first_item(tables)
    first = min(record.locks)
    record.locks[first] = bytes(64)
    tables[Table.ITEMS][name] = record.encode()
    return f"entry {name.hex()[:12]}: lock of replica {first} is not its signature"


def lock_of_another(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, record = first_item(tables)
    first = min(record.locks)
    record.locks[(first + 1) % 4] = record.locks.pop(first)
    tables[Table.ITEMS][name] = record.encode()
    return f"entry {name.hex()[:12]}: lock of replica {(first + 1) % 4} is not its signature"


def too_few_locks(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, record = first_item(tables)
    del record.locks[max(record.locks)]
    tables[Table.ITEMS][name] = record.encode()
    return f"entry {name.hex()[:12]}: locks of 2 replicas hold, 3 are needed"


def forged_attestation(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, record = first_item(tables)
    record.votes[min(record.votes)] = bytes(64)
    tables[Table.ITEMS][name] = record.encode()
    return f"entry {name.hex()[:12]}: attestation of replica {min(record.votes)} is not its signature"


def changed_sum(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, record = first_item(tables)
    blobs[record.item.opened] = b"\x01" + blobs[record.item.opened][1:]
    return f"entry {name.hex()[:12]}: its opened sum {record.item.opened.hex()[:12]} is not here as it was"


def another_sum(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    """The sum, and the entry that names it, both changed so that they fit: the attestations do not."""
    name, record = first_item(tables)
    data = b"\x01" + blobs[record.item.opened][1:]
    store = MemoryBlobs()
    record.encoded = record.item.model_copy(update={"opened": store.write(data)}).encode()
    blobs.update(store.data)
    del tables[Table.ITEMS][name]
    tables[Table.ITEMS][record.item.digest()] = record.encode()
    return f"entry {record.item.digest().hex()[:12]}: attestation of replica"


def entry_gone(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, _ = first_item(tables)
    del tables[Table.ITEMS][name]
    return "the model cannot be computed: entries are not all here"


def entry_twice(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    _, record = first_item(tables)
    record.encoded = record.item.model_copy(
        update={"id": record.item.id.model_copy(update={"part": 9})}
    ).encode()
    tables[Table.ITEMS][record.item.digest()] = record.encode()
    return "contradicts another entry: an upload of epoch"


def altered_model(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    last = VersionRecord.decode(tables[Table.CERTIFICATES][max(tables[Table.CERTIFICATES])])
    blobs[last.certificate.model] = bytes(len(blobs[last.certificate.model]))
    return f"version {last.certificate.version.hex()[:12]}: its model {last.certificate.model.hex()[:12]} is not here"


def another_model_certified(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    key = max(tables[Table.CERTIFICATES])
    last = VersionRecord.decode(tables[Table.CERTIFICATES][key])
    certificate = last.certificate.model_copy(update={"model": b"m" * 32})
    forged = VersionRecord(certificate, last.exclusion, last.at, last.base, last.rows)
    tables[Table.CERTIFICATES][key] = forged.encode()
    return f"the certificate says {(b'm' * 32).hex()[:12]}"


def statement_gone(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    tables[Table.EXCLUSIONS].clear()
    return "under it is not here"


def statement_changed(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    ((key, value),) = tables[Table.EXCLUSIONS].items()
    tables[Table.EXCLUSIONS][key] = value.replace(b"poison", b"advice")
    return f"exclusion 1 ({key[4:].hex()[:12]}): the operator did not sign exclusion 1"


def unreadable(tables: Tables, blobs: dict[bytes, bytes]) -> str:
    name, _ = first_item(tables)
    tables[Table.ITEMS][name] = b"\x00"
    return f"entry {name.hex()[:12]}: cannot be read"


@pytest.mark.parametrize(
    "tamper",
    [
        forged_lock, lock_of_another, too_few_locks, forged_attestation, changed_sum, another_sum, entry_gone,
        entry_twice, altered_model, another_model_certified, statement_gone, statement_changed, unreadable,
    ],
)  # fmt: skip
def test_what_was_changed_is_found_and_named(
    tamper: Callable[[Tables, dict[bytes, bytes]], str],
) -> None:
    tables, blobs = state()
    expected = tamper(tables, blobs)
    problems = audit(tables, blobs).problems
    assert any(expected in problem for problem in problems), problems


def test_one_lost_sum_is_one_cause_however_many_versions_it_keeps_from_being_computed() -> None:
    tables, blobs = state()
    _, record = first_item(tables, epoch=2)
    del blobs[record.item.opened]
    found = audit(tables, blobs)
    _, versions = found.problems
    more = len(found.versions) - len(found.models) - 1
    assert more >= 2
    assert f"and {more} more: the model cannot be computed" in versions


def test_a_model_that_the_entries_do_not_make_is_found_even_with_valid_signatures() -> None:
    """All replicas together may sign what they like: the entries say what the model is."""
    tables, blobs = state()
    simulation = run()
    key = max(tables[Table.CERTIFICATES])
    last = VersionRecord.decode(tables[Table.CERTIFICATES][key])
    unsigned = last.certificate.model_copy(update={"model": b"m" * 32})
    signed = tuple(
        Vote(replica=j, signature=identity.sign("model", simulation.federation.digest, unsigned.body()))
        for j, identity in enumerate(simulation.replica_ids)
    )
    forged = unsigned.model_copy(update={"votes": signed})
    tables[Table.CERTIFICATES][key] = VersionRecord(
        forged, last.exclusion, last.at, last.base, last.rows
    ).encode()
    tables[Table.MODELS][forged.version] = b"m" * 32
    problems = audit(tables, blobs).problems
    assert len(problems) == 1
    assert "the entries make model" in problems[0]
    other = audit(replica=1)
    differences = list(find_differences({"a": audit(tables, blobs), "b": other}))
    assert any("certificates of two models" in each for each in differences)
