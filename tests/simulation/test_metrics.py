"""Accuracy on the clients' own test data, through real masks, at every replica alike."""

from asyncfl.client.upload import Measured
from asyncfl.fold import apply_total
from asyncfl.messages import Settings
from asyncfl.model import TrainingResult
from asyncfl.parameters import Parameters
from asyncfl.replay import find_best_model, replay
from asyncfl.simulation import Simulation, StillTrainer
from asyncfl.statistics import find_best

CLIENTS, DIMENSION, EPOCHS, COUNT = 16, 6, 4, 40


class Measuring:
    """Gets right as many of its own examples as the model received has moved in its first coordinate."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.inner = StillTrainer(0, DIMENSION)

    def measure(self, model: bytes) -> Measured:
        return Measured(COUNT / 2 if any(model) else 0, COUNT) if self.number else Measured()

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        return self.inner.train(model, settings, epoch)


def test_rows_tell_what_their_members_measured_on_the_models_they_received() -> None:
    parameters = Parameters.for_clients(
        CLIENTS, preset="tiny", metrics=True, weighting="examples", examples_cap=1
    )
    simulation = Simulation(
        parameters, CLIENTS, initial=bytes(4 * DIMENSION), trainer=Measuring, last_epoch=EPOCHS
    )
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=600)
    key = simulation.replica_key(3)
    simulation.network.crash(key)
    simulation.network.start(key)
    assert simulation.network.run(
        until=lambda: simulation.is_drained() and bool(simulation.replica(3).models.latest), seconds=60
    )
    told = [replica.status(simulation.network.now)["accuracy"] for replica in simulation.running_replicas()]
    assert all(each == told[0] for each in told)
    assert set(told[0]) == {str(epoch) for epoch in simulation.replica(0).context.ledger.row_members}
    measuring = {identity.public for identity in simulation.client_ids[1:]}
    _check_replay(simulation)
    for epoch, row in told[0].items():
        members = [
            member.client
            for item in simulation.replica(0).context.ledger.items.values()
            if item.id.epoch == int(epoch)
            for member in item.members
        ]
        expected = COUNT * len(measuring.intersection(members))
        slack = 6 * row["noise"] + len(members) * 0.02
        assert abs(row["count"] - expected) < slack
        assert abs(row["correct"] - (expected / 2 if int(epoch) > 1 else 0)) < slack


def test_a_deployment_without_metrics_tells_nothing_of_accuracy() -> None:
    simulation = Simulation(
        Parameters.for_clients(4, preset="tiny"),
        4,
        trainer=lambda number: StillTrainer(number, 100),
        last_epoch=1,
    )
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=600)
    assert simulation.replica(0).status(simulation.network.now)["accuracy"] == {}


def _check_replay(simulation: Simulation) -> None:
    """Row by row from the disk the certified model comes out, and the best one among those before it."""
    replica, federation = simulation.replica(0), simulation.federation
    blobs = simulation.network.nodes[simulation.replica_key(0)].blobs
    states = [state for _, state in replay(replica.context.ledger.head, federation, blobs)]
    models = [simulation.initial, *(apply_total(simulation.initial, state.total) for state in states)]
    assert replica.models.latest is not None
    assert blobs.read(replica.models.latest.model) == models[-1]
    assert states[-1].statistics == replica.models.latest.statistics
    for width in (1, 2):
        best = find_best(states[-1].statistics, width)
        assert best is not None
        found = find_best_model(replica.context.ledger, federation, simulation.initial, blobs, width)
        epoch = states[-1].statistics[best.rows - 1].epoch if best.rows else 0
        assert found == (best, epoch, models[best.rows])
