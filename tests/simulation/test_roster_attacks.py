"""What a forger, a careless operator, a malicious client and a lying replica can do with rosters: nothing."""

import pytest
import torch

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.client.context import State
from asyncfl.effects import Persist, Send, Table
from asyncfl.federation import Roster
from asyncfl.messages import (
    Front,
    GroupId,
    Lock,
    LockContent,
    Member,
    Message,
    Ready,
    Refused,
    Relay,
    RosterRequest,
    RosterStatement,
    ShareOk,
    Stored,
    Upload,
    Wait,
)
from asyncfl.rosters import ROSTER_GRACE_EPOCHS
from asyncfl.simulation import Simulation
from asyncfl.simulation.deployment import sign_roster
from tests.core.builders import make_parameters
from tests.simulation.bench import Bench
from tests.simulation.observer import Observer, sent
from tests.simulation.test_found_attacks import vouch
from tests.simulation.test_liveness import describe, run_to_the_end, versions

NUMBER_MAX = 2**31 - 1


def small(last_epoch: int | None = 4, honest: set[int] | None = None) -> tuple[Simulation, Observer]:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=last_epoch)
    observer = Observer(simulation, honest)
    simulation.start()
    simulation.network.run(seconds=1)
    return simulation, observer


def make_upload(simulation: Simulation, number: int, epoch: int, roster: Roster) -> masking.Protected:
    identity = simulation.client_ids[number]
    cell = Assignment(simulation.federation).cell_of(identity.public, roster, epoch)
    context = masking.UploadContext(
        epoch, cell, (cell + epoch - 1) % 4, roster.number, roster.digest, bytes(32)
    )
    return masking.protect(
        torch.zeros(simulation.federation.dimension), context, identity, simulation.federation
    )


def offer(simulation: Simulation, replica: int, number: int, upload: masking.Protected) -> None:
    """A client sends an upload of its own making."""
    network, client = simulation.network, simulation.client_key(number)
    network.nodes[client].blobs.write(upload.payload)
    network.nodes[simulation.replica_key(replica)].blobs.write(upload.payload)
    network.deliver(network.nodes[simulation.replica_key(replica)], client, Upload(manifest=upload.manifest))


def said_to(observer: Observer, peer: bytes, kind: type[Message]) -> list[Message]:
    return [m for _, target, m in observer.messages if target == peer and isinstance(m, kind)]


def events(simulation: Simulation, replica: int, name: str) -> list[str]:
    node = simulation.network.nodes[simulation.replica_key(replica)]
    return [event.level for _, event in node.events if event.event == name]


def test_a_forged_statement_changes_nothing_whoever_brings_it() -> None:
    simulation, _ = small()
    members = simulation.federation.rosters[0].members[1:]
    for forger in (simulation.client_ids[0], simulation.replica_ids[3]):
        forged = sign_roster(forger, simulation.federation.digest, 1, 2, members).statement
        for source in (forger.public, simulation.operator_id.public):
            simulation.network.deliver(simulation.network.nodes[simulation.replica_key(0)], source, forged)
    assert simulation.replica(0).context.rosters.highest == 0
    assert events(simulation, 0, "roster_refused") == ["warning"] * 4
    run_to_the_end(simulation)
    assert all(replica.context.rosters.highest == 0 for replica in simulation.running_replicas())


def test_members_out_of_order_or_twice_are_refused_also_with_the_operators_signature() -> None:
    simulation, _ = small()
    members = simulation.federation.rosters[0].members
    for bad in (members[::-1], (members[0], *members)):
        simulation.tell(
            0, sign_roster(simulation.operator_id, simulation.federation.digest, 1, 3, bad).statement
        )
    assert simulation.replica(0).context.rosters.highest == 0
    assert events(simulation, 0, "roster_refused") == ["warning"] * 2


