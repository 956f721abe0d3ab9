"""Attacks that a reviewer ran against the state machines, and that worked once."""

from collections.abc import Sequence

import torch

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.client import Client
from asyncfl.client.context import State
from asyncfl.effects import Compute, Effect, Persist, Put, Table
from asyncfl.ledger import compute_chain
from asyncfl.masking.protect import sign_manifest
from asyncfl.messages import (
    GroupId,
    Lock,
    LockContent,
    Manifest,
    Member,
    Message,
    Relay,
    Row,
    Rows,
    ShareBad,
    ShareOk,
    Upload,
    View,
    share_ok_body,
)
from asyncfl.replica.coordination import OWN
from asyncfl.replica.models import FOLD
from asyncfl.rosters import Rosters
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters, make_simulation
from tests.simulation.observer import Observer, sent
from tests.simulation.test_liveness import describe, run_to_the_end, versions


def honest_upload(simulation: Simulation, number: int, epoch: int) -> masking.Protected:
    assignment = Assignment(simulation.federation)
    identity = simulation.client_ids[number]
    roster = Rosters(simulation.federation).at(epoch)
    cell = assignment.cell_of(identity.public, roster, epoch)
    context = masking.UploadContext(
        epoch, cell, assignment.coordinator(epoch, cell), roster.number, roster.digest, bytes(32)
    )
    update = torch.zeros(simulation.federation.dimension)
    return masking.protect(update, context, identity, simulation.federation)


def forged_upload(simulation: Simulation, number: int, epoch: int, payload: bytes) -> Upload:
    """An upload whose manifest names somebody else's blob as its payload."""
    manifest = honest_upload(simulation, number, epoch).manifest
    core = manifest.core.model_copy(update={"upload": payload})
    return Upload(manifest=sign_manifest(core, manifest.projections, simulation.client_ids[number]))


def test_an_upload_that_names_an_opened_sum_as_its_payload_deletes_nothing() -> None:
    simulation = make_simulation(last_epoch=8)
    simulation.start()
    network, evil = simulation.network, 3
    ledger = simulation.replica(0).context.ledger
    network.run(until=lambda: ledger.last_epoch >= 3, seconds=100)
    victim = next(iter(ledger.items.values())).opened
    for index in range(4):
        node = network.nodes[simulation.replica_key(index)]
        epoch = simulation.replica(index).context.inclusion.front + 1
        network._on(
            node, "receive", simulation.client_key(evil), forged_upload(simulation, evil, epoch, victim)
        )
    network.run(seconds=2)
    for index in range(4):
        assert network.nodes[simulation.replica_key(index)].blobs.has(victim)
    run_to_the_end(simulation)
    assert len(versions(simulation)) == 1


def test_a_client_that_stays_at_its_epoch_for_ever_holds_up_nobody() -> None:
    """It says READY and never wants a TASK, so that no TASK of its is ever overdue."""
    simulation = make_simulation(last_epoch=6)
    simulation.start()
    lazy = simulation.client(0).context
    simulation.network.run(seconds=1)
    lazy.state = State.RESTING

    def others_done() -> bool:
        machines = [simulation.client(i) for i in range(1, 16)]
        return all(isinstance(m, Client) and m.state is State.RESTING and m.epoch > 6 for m in machines)

    assert simulation.network.run(until=others_done, seconds=400), describe(simulation)


def test_an_ok_for_another_upload_does_not_poison_a_lock() -> None:
    """A liar's SHARE_OK, validly signed for (client X, epoch), names the manifest of client Y before Y's arrives."""
    simulation = make_simulation(last_epoch=4)
    observer = Observer(simulation, honest={1, 2, 3})
    liar = simulation.replica_ids[0]
    other = simulation.client_key(15)

    def lie(source: Node, target: Node, message: Message) -> Message | None:
        if isinstance(message, Upload) and target.key != liar.public:
            digest = message.manifest.digest()
            body = share_ok_body(other, 1, digest)
            signature = liar.sign(ShareOk.KIND, simulation.federation.digest, body)
            ok = ShareOk(client=other, epoch=1, manifest=digest, signature=signature)
            simulation.network._on(target, "receive", liar.public, ok)
        honest_ok = isinstance(message, ShareOk) and source.key == liar.public
        return None if honest_ok else message

    simulation.network.on_message = lie
    simulation.start()
    run_to_the_end(simulation)
    assert all(0 not in m.supporters for m in sent(observer, Lock, simulation.replica_key(1)))
    assert sorted(simulation.replica(1).context.ledger.counts.values()) == [4] * 16


