"""Which models a replica keeps on disk: recent versions', those in use, and none that nothing names."""

import pytest

from asyncfl.digest import content_digest
from asyncfl.effects import DeleteBlob, Job
from asyncfl.replica import models
from asyncfl.replica.models import FOLD, KEEP_IN_USE, KEEP_VERSIONS
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
        computed = {record.model for record in replica.models.records.values()}
        named = replica.referenced_blobs() | computed | {content_digest(simulation.initial)}
        assert set(network.nodes[simulation.replica_key(number)].blobs.data) <= named


def test_a_model_that_is_computed_once_more_while_it_goes_is_on_disk_in_the_end() -> None:
    simulation = make_simulation(8, 2)
    simulation.start()
    run_to_the_end(simulation)
    network, replica = simulation.network, simulation.replica(0)
    node, kept = network.nodes[simulation.replica_key(0)], replica.models
    old = kept.latest
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
    assert kept.pinned is not None
    assert not kept.pinned.model
    kept._drop(old, old.model)
    effects = replica.context.take_effects()
    assert DeleteBlob(old.model) in effects
    network._execute(node, effects)
    assert not node.blobs.has(old.model)
    network.run(seconds=5)
    assert kept.latest is not None
    assert kept.latest.exclusion.number == 1
    assert kept.latest.model == old.model
    assert node.blobs.has(old.model)


def slow_to(simulation: Simulation, client: bytes, seconds: float) -> None:
    """Models reach this client in ten chunks over so many seconds; each is read from disk as it is sent."""
    network = simulation.network
    send = network._send_blob

    def send_slowly(node: Node, peer: bytes, digest: bytes) -> None:
        def chunk(left: int) -> None:
            if left == 0 or not node.blobs.has(digest):
                send(node, peer, digest)
            else:
                network.after(seconds / 10, lambda: chunk(left - 1))

        chunk(10 if peer == client else 0)

    network._send_blob = send_slowly  # type: ignore[method-assign]


def test_a_client_whose_model_takes_longer_than_many_versions_keeps_its_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "KEEP_VERSIONS", 2)
    simulation = make_simulation(16, 6)
    slow = simulation.client_key(0)
    slow_to(simulation, slow, 4.0)
    simulation.start()
    run_to_the_end(simulation)
    assert "task_lost" not in {event.event for _, event in simulation.network.nodes[slow].events}
    assert simulation.replica(0).context.ledger.counts[slow] >= 3
    for replica in simulation.running_replicas():
        assert not replica.tasks.models_in_use()


def test_so_many_older_models_are_kept_and_no_more() -> None:
    simulation = make_simulation(16, 10)
    simulation.start()
    replica = simulation.replica(0)
    replica.models.in_use = lambda: [*replica.models._signed.values()]
    run_to_the_end(simulation)
    assert len(replica.models._signed) > KEEP_VERSIONS + KEEP_IN_USE
    assert len(replica.models.records) == KEEP_VERSIONS + KEEP_IN_USE
    blobs = simulation.network.nodes[simulation.replica_key(0)].blobs
    assert all(blobs.has(record.model) for record in replica.models.records.values())
