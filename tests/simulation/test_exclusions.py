"""The operator takes entries out of the model while training runs: every replica comes to the same clean model."""

from collections.abc import Container

from asyncfl.client.context import State
from asyncfl.effects import Effect, Table
from asyncfl.messages import ExclusionStatement, Message, Task, View
from asyncfl.replica import Replica, status
from asyncfl.simulation import Simulation
from asyncfl.simulation.rollbacks import recompute_clean
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer
from tests.simulation.test_liveness import describe

LAST = 8


class Incident:
    """Eight clients in two cells; statements come once the front has moved."""

    def __init__(self, seed: int = 0, ignoring: int | None = None) -> None:
        parameters = make_parameters(8, cell_size=4, min_group=3)
        self.simulation = Simulation(parameters, 8, seed=seed, last_epoch=LAST)
        self.network = self.simulation.network
        liars = () if ignoring is None else (self.simulation.replica_key(ignoring),)
        self.simulation.make_replica = lambda federation, identity, *rest: (
            Ignoring if identity.public in liars else Replica
        )(federation, identity, *rest)
        self.observer = Observer(self.simulation, honest=set(range(4)) - {ignoring})
        self.simulation.start()

    def until_front(self, front: int) -> None:
        def reached() -> bool:
            return all(r.context.inclusion.front >= front for r in self.simulation.running_replicas())

        assert self.network.run(until=reached, seconds=200), describe(self.simulation)

    def entry(self, epoch: int) -> bytes:
        ledger = self.simulation.replica(0).context.ledger
        return next(name for name, item in ledger.items.items() if item.id.epoch == epoch)

    def finish(self, *, without: Container[int] = ()) -> None:
        def done() -> bool:
            numbers = [i for i in range(self.simulation.clients) if i not in without]
            return all(self.simulation.client(i).state is State.RESTING for i in numbers)

        assert self.network.run(until=done, seconds=600), describe(self.simulation)
        assert self.network.run(until=self.is_settled, seconds=60), describe(self.simulation)
        self.observer.check_end()

    def is_settled(self) -> bool:
        replicas = self.simulation.running_replicas()
        return len({r.context.version for r in replicas}) == 1 and all(
            r.models.latest is not None and r.models.latest.version == r.context.version for r in replicas
        )

    def check(self, number: int) -> None:
        """Every replica gives out the model of the ledger without the excluded entries, computed from nothing."""
        for replica in self.simulation.running_replicas():
            assert replica.context.exclusions.highest == number
            latest = replica.models.latest
            assert latest is not None
            assert latest.certificate is not None
            assert latest.certificate.statement == number
            assert latest.entries == replica.context.ledger.entries, "excluded entries are counted as seen"
            assert latest.model == recompute_clean(self.simulation, replica)
            told, ledger = status.describe(replica), replica.context.ledger
            counting = [
                len(item.members)
                for name, item in ledger.items.items()
                if not replica.context.exclusions.in_force.excludes(name, item)
            ]
            assert told["counted"] == {"entries": len(counting), "uploads": sum(counting)}
            assert told["certified"]["counted"] == len(counting)


def test_an_entry_is_taken_out_while_training_goes_on_and_put_back() -> None:
    incident = Incident()
    incident.until_front(3)
    bad = incident.entry(1)
    incident.simulation.tell(2, incident.simulation.sign_exclusion(1, entries=[bad], reason="poison"))
    incident.until_front(5)
    assert incident.network.run(until=incident.is_settled, seconds=60), describe(incident.simulation)
    incident.check(1)
    incident.simulation.tell(0, incident.simulation.sign_exclusion(2))
    incident.finish()
    incident.check(2)
    replica = incident.simulation.replica(0)
    assert replica.context.ledger.counted_head is replica.context.ledger.head, "all counts again"
    seen = {incident.simulation.client(i).context.seen_statement for i in range(8)}
    assert seen == {2}