def test_a_crash_between_the_last_lock_and_the_reveal_loses_no_group() -> None:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=3)
    Observer(simulation)
    key, network = simulation.replica_key(1), simulation.network
    hit: list[Effect] = []
    observe = network.before_effect

    def crash_after_reveal_row(node: Node, effect: Effect) -> None:
        observe(node, effect)
        deletes_own = isinstance(effect, Persist) and any(
            write.key.startswith(OWN) and not isinstance(write, Put) for write in effect.writes
        )
        if node.key == key and deletes_own and not hit:
            hit.append(effect)
            assert any(not row.startswith(OWN) for row in node.durable[Table.GROUPS]), (
                "votes are not on disk yet"
            )
            network.crash(key)
            network.after(1.0, lambda: network.start(key))

    network.before_effect = crash_after_reveal_row
    simulation.start()
    run_to_the_end(simulation)
    assert hit
    assert len(versions(simulation)) == 1


def vouch(simulation: Simulation, manifest: Manifest, replicas: Sequence[int]) -> tuple[bytes, ...]:
    """SHARE_OKs for an upload, by their own keys, whatever these replicas think of it."""
    body = share_ok_body(manifest.core.client, manifest.core.epoch, manifest.digest())
    deployment = simulation.federation.digest
    return tuple(simulation.replica_ids[j].sign(ShareOk.KIND, deployment, body) for j in replicas)


def test_a_coordinator_buys_no_vouchers_for_epochs_that_nobody_is_at() -> None:
    """What n-t SHARE_OKs show is pulled; nobody must vouch for it who would not have stored it."""
    simulation = make_simulation(last_epoch=3)
    observer, network = Observer(simulation, honest={1, 2, 3}), simulation.network
    liar, target = simulation.replica_ids[0], network.nodes[simulation.replica_key(1)]
    deployment = simulation.federation.digest
    assignment = Assignment(simulation.federation)
    roster = simulation.federation.rosters[0]
    number = next(i for i in range(16) if assignment.cell_of(simulation.client_key(i), roster, 500) == 0)
    simulation.start()
    network.run(seconds=2)
    protected = honest_upload(simulation, number, 500)
    manifest = protected.manifest
    network.nodes[liar.public].blobs.write(protected.payload)
    content = LockContent(
        id=GroupId(epoch=500, cell=0, coordinator=0, part=0),
        members=(Member(client=manifest.core.client, epoch=500, manifest=manifest.digest()),),
    )
    signature = liar.sign(Lock.KIND, deployment, content.digest())
    oks = (vouch(simulation, manifest, (0, 1, 2)),)
    lock = Lock(content=content, supporters=(0, 1, 2), oks=oks, signature=signature)
    network._on(target, "receive", liar.public, lock)
    network.run(seconds=1)
    network._on(target, "receive", liar.public, Relay(manifest=manifest))
    network.run(seconds=2)
    machine = simulation.replica(1)
    assert machine.uploads.records[manifest.digest()].stored, "the upload was not even pulled"
    assert not [m for m in sent(observer, ShareOk) if m.epoch == 500]


def test_a_stall_of_the_quorum_costs_clients_no_epochs() -> None:
    """Uploads that nobody can open would expire, and their privacy budget with them."""
    simulation = make_simulation(last_epoch=40)
    simulation.start()
    network = simulation.network
    ledger = simulation.replica(0).context.ledger
    network.run(until=lambda: ledger.last_epoch >= 3, seconds=100)
    network.crash(simulation.replica_key(1))
    network.crash(simulation.replica_key(2))
    network.run(seconds=3)
    before = [simulation.client(i).context.sent for i in range(16)]
    network.run(seconds=110)
    after = [simulation.client(i).context.sent for i in range(16)]
    assert sum(after) - sum(before) <= 16


