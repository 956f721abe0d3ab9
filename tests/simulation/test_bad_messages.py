"""Valid frames with wrong content, from authenticated peers: nobody crashes, nobody else is disturbed.

One replica and one client mangle copies of real messages (wrong epoch, cell, digest, signature, sizes, replays out of
order), sign them properly with their own keys where they can, and send them to everybody while training goes on.
"""

from typing import Any

import numpy as np
import pytest

from asyncfl.errors import MalformedMessage
from asyncfl.identity import Identity
from asyncfl.messages import Manifest, Message, Upload
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer
from tests.simulation.test_liveness import describe, run_to_the_end, versions

LIAR, LYING_CLIENT = 0, 3


def leaves(value: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    if isinstance(value, tuple):
        return [leaf for i, item in enumerate(value) for leaf in leaves(item, (*path, i))] + [path]
    return [path]


def replaced(value: Any, path: tuple[int, ...], change: Any) -> Any:
    if not path:
        return change(value)
    return tuple(replaced(item, path[1:], change) if i == path[0] else item for i, item in enumerate(value))


def mangle(value: Any, rng: np.random.Generator) -> Any:
    """A different value of the same type, often close to the first."""
    match value:
        case bool():
            return not value
        case int():
            return int(rng.choice([0, 1, value + 1, max(0, value - 1), value + 1000, 2**31 - 1]))
        case bytes():
            flipped = bytearray(value or b"\0")
            flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
            return [bytes(flipped), value[:-1], value + b"\0", bytes(len(value)), rng.bytes(len(value))][
                int(rng.integers(5))
            ]
        case str():
            return value * 3
        case tuple():
            shuffled = tuple(value[place] for place in rng.permutation(len(value)))
            return [value[:-1], value + value[-1:], shuffled, ()][int(rng.integers(4))]
    return value


def resigned(message: Message, identity: Identity, deployment: bytes) -> Message:
    """The same message with a signature of the liar's own, so that only the content is wrong."""
    if isinstance(message, Upload):
        core = message.manifest.core.model_copy(update={"client": identity.public})
        manifest = Manifest(core=core, projections=message.manifest.projections, signature=bytes(64))
        signature = identity.sign(Manifest.KIND, deployment, manifest.body())
        return Upload(manifest=manifest.model_copy(update={"signature": signature}))
    if hasattr(message, "signature") and hasattr(message, "body"):
        signature = identity.sign(type(message).KIND, deployment, message.body())
        return message.model_copy(update={"signature": signature})
    return message


class Mangler:
    """Injects mangled copies of what was said so far."""

    def __init__(self, simulation: Simulation, observer: Observer) -> None:
        self.simulation, self.observer = simulation, observer
        self.rng = np.random.default_rng(simulation.seed)
        self.injected = 0

    def inject(self) -> None:
        simulation, rng = self.simulation, self.rng
        said = [message for _, _, message in self.observer.messages[-400:]]
        message = said[int(rng.integers(len(said)))]
        if rng.random() < 0.8:
            fields = message.to_fields()
            path = leaves(fields)[int(rng.integers(len(leaves(fields))))]
            try:
                changed = replaced(fields, path, lambda v: mangle(v, rng))
                message = type(message).from_fields(changed)
            except MalformedMessage:
                return
        byzantine = rng.random() < 0.7
        identity = simulation.replica_ids[LIAR] if byzantine else simulation.client_ids[LYING_CLIENT]
        if rng.random() < 0.7:
            message = resigned(message, identity, simulation.federation.digest)
        keys = [key for key in simulation.network.nodes if key != identity.public]
        if not byzantine:
            keys = [key for key in keys if key in simulation.federation.replica_keys]
        target = simulation.network.nodes[keys[int(rng.integers(len(keys)))]]
        simulation.network._on(target, "receive", identity.public, message)
        self.injected += 1


@pytest.mark.parametrize("seed", range(3))
def test_mangled_messages_crash_nobody_and_stop_nobody(seed: int) -> None:
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, seed=seed, last_epoch=5)
    observer = Observer(simulation, honest={1, 2, 3}, lying=(LYING_CLIENT,))
    lying = simulation.client_ids[LYING_CLIENT].public
    mangler = Mangler(simulation, observer)
    simulation.start()
    for _ in range(250):
        simulation.network.run(seconds=0.02)
        if len(observer.messages) > 20:
            for _ in range(4):
                mangler.inject()
    assert mangler.injected > 400
    simulation.network.crash(lying)  # Its manifests convict it: nobody serves it any more.
    run_to_the_end(simulation, 600)
    simulation.network.run(until=lambda: len(versions(simulation)) == 1, seconds=60)
    assert len(versions(simulation)) == 1, describe(simulation)
    counts = simulation.replica(1).context.ledger.counts
    honest = [counts.get(key, 0) for key in map(simulation.client_key, range(8)) if key != lying]
    assert min(honest) >= 5 - 3
    observer.check_end()
