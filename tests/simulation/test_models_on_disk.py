"""Which models a replica keeps on disk: recent versions', and none that nothing names."""

from asyncfl.digest import content_digest
from asyncfl.effects import DeleteBlob, Job
from asyncfl.replica.models import FOLD, KEEP_VERSIONS
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters
from tests.simulation.test_liveness import run_to_the_end


def make_simulation(clients: int, last_epoch: int) -> Simulation:
    parameters = make_parameters(clients, cell_size=4, min_group=3)
    return Simulation(parameters, clients, last_epoch=last_epoch, speed=lambda client, _: 0.4 + 0.05 * client)


def test_models_that_go_while_others_are_computed_go_from_the_disk() -> None:
    simulation = make_simulation(16, 6)
    network = simulation.network
    for node in network.nodes.values():
        node.compute_seconds = lambda key: 0.2 if key[0] == FOLD else 0.01
    network.latency = (0.02, 0.4)
    simulation.start()
    run_to_the_end(simulation)
    for number, replica in enumerate(simulation.running_replicas()):
        assert len(replica.models._signed) > KEEP_VERSIONS + 4
        models = {record.model for record in replica.models.records.values()}
        named = replica.referenced_blobs() | models | {content_digest(simulation.initial)}
        assert set(network.nodes[simulation.replica_key(number)].blobs.data) <= named


def test_a_model_that_is_computed_once_more_while_it_goes_is_on_disk_in_the_end() -> None:
    simulation = make_simulation(8, 2)
    simulation.start()
    run_to_the_end(simulation)
    network, replica = simulation.network, simulation.replica(0)
    node, models = network.nodes[simulation.replica_key(0)], replica.models
    old = models.latest
    assert old is not None

    def compute(node: Node, key: tuple[object, ...], job: Job) -> None:
        """The job's blobs are written at once, its result is told later."""
        result = job.run(node.blobs)
        network.after(1.0, lambda: network._on(node, "computed", key, result))

    network._compute = compute  # type: ignore[method-assign]
    nothing = simulation.sign_exclusion(1)  # so that the next version has the same model
    for number in range(4):
        simulation.tell(number, nothing)
    network.run(seconds=0.5)
    assert models.pinned is not None
    assert not models.pinned.model
    models._drop(old, old.model)
    effects = replica.context.take_effects()
    assert DeleteBlob(old.model) in effects
    network._execute(node, effects)
    assert not node.blobs.has(old.model)
    network.run(seconds=5)
    assert models.latest is not None
    assert models.latest.exclusion.number == 1
    assert models.latest.model == old.model
    assert node.blobs.has(old.model)