def test_rows_that_nobody_asked_for_are_not_kept() -> None:
    simulation = make_simulation(last_epoch=3)
    simulation.start()
    simulation.network.run(seconds=3)
    target = simulation.network.nodes[simulation.replica_key(1)]
    rows = tuple(Row(epoch=e, items=(bytes([e % 256]) * 32,) * 64) for e in range(1, 200))
    shown = simulation.replica(1).gossip.targets[0].base
    for _ in range(5):
        message = Rows(base=shown, first=1, rows=rows, more=True)
        simulation.network._on(target, "receive", simulation.replica_key(0), message)
    assert all(len(peer.pages) == 0 for peer in simulation.replica(1).gossip.targets.values())


def test_invented_versions_are_folded_one_at_a_time() -> None:
    simulation = make_simulation(last_epoch=6)
    simulation.start()
    network = simulation.network
    ledger = simulation.replica(1).context.ledger
    network.run(until=lambda: ledger.entries >= 8, seconds=100)
    target, liar = network.nodes[simulation.replica_key(1)], simulation.replica_key(0)
    network.cut(liar, target.key)
    jobs: list[Effect] = []
    observe = network.before_effect

    def look(node: Node, effect: Effect) -> None:
        if node is target and isinstance(effect, Compute) and effect.key[0] == FOLD:
            jobs.append(effect)
        observe(node, effect)

    network.before_effect = look
    # As after a restart; then each version may only add to the last.
    simulation.replica(1).models._serving.clear()
    everything = ledger.rows()
    assert len(everything[0].items) > 2
    for dropped in range(len(everything[0].items) - 1, 0, -1):
        items = everything[0].items[dropped:]
        view = View(
            base=ledger.origin, base_epoch=0, entries=ledger.entries - dropped, pinned=True,
            rows=(everything[0].model_copy(update={"items": items}), *everything[1:]),
        )  # fmt: skip
        network._on(target, "receive", liar, view)
    assert len(jobs) == 1


def test_no_model_is_signed_in_which_an_entry_counts_twice() -> None:
    """A pinned VIEW whose row lists an item twice, or items in another row, names no set of entries."""
    simulation = make_simulation(last_epoch=4)
    simulation.start()
    network = simulation.network
    target, liar = network.nodes[simulation.replica_key(1)], simulation.replica_key(0)
    models, ledger = simulation.replica(1).models, simulation.replica(1).context.ledger
    network.run(until=lambda: ledger.entries >= 6, seconds=100)
    first, *rest = ledger.rows()
    for items, epoch in (((first.items[0], *first.items), first.epoch), (first.items, rest[-1].epoch + 1)):
        wrong = Row(epoch=epoch, items=items)
        rows = (wrong, *rest) if epoch == first.epoch else (*rest, wrong)
        view = View(
            base=ledger.origin, base_epoch=0, entries=ledger.entries + 1, pinned=True, rows=rows
        )  # fmt: skip
        version = compute_chain(ledger.origin, rows)
        network._on(target, "receive", liar, view)
        network.run(seconds=5)
        assert version not in models.records


def test_shares_that_are_bad_for_t_plus_1_replicas_hold_up_nobody() -> None:
    simulation = make_simulation(last_epoch=5)
    bad = {simulation.client_key(i) for i in (2, 9)}

    def spoil(source: Node, target: Node, message: Message) -> Message | None:
        spoilt = isinstance(message, ShareOk) and message.client in bad
        if not spoilt or simulation.federation.replica_index[source.key] < 2:
            return message
        identity = simulation.replica_ids[simulation.federation.replica_index[source.key]]
        assert isinstance(message, ShareOk)
        signature = identity.sign(ShareBad.KIND, simulation.federation.digest, message.body())
        return ShareBad(
            client=message.client, epoch=message.epoch, manifest=message.manifest, signature=signature
        )

    simulation.network.on_message = spoil
    simulation.start()
    run_to_the_end(simulation)
    counts = simulation.replica(0).context.ledger.counts
    honest = [counts.get(simulation.client_key(i), 0) for i in range(16) if i not in (2, 9)]
    assert min(honest) >= 4
    assert sum(honest) >= 0.95 * 14 * 5