def test_a_statement_may_come_before_the_entries_that_it_takes_out() -> None:
    incident = Incident(seed=1)
    incident.simulation.tell(1, incident.simulation.sign_exclusion(1, entries=[b"?" * 32], spans=[(3, 4)]))
    incident.finish()
    incident.check(1)
    ledger = incident.simulation.replica(0).context.ledger
    counting = {link.epoch for link in ledger.counted_head.back()}
    assert {3, 4} < set(ledger.row_members)
    assert counting == set(ledger.row_members) - {3, 4}


def test_an_excluded_client_takes_no_part_and_nobody_waits_for_it() -> None:
    incident = Incident(seed=2)
    incident.until_front(3)
    bad = incident.simulation.client_key(5)
    tasks = list[float]()
    incident.network.on_message = lambda source, target, message: (
        tasks.append(incident.network.now) if isinstance(message, Task) and target.key == bad else None,
        message,
    )[1]
    incident.simulation.tell(0, incident.simulation.sign_exclusion(1, clients=[5]))
    told = incident.network.now
    incident.finish(without={5})
    incident.check(1)
    assert not [at for at in tasks if at > told + 1], "the statement has reached everybody by then"
    ledger = incident.simulation.replica(0).context.ledger
    counting = [item for link in ledger.counted_head.back() for item in link.items]
    assert all(bad not in {member.client for member in item.members} for item in counting)
    assert max(epoch for client, epoch in ledger.included if client == bad) <= 5
    assert ledger.last_epoch >= LAST - 1
    assert "excluded this client" in incident.simulation.client(5).context.waiting_for
    incident.simulation.tell(3, incident.simulation.sign_exclusion(2))
    incident.finish()
    incident.check(2)


def test_two_statements_with_one_number_end_in_the_same_model_everywhere() -> None:
    incident = Incident(seed=3)
    incident.until_front(3)
    both = [incident.simulation.sign_exclusion(1, spans=[(epoch, epoch)]) for epoch in (1, 2)]
    for replica in range(4):
        incident.simulation.tell(replica, both[replica % 2])
    incident.finish()
    incident.check(1)
    smaller = min(both, key=ExclusionStatement.body)
    for replica in incident.simulation.running_replicas():
        assert replica.context.exclusions.held == [smaller]
    told = [
        replica for replica in incident.simulation.running_replicas() if replica.context.exclusions.doubles
    ]
    assert told, "nobody knows that the operator signed two"


def test_a_replica_that_was_away_takes_the_statement_and_keeps_it() -> None:
    incident = Incident(seed=4)
    incident.until_front(2)
    key = incident.simulation.replica_key(3)
    incident.network.crash(key)
    incident.simulation.tell(0, incident.simulation.sign_exclusion(1, spans=[(1, 1)]))
    incident.until_front(4)
    incident.network.start(key)
    incident.finish()
    incident.check(1)
    assert len(incident.network.nodes[key].durable[Table.EXCLUSIONS]) == 1


class Ignoring(Replica):
    """Goes on as if the operator had said nothing: gives out the model with everything in it."""

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        if isinstance(message, ExclusionStatement):
            return []
        if isinstance(message, View):
            message = message.model_copy(update={"statement": 0, "exclusion": bytes(32)})
        return super().receive(peer, message, now)


def test_one_replica_that_ignores_the_statement_gives_its_model_to_nobody() -> None:
    incident = Incident(seed=5, ignoring=1)
    incident.until_front(2)
    incident.simulation.tell(0, incident.simulation.sign_exclusion(1, spans=[(1, 1)]))

    def done() -> bool:
        return all(incident.simulation.client(i).state is State.RESTING for i in range(8))

    assert incident.network.run(until=done, seconds=600), describe(incident.simulation)
    assert all(incident.simulation.client(i).context.seen_statement == 1 for i in range(8))
    clients = [incident.network.nodes[incident.simulation.client_key(i)] for i in range(8)]
    events = [notice.event for node in clients for _, notice in node.events]
    assert "model_without_exclusion" in events, "nobody was offered what it must refuse"
    liar = incident.simulation.replica(1).models.latest
    assert liar is not None
    assert liar.exclusion.number == 0
