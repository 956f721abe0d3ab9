"""What one replica can have the others sign: a model for each entry that its ledger gains, and no more."""

from itertools import combinations

import pytest

from asyncfl.effects import Table
from asyncfl.ledger import Ledger, compute_chain
from asyncfl.messages import ModelVote, Row, View
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer
from tests.simulation.test_liveness import run_to_the_end


class Asking:
    """Replica 3 pins versions of its choice at replica 0, and has pinned none before."""

    def __init__(self) -> None:
        self.simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, last_epoch=3)
        self.observer = Observer(self.simulation)
        self.network = self.simulation.network
        self.asker, self.asked = self.simulation.replica_key(3), self.simulation.replica_key(0)
        self.network.on_message = lambda source, _, message: (
            None if isinstance(message, View) and source.key == self.asker else message
        )
        self.simulation.start()
        run_to_the_end(self.simulation)
        self.names = [name for row in self.ledger.rows() for name in row.items]
        self.before = self.signed

    @property
    def ledger(self) -> Ledger:
        return self.simulation.replica(0).context.ledger

    @property
    def signed(self) -> int:
        """Versions of which replica 0 has signed a model."""
        return len(self.network.nodes[self.asked].durable[Table.MODELS])

    def votes(self, *without: bytes) -> int:
        """Pin the whole ledger but some entries; how often replica 0 answers with its vote."""
        kept = [(row.epoch, tuple(n for n in row.items if n not in without)) for row in self.ledger.rows()]
        rows = tuple(Row(epoch=epoch, items=items) for epoch, items in kept if items)
        exclusion = self.simulation.replica(0).context.exclusions.in_force
        view = View(
            base=self.ledger.origin, base_epoch=0, entries=len(self.names), rows=rows, pinned=True,
            statement=exclusion.number, exclusion=exclusion.name,
        )  # fmt: skip
        said = len(self.observer.messages)
        self.network.deliver(self.network.nodes[self.asked], self.asker, view)
        self.network.run(seconds=0.5)
        version = exclusion.version(compute_chain(self.ledger.origin, rows))
        answers = [
            m.version for source, target, m in self.observer.messages[said:]
            if isinstance(m, ModelVote) and (source, target) == (self.asked, self.asker)
        ]  # fmt: skip
        return answers.count(version)


@pytest.fixture
def asking() -> Asking:
    return Asking()


def test_a_ledger_that_gains_one_entry_and_loses_another_is_not_signed(asking: Asking) -> None:
    assert asking.votes(*asking.names[:2]) == 1
    for pair in list(combinations(asking.names, 2))[1:]:
        assert asking.votes(*pair) == 0
    assert asking.signed == asking.before + 1


def test_a_ledger_that_grows_is_signed_each_time_and_again_when_the_vote_was_lost(asking: Asking) -> None:
    for number in range(len(asking.names), 0, -1):
        assert asking.votes(*asking.names[:number]) == 1
        assert asking.votes(*asking.names[:number]) == 1
    assert asking.signed <= asking.before + len(asking.names)


def test_the_same_ledger_is_signed_under_a_later_exclusion(asking: Asking) -> None:
    first = asking.names[0]
    assert asking.votes(first) == 1
    asking.simulation.tell(0, asking.simulation.sign_exclusion(1, entries=[asking.names[-1]]))
    assert asking.votes(first) == 1
    assert asking.votes(asking.names[1]) == 0
    assert asking.votes() == 1