def test_of_two_statements_with_one_number_the_first_stays_and_groups_keep_apart() -> None:
    """The operator's error, or a stolen key: three replicas hold one, the fourth the other. The three go on.

    With the clients that heard of theirs first: of those that heard of the other nothing is opened any more, and here
    nobody did.
    """
    simulation, observer = small(last_epoch=8)
    fourth = simulation.replica_key(3)
    simulation.network.on_message = lambda source, target, message: (
        None
        if isinstance(message, RosterStatement) and source.key == fourth and target.name.startswith("client-")
        else message
    )
    members = simulation.federation.rosters[0].members
    operator, deployment = simulation.operator_id, simulation.federation.digest
    other = sign_roster(operator, deployment, 1, 5, members).statement
    simulation.second_rosters.append(Roster(1, 5, members, other.signature))
    simulation.tell(3, other)
    first = simulation.sign_next_roster(4, range(8))
    simulation.replica(3).context.rosters.held[1] = Roster(1, 5, members, other.signature)
    for replica in range(3):
        if simulation.replica(replica).context.rosters.highest == 0:
            simulation.tell(replica, first)
    run_to_the_end(simulation)
    held = [replica.context.rosters.at(9).digest for replica in simulation.running_replicas()]
    assert held == [first.body()] * 3 + [other.body()]
    assert "error" in events(simulation, 3, "roster_refused")
    assert simulation.replica(0).context.ledger.last_epoch >= 7
    observer.check_end()


def test_an_old_roster_is_named_in_vain_long_after_the_change() -> None:
    """Whoever could go on choosing among rosters could choose its cell."""
    simulation, observer = small(last_epoch=1)
    simulation.tell(0, simulation.sign_next_roster(2, range(8)))
    simulation.network.run(seconds=1)
    old, new = simulation.rosters
    epoch = 2 + ROSTER_GRACE_EPOCHS
    for replica in simulation.running_replicas():
        replica.context.inclusion.front = epoch - 1
    client = simulation.client_key(2)
    simulation.network.crash(client)
    simulation.network.start(client)
    offer(simulation, 0, 2, make_upload(simulation, 2, epoch - 1, old))
    simulation.network.run(seconds=1)
    assert {m.epoch for m in sent(observer, ShareOk)} == {1, epoch - 1}, "within the grace"
    offer(simulation, 0, 2, make_upload(simulation, 2, epoch, old))
    simulation.network.run(seconds=1)
    assert [m.epoch for m in said_to(observer, client, Refused) if isinstance(m, Refused)] == [epoch]
    offer(simulation, 0, 2, make_upload(simulation, 2, epoch, new))
    simulation.network.run(seconds=1)
    assert {m.epoch for m in said_to(observer, client, Stored) if isinstance(m, Stored)} == {
        1,
        epoch - 1,
        epoch,
    }


def test_a_coordinator_buys_no_vouchers_for_an_old_roster() -> None:
    """Signers pull what a LOCK names, under any roster: they must not vouch for it where it is too old."""
    simulation, observer = small(last_epoch=1, honest={1, 2, 3})
    network = simulation.network
    simulation.tell(0, simulation.sign_next_roster(2, range(8)))
    network.run(seconds=1)
    epoch = 2 + ROSTER_GRACE_EPOCHS
    for replica in simulation.running_replicas():
        replica.context.inclusion.front = epoch
    upload = make_upload(simulation, 2, epoch, simulation.rosters[0])
    manifest, liar = upload.manifest, simulation.replica_ids[0]
    target = network.nodes[simulation.replica_key(1)]
    target.blobs.write(upload.payload)
    content = LockContent(
        id=GroupId(epoch=epoch, cell=manifest.core.cell, coordinator=0, part=0),
        members=(Member(client=manifest.core.client, epoch=epoch, manifest=manifest.digest()),),
    )
    signature = liar.sign(Lock.KIND, simulation.federation.digest, content.digest())
    oks = (vouch(simulation, manifest, (0, 1, 2)),)
    lock = Lock(content=content, supporters=(0, 1, 2), oks=oks, signature=signature)
    network.deliver(target, liar.public, lock)
    network.run(seconds=1)
    network.deliver(target, liar.public, Relay(manifest=manifest))
    network.run(seconds=1)
    assert simulation.replica(1).uploads.records[manifest.digest()].stored, "signing must not depend on it"
    assert not [m for m in sent(observer, ShareOk) if m.epoch == epoch]


