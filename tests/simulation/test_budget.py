"""A client stops hard at its privacy budget, says so with its signature, and holds nobody up."""

from asyncfl.client.context import State
from asyncfl.effects import Send
from asyncfl.messages import Leave, Ready, Stored, Upload
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.bench import Bench
from tests.simulation.observer import Observer, sent
from tests.simulation.test_liveness import describe, versions

LIMIT = 3


class Limited(Bench):
    """A bench whose client may write so many uploads in all."""

    def upload(self) -> None:
        """One more upload, stored."""
        for replica in range(3):
            self.front(replica, self.client.epoch)
        self.wait(0.3)
        self.task(self.client.context.coordinator, self.client.epoch, self.certificate())
        fetch = self.fetches()[-1]
        self.take(self.client.fetched(fetch.peer, fetch.digest, self.now))
        manifest = self.last(Upload).manifest.digest()
        self.hear(self.client.context.coordinator, Stored(epoch=self.client.epoch, manifest=manifest))


def test_a_client_leaves_at_its_budget_also_after_restarts_and_whatever_replicas_ask() -> None:
    bench = Limited(upload_limit=LIMIT)
    for _ in range(LIMIT):
        assert bench.client.state is State.ASKING
        bench.upload()
        bench.effects.clear()
        bench.client = bench.make()
    assert bench.client.state is State.LEFT
    fetches = len(bench.fetches())
    for replica in range(4):
        bench.front(replica, 50)
        bench.task(replica, bench.client.epoch, bench.certificate())
    bench.wait(30)
    assert len(bench.fetches()) == fetches == 0
    assert bench.client.context.events == LIMIT
    assert not [e for e in bench.effects if isinstance(e, Send) and isinstance(e.message, Ready)]
    assert bench.last(Leave).uploads == LIMIT


def test_an_upload_on_disk_still_goes_out_at_the_limit() -> None:
    bench = Limited(upload_limit=1)
    bench.give_task()
    first = bench.last(Upload)
    bench.client = bench.make()
    assert bench.client.state is State.UPLOADING
    bench.wait(3)
    assert bench.last(Upload) == first
    bench.hear(bench.client.context.coordinator, Stored(epoch=1, manifest=first.manifest.digest()))
    assert bench.client.state is State.LEFT


def limited_simulation() -> Simulation:
    """16 clients, of which five may upload twice only."""
    simulation = Simulation(make_parameters(), 16, last_epoch=12)
    simulation.start()
    for number in range(5):
        simulation.client(number).upload_limit = 2
    return simulation


def test_those_who_left_hold_nobody_up_and_are_remembered() -> None:
    simulation = limited_simulation()
    observer = Observer(simulation)

    def done() -> bool:
        return all(simulation.client(i).status(simulation.network.now)["done"] for i in range(16))

    assert simulation.network.run(until=done, seconds=200), describe(simulation)
    simulation.network.run(until=lambda: len(versions(simulation)) == 1, seconds=30)
    counts = simulation.replica(0).context.ledger.counts
    assert [counts[simulation.client_key(i)] for i in range(5)] == [2] * 5
    # Cells without enough members left ride on later groups, and the last epochs have no later ones.
    assert min(counts[simulation.client_key(i)] for i in range(5, 16)) >= 8
    assert len(sent(observer, Leave)) >= 5
    key = simulation.replica_key(1)
    simulation.network.crash(key)
    simulation.network.start(key)
    inclusion = simulation.replica(1).context.inclusion
    assert all(inclusion.has_left(simulation.client_key(i)) for i in range(5))
    assert not any(inclusion.has_left(simulation.client_key(i)) for i in range(5, 16))


def test_a_leave_that_the_client_did_not_sign_is_ignored() -> None:
    simulation = Simulation(make_parameters(), 16, last_epoch=2)
    simulation.start()
    simulation.network.run(seconds=1)
    victim = simulation.client_key(3)
    liar = simulation.client_ids[4]
    unsigned = Leave(epoch=1, uploads=9, signature=bytes(64))
    forged = liar.sign(Leave.KIND, simulation.federation.digest, unsigned.body())
    node = simulation.network.nodes[simulation.replica_key(0)]
    simulation.network._on(node, "receive", victim, unsigned.model_copy(update={"signature": forged}))
    assert not simulation.replica(0).context.inclusion.has_left(victim)
