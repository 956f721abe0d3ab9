"""A whole deployment in memory: identities from a seed, replicas and clients on one virtual network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from asyncfl.client import Client
from asyncfl.client.jobs import Trainer
from asyncfl.digest import content_digest, digest
from asyncfl.exclusions import Exclusion
from asyncfl.federation import Federation, Roster
from asyncfl.identity import Identity
from asyncfl.messages import Epochs, ExclusionStatement, RosterStatement, Settings
from asyncfl.model import TrainingResult
from asyncfl.parameters import Parameters
from asyncfl.replica import Replica
from asyncfl.schedule import Schedule
from asyncfl.simulation.network import Durable, Network, Node
from asyncfl.simulation.randomness import Seeded
from asyncfl.stopping import Stop

JOB_SECONDS = 0.01


@dataclass(frozen=True)
class StillTrainer:
    """Trains nothing: an update of constant direction, a function of client and epoch."""

    number: int
    dimension: int

    def train(self, model: bytes, settings: Settings, epoch: int) -> TrainingResult:
        update = torch.zeros(self.dimension)
        update[(self.number + epoch) % self.dimension] = 0.1
        return TrainingResult(update, 1, 0.0, 0.0)


def make_identity(seed: int, name: str) -> Identity:
    """A reproducible identity, for simulations only."""
    return Identity(digest("asyncfl/1/simulated-identity", seed.to_bytes(8, "little"), name.encode()))


def sign_roster(
    operator: Identity, deployment: bytes, number: int, start_epoch: int, members: tuple[bytes, ...]
) -> Roster:
    """A roster with the operator's signature; `members` ascend."""
    body = Roster(number, start_epoch, members).digest
    return Roster(number, start_epoch, members, operator.sign(RosterStatement.KIND, deployment, body))


def running_replica(node: Node) -> Replica | None:
    """The machine of an honest replica's node; None while it is down."""
    if node.machine is None:
        return None
    assert isinstance(node.machine, Replica), f"{node.name} is no honest replica"
    return node.machine