def test_an_upload_under_a_roster_not_yet_heard_of_waits_and_is_not_refused() -> None:
    simulation, observer = small(last_epoch=1)
    network = simulation.network
    late = network.nodes[simulation.replica_key(3)]
    for other in simulation.federation.replica_keys[:3]:
        network.cut(late.key, other)
    statement = simulation.sign_next_roster(2, range(8))
    client = simulation.client_key(2)
    offer(simulation, 3, 2, make_upload(simulation, 2, 2, simulation.rosters[1]))
    assert [m.after for m in said_to(observer, client, RosterRequest) if isinstance(m, RosterRequest)] == [0]
    assert said_to(observer, client, Wait)
    assert not said_to(observer, client, Refused)
    network.deliver(late, client, statement)
    network.run(seconds=1)
    assert said_to(observer, client, Stored)
    assert Table.ROSTERS in late.durable
    assert late.durable[Table.ROSTERS]


def test_an_upload_under_a_roster_that_does_not_exist_costs_a_request_and_no_memory() -> None:
    simulation, observer = small(last_epoch=1)
    roster = simulation.federation.rosters[0]
    for number in range(2, 40):
        upload = make_upload(simulation, 2, 2, Roster(NUMBER_MAX - number, 1, roster.members))
        offer(simulation, 1, 2, upload)
    uploads = simulation.replica(1).uploads
    assert len(uploads._awaiting) == 1
    assert not [r for r in uploads.records.values() if r.key == (simulation.client_key(2), 2)]
    assert len(said_to(observer, simulation.client_key(2), RosterRequest)) == 38


def test_a_replica_that_withholds_rosters_stops_nobody() -> None:
    simulation, _ = small(last_epoch=8)
    network, liar = simulation.network, simulation.replica_ids[3]

    def withhold(source: object, target: object, message: Message) -> Message | None:
        if source is not network.nodes[liar.public]:
            return message
        if isinstance(message, RosterStatement):
            return None
        if isinstance(message, Front):
            unsigned = message.model_copy(update={"roster": 0})
            signature = liar.sign(Front.KIND, simulation.federation.digest, unsigned.body())
            return unsigned.model_copy(update={"signature": signature})
        return message

    network.on_message = withhold
    simulation.tell(3, simulation.sign_next_roster(5, range(1, 8)))
    network.run(seconds=1)
    assert simulation.replica(0).context.rosters.highest == 0
    simulation.tell(1, simulation.rosters[1].statement)
    run_to_the_end(simulation)
    assert simulation.client(0).state is State.RETIRED, describe(simulation)
    assert len(versions(simulation)) == 1


# what a client believes


class RosterBench(Bench):
    """One client, and replicas that report roster numbers."""

    def report(self, replica: int, number: int, epoch: int = 1) -> None:
        message = Front(front=epoch, patience=1000, roster=number, finished=False, signature=bytes(64))
        signature = self.sign(replica, Front.KIND, message.body())
        self.hear(replica, message.model_copy(update={"signature": signature}))

    def statement(self, start: int, *, without: int = 0) -> RosterStatement:
        return self.simulation.sign_next_roster(start, range(without, 16))

    def requests(self) -> list[bytes]:
        return [e.peer for e in self.effects if isinstance(e, Send) and isinstance(e.message, RosterRequest)]


def test_t_replicas_can_neither_invent_a_roster_number_nor_keep_one_back() -> None:
    bench = RosterBench()
    bench.report(3, NUMBER_MAX)
    for replica in range(2):
        bench.report(replica, 0)
    assert bench.client.context.fronts.roster == 0
    assert bench.client.membership.may_ask
    assert bench.requests() == [bench.federation.replica_keys[3]]
    bench = RosterBench()
    bench.report(3, 0)
    for replica in range(3):
        bench.report(replica, 1)
    assert bench.client.context.fronts.roster == 1


def test_a_client_waits_for_the_statement_that_n_minus_t_report_and_pulls_it_from_any_of_them() -> None:
    bench = RosterBench()
    for replica in range(3):
        bench.report(replica, 1)
    assert not bench.client.membership.may_ask
    assert "statement of roster 1" in bench.client.status(bench.now)["waiting_for"]
    assert len(bench.requests()) == 3
    bench.wait(1)
    assert not bench.last(Ready).wants_task
    statement = bench.statement(1 + 4)
    bench.hear(3, statement)
    bench.wait(0.2)
    assert bench.last(Ready).wants_task
    assert bench.last(Ready).roster == 0
    persisted = [
        w for e in bench.effects if isinstance(e, Persist) for w in e.writes if w.table is Table.ROSTERS
    ]
    assert [w.key for w in persisted] == [(1).to_bytes(4, "big")]
    assert bench.make().context.rosters.highest == 1


def test_a_client_goes_by_the_roster_that_n_minus_t_report_and_asks_its_new_coordinator() -> None:
    bench = RosterBench()
    bench.hear(0, bench.statement(2))
    bench.client.context.epoch = 2
    for replica in range(4):
        bench.report(replica, 0)
    bench.wait(0.2)
    assert bench.last(Ready).roster == 0
    for replica in range(3):
        bench.report(replica, 1)
    bench.wait(0.2)
    assert bench.last(Ready).roster == 1
    context = bench.client.context
    cell = context.assignment.cell_of(bench.identity.public, bench.simulation.rosters[1], 2)
    assert bench.last(Ready).coordinator == context.assignment.coordinator(2, cell)


def test_a_forged_retirement_retires_nobody() -> None:
    bench = RosterBench()
    members = bench.simulation.federation.rosters[0].members[1:]
    forger = bench.simulation.replica_ids[3]
    bench.hear(3, sign_roster(forger, bench.federation.digest, 1, 2, members).statement)
    for replica in range(4):
        bench.report(replica, 1, epoch=3)
    assert bench.client.state is State.ASKING
    assert bench.client.context.rosters.highest == 0


def test_a_retired_client_sends_nothing_more_but_what_it_made_as_a_member() -> None:
    bench = RosterBench()
    bench.give_task()
    upload = bench.last(Upload)
    bench.hear(0, bench.statement(2, without=1))
    for replica in range(4):
        bench.report(replica, 1, epoch=1)
    assert bench.client.state is State.UPLOADING
    bench.client = bench.make()
    bench.wait(3)
    assert bench.last(Upload) == upload
    for replica in range(4):
        bench.report(replica, 1, epoch=1)
    bench.hear(bench.client.context.coordinator, Stored(epoch=1, manifest=upload.manifest.digest()))
    assert bench.client.state is State.RETIRED
    assert bench.client.status(bench.now)["done"]
    bench.effects.clear()
    bench.wait(30)
    assert not [e for e in bench.effects if isinstance(e, Send)]


@pytest.mark.parametrize("reports", [0, 1])
def test_whom_a_later_roster_lists_waits_for_it_and_says_so(reports: int) -> None:
    """Retired by roster 1, listed again by roster 2: it starts at roster 2's epoch."""
    bench = RosterBench()
    bench.hear(0, bench.statement(2, without=1))
    bench.hear(0, bench.statement(3))
    bench.client.context.epoch = 3
    for replica in range(3):
        bench.report(replica, 1 + reports, epoch=3)
    if reports:
        assert bench.client.membership.may_ask
    else:
        assert not bench.client.membership.may_ask
        assert "report roster 2" in bench.client.status(bench.now)["waiting_for"]
    assert bench.client.state is State.ASKING


@pytest.mark.parametrize("statement_first", [True, False])
@pytest.mark.parametrize(("last_epoch", "state"), [(None, State.ASKING), (2, State.RESTING)])
def test_who_returns_from_retirement_goes_on_but_not_beyond_its_last_epoch(
    statement_first: bool, last_epoch: int | None, state: State
) -> None:
    bench = RosterBench(last_epoch=last_epoch)
    bench.hear(0, bench.simulation.sign_next_roster(2, range(1, 16)))
    for replica in range(4):
        bench.report(replica, 1, epoch=3)
    assert bench.client.epoch == 3
    assert bench.client.state is State.RETIRED
    back = bench.simulation.sign_next_roster(3, range(16))
    if statement_first:
        bench.hear(0, back)
    for replica in range(3):
        bench.report(replica, 2, epoch=3)
    bench.hear(0, back)
    assert bench.client.state is state
    bench.wait(0.2)
    assert bench.last(Ready).wants_task is (state is State.ASKING)