@dataclass
class Simulation:
    """`replicas` and `clients` on one network; `speed(client, epoch)` is the seconds of a local training.

    `clients` are in the first roster; others may join while it runs (`enrol`, `sign_next_roster`, `tell`).
    """

    parameters: Parameters
    clients: int
    seed: int = 0
    initial: bytes = bytes(4 * 100)
    schedule: Schedule = field(
        default_factory=lambda: Schedule(learning_rate=0.1, local_steps=1, batch_size=1)
    )
    trainer: Callable[[int], Trainer] | None = None
    speed: Callable[[int, int], float] = lambda client, epoch: 0.5
    last_epoch: int | None = None
    make_replica: Callable[..., Any] = Replica
    weights: int | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        self.replica_ids = [make_identity(self.seed, f"replica-{j}") for j in range(self.parameters.replicas)]
        self.operator_id = make_identity(self.seed, "operator")
        self.client_ids = [make_identity(self.seed, f"client-{i}") for i in range(self.clients)]
        name = digest("asyncfl/1/simulation", self.seed.to_bytes(8, "little"))
        members = tuple(sorted(identity.public for identity in self.client_ids))
        dimension = len(self.initial) // 4
        weights = dimension if self.weights is None else self.weights
        self.federation = Federation(
            digest=name,
            parameters=self.parameters,
            operator=self.operator_id.public,
            replica_keys=tuple(identity.public for identity in self.replica_ids),
            rosters=(sign_roster(self.operator_id, name, 0, 1, members),),
            weights=weights,
            buffers=dimension - weights,
            initial_model=content_digest(self.initial),
            schedule=self.schedule,
            stop=self.stop,
        )
        replica_keys = set(self.federation.replica_keys)
        self.rosters = list(self.federation.rosters)
        """Every roster that the operator has signed, by number."""
        self.second_rosters: list[Roster] = []
        """Those that it signed, in error, under a number that another one has."""
        self.exclusions: list[ExclusionStatement] = []
        """Every exclusion that the operator has signed, in that order."""
        self.network = Network(self.seed, linked=lambda a, b: a.key in replica_keys or b.key in replica_keys)
        self.network.prepare = Seeded(self.seed)
        for index, identity in enumerate(self.replica_ids):
            self.network.add(self._replica_node(index, identity))
        for number, identity in enumerate(self.client_ids):
            self.network.add(self._client_node(number, identity))

    def _replica_node(self, index: int, identity: Identity) -> Node:
        def make(durable: Durable) -> Replica:
            replica: Replica = self.make_replica(self.federation, identity, durable, self.initial)
            return replica

        return Node(f"replica-{index}", identity.public, make, lambda key: JOB_SECONDS)

    def _client_node(self, number: int, identity: Identity) -> Node:
        def make(durable: Durable) -> Client:
            trainer = (
                self.trainer(number) if self.trainer else StillTrainer(number, self.federation.dimension)
            )
            # Who joins is given the operator's newest file; the others keep the one they began with.
            joined = number >= self.clients
            federation = replace(self.federation, rosters=tuple(self.rosters)) if joined else self.federation
            return Client(federation, identity, durable, trainer=trainer, last_epoch=self.last_epoch)

        joiner = number - self.clients
        name = f"client-{number}" if joiner < 0 else f"joiner-{joiner}"
        return Node(name, identity.public, make, lambda key: self.speed(number, key[1]))

    # the operator

    def enrol(self) -> int:
        """One more client; returns its number. It can be started once a roster lists it."""
        number = len(self.client_ids)
        self.client_ids.append(make_identity(self.seed, f"client-{number}"))
        self.network.add(self._client_node(number, self.client_ids[number]))
        return number

    def sign_next_roster(self, start_epoch: int, members: Iterable[int]) -> RosterStatement:
        """The operator's next roster, of clients by number. Nobody has heard of it yet."""
        keys = tuple(sorted(self.client_key(number) for number in members))
        roster = sign_roster(self.operator_id, self.federation.digest, len(self.rosters), start_epoch, keys)
        self.rosters.append(roster)
        return roster.statement

    def sign_exclusion(
        self,
        number: int,
        *,
        entries: Iterable[bytes] = (),
        clients: Iterable[int] = (),
        spans: Iterable[tuple[int, int]] = (),
        reason: str = "",
    ) -> ExclusionStatement:
        """The operator takes entries, clients by number, or epochs out of the model. Nobody has heard of it yet."""
        unsigned = ExclusionStatement(
            number=number,
            entries=tuple(sorted(entries)),
            clients=tuple(sorted(map(self.client_key, clients))),
            spans=tuple(Epochs(first=first, last=last) for first, last in spans),
            reason=reason,
            signature=bytes(64),
        )
        kind = ExclusionStatement.KIND
        signature = self.operator_id.sign(kind, self.federation.digest, unsigned.body())
        statement = unsigned.model_copy(update={"signature": signature})
        self.exclusions.append(statement)
        return statement

    @property
    def exclusion(self) -> Exclusion:
        """What counts of all that the operator has signed: of two with one number the one with the smaller digest."""
        last = max(self.exclusions, key=lambda each: each.number, default=None)
        if last is None:
            return Exclusion()
        rivals = (each for each in self.exclusions if each.number == last.number)
        return Exclusion.of(min(rivals, key=ExclusionStatement.body))

    def tell(self, replica: int, statement: RosterStatement | ExclusionStatement) -> None:
        """The operator brings a statement to a running replica."""
        node = self.network.nodes[self.replica_key(replica)]
        self.network.deliver(node, self.operator_id.public, statement)

    # handles

    def start(self) -> None:
        """Everybody but those who are yet to join."""
        for identity in (*self.replica_ids, *self.client_ids[: self.clients]):
            self.network.start(identity.public)

    def replica(self, index: int) -> Replica:
        """A running replica's machine."""
        machine = running_replica(self.network.nodes[self.replica_key(index)])
        assert machine is not None, f"replica {index} is down"
        return machine

    def client(self, number: int) -> Client:
        """A running client's machine."""
        machine = self.network.nodes[self.client_ids[number].public].machine
        assert isinstance(machine, Client)
        return machine

    def replica_key(self, index: int) -> bytes:
        return self.replica_ids[index].public

    def client_key(self, number: int) -> bytes:
        return self.client_ids[number].public

    def running_replicas(self) -> list[Replica]:
        return [
            self.replica(j)
            for j in range(self.parameters.replicas)
            if self.network.is_up(self.replica_key(j))
        ]

    def is_drained(self) -> bool:
        """Every running client rests, no upload waits, every running replica holds the same certified version."""
        numbers = range(len(self.client_ids))
        clients = [self.client(i) for i in numbers if self.network.is_up(self.client_key(i))]
        if not all(client.status(self.network.now)["done"] for client in clients):
            return False
        replicas = self.running_replicas()
        versions = {replica.context.version for replica in replicas}
        return len(versions) == 1 and all(
            replica.models.latest is not None
            and replica.models.latest.version == replica.context.version
            and not replica.opening.groups
            and not replica.coordination.own
            and not any(replica.coordination.is_groupable(r) for r in replica.uploads.records.values())
            for replica in replicas
        )
