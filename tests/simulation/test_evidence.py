"""Who lies leaves evidence with honest parties, who tell each other, keep it, and avoid the liar from then on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from asyncfl.adversary import ATTACKERS
from asyncfl.effects import Notify, Table
from asyncfl.evidence import encode_evidence
from asyncfl.messages import (
    Attest,
    Convictions,
    EvidenceRequest,
    Exhibit,
    GroupId,
    Message,
    ShareOk,
    Task,
    attest_body,
)
from asyncfl.simulation import Network, Node, Simulation
from asyncfl.simulation.attackers import Attack, corrupt
from asyncfl.simulation.observer import Observer
from asyncfl.simulation.scenario import Scenario
from tests.core.builders import make_parameters
from tests.evidence.crimes import crimes
from tests.simulation.mutations import BY_NAME

LEFT_BY = {
    "wrong-sums": {"wrong-sum"},
    "constant-sums": {"wrong-sum"},
    "random-sums": {"wrong-sum"},
    "false-attestations": {"wrong-attestation"},
    "forged-models": {"wrong-model"},
    "two-groups-one-id": {"two-groups"},
    "differencing": {"two-groups"},
    "disjoint-groupings": {"two-groups"},
    "waits-for-restarts": {"two-groups"},
    "lone-member": {"unlawful-group"},
    "member-twice": {"unlawful-group"},
    "share-bad": {"two-verdicts"},
    "two-uploads": {"two-uploads"},
    "false-proof": {"false-proof"},
    "spiked-check-block": {"false-proof"},
    "junk-check-blocks": {"false-proof"},
    "errors-after-the-proof": {"false-proof"},
    "off-the-polynomial": {"bad-share"},
    "shares-after-the-proof": {"bad-share"},
    "short-boxes": {"bad-manifest"},
    "wrong-cell": {"bad-manifest"},
    "of-no-replica": {"bad-manifest"},
}
"""What honest parties hold after a run with each of these attackers."""
NOTHING = (
    "misdeals-many",
    "silent",
    "censor",
    "drop-updates",
    "far-beyond-the-clip",
    "refuses-locks",
    "slow",
)
"""Attacks that no signature proves."""
QUICK = (
    "wrong-sums", "false-attestations", "forged-models", "two-groups-one-id", "lone-member", "two-uploads",
    "false-proof", "off-the-polynomial", "wrong-cell", "misdeals-many",
)  # fmt: skip


def each(names: Iterable[str]) -> list[Any]:
    """As parameters; all but the `QUICK` ones run with the slow tests."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


class Run:
    """Eight clients, two of which may be malicious, or replica 0; `epochs` epochs."""

    def __init__(self, name: str | None, *, epochs: int = 2, seed: int = 1) -> None:
        scenario = Scenario(seed, 4, 1, 8, epochs=epochs)
        self.simulation = Simulation(scenario.parameters(), 8, seed=seed, last_epoch=epochs)
        network = self.network = self.simulation.network
        network.tick_seconds = 0.2
        self.attacks: tuple[Attack, ...] = ()
        if name is not None:
            liars = ("replica-0",) if ATTACKERS[name].role == "replica" else ("client-0", "client-4")
            self.attacks = tuple(Attack(liar, name) for liar in liars)
        corrupt(self.simulation, self.attacks)
        self.malicious = {
            node.key for node in network.nodes.values() if node.name in {a.node for a in self.attacks}
        }
        self.observer = Observer(self.simulation, self.malicious)
        self.sent: list[tuple[float, Node, Node, Message]] = []
        network.on_message = self._on_message
        self.simulation.start()

    def _on_message(self, source: Node, target: Node, message: Message) -> Message:
        self.sent.append((self.network.now, source, target, message))
        return message

    def to_the_end(self, extra: float = 8.0) -> Run:
        """Until honest clients are done, and for `extra` seconds more. Nothing may be wrong."""
        honest = [i for i in range(8) if self.simulation.client_key(i) not in self.malicious]

        def is_over() -> bool:
            return all(self.simulation.client(i).status(self.network.now)["done"] for i in honest)

        assert self.network.run(until=is_over, seconds=400)
        self.network.run(seconds=extra)
        assert not self.observer.violations, self.observer.violations[:3]
        return self

    @property
    def honest_replicas(self) -> list[Node]:
        keys = self.simulation.federation.replica_keys
        return [self.network.nodes[key] for key in keys if key not in self.malicious]

    def convicted(self, node: Node) -> set[str]:
        """Names of those against whom a node holds evidence, as its status says."""
        assert node.machine is not None
        names = {other.key.hex(): other.name for other in self.network.nodes.values()}
        return {names[piece["culprit"]] for piece in node.machine.status(self.network.now)["evidence"]}


@pytest.mark.parametrize("name", each(LEFT_BY))
def test_an_attack_leaves_evidence_with_every_honest_replica(name: str) -> None:
    run = Run(name).to_the_end()
    assert run.observer.evidence >= LEFT_BY[name]
    guilty = {attack.node for attack in run.attacks}
    for node in run.honest_replicas:
        assert run.convicted(node) == guilty
        assert len(node.durable[Table.EVIDENCE]) <= 4 * len(guilty)
    clients = [node for node in run.network.nodes.values() if node.name.startswith("client")]
    if ATTACKERS[name].role == "replica":
        assert all(run.convicted(node) == guilty for node in clients)
    else:
        assert not any(node.durable[Table.EVIDENCE] for node in clients)


@pytest.mark.parametrize("name", each(NOTHING))
def test_what_no_signature_proves_convicts_nobody(name: str) -> None:
    run = Run(name).to_the_end()
    assert not run.observer.evidence


def test_nothing_is_said_about_evidence_while_nobody_lies() -> None:
    run = Run(None).to_the_end()
    assert not [m for *_, m in run.sent if isinstance(m, Convictions | EvidenceRequest | Exhibit)]
    assert not run.observer.evidence


def test_the_frame_up_convicts_the_liars_alone() -> None:
    """n = 7, t = 2: two liars whose errors cancel beside one honest answer. That it succeeds where the word of few is
    believed shows in tests/simulation/test_mutations.py, `blame-by-few`."""
    scenario = BY_NAME["blame-by-few"].scenario(1)
    simulation = Simulation(scenario.parameters(), scenario.clients, seed=1, last_epoch=1)
    corrupt(simulation, scenario.attacks)
    observer = Observer(simulation, simulation.federation.replica_keys[:2])
    simulation.start()

    def convicted() -> bool:
        replicas = [simulation.network.nodes[key].machine for key in simulation.federation.replica_keys[2:]]
        return all(machine and len(machine.status(0.0)["evidence"]) == 2 for machine in replicas)

    assert simulation.network.run(until=convicted, seconds=60)
    assert not observer.violations
    assert observer.evidence == {"wrong-sum"}


def test_evidence_survives_a_restart_and_is_told_to_those_who_were_away() -> None:
    run = Run("two-groups-one-id", epochs=3)
    late, others = run.simulation.replica_key(3), run.honest_replicas[:2]
    run.network.run(seconds=0.5)
    run.network.crash(late)
    assert run.network.run(until=lambda: all(map(run.convicted, others)), seconds=100)
    run.network.start(late)
    run.network.run(seconds=3)
    node = run.network.nodes[late]
    assert run.convicted(node) == {"replica-0"}
    held = dict(node.durable[Table.EVIDENCE])
    run.network.crash(late)
    run.network.start(late)
    assert run.convicted(node) == {"replica-0"}
    assert node.durable[Table.EVIDENCE] == held


def test_clients_turn_to_a_convicted_replica_no_more() -> None:
    run = Run("wrong-sums", epochs=4).to_the_end()
    liar = run.simulation.replica_key(0)
    clients = [node for node in run.network.nodes.values() if node.name.startswith("client")]
    known = max(time for time, _, target, m in run.sent if isinstance(m, Exhibit) and target in clients)
    tasks = [source for time, source, _, m in run.sent if isinstance(m, Task) and time > known + 1.0]
    assert tasks
    assert not [source for source in tasks if source.key == liar]


def test_nothing_of_a_convicted_client_is_vouched_for() -> None:
    run = Run("off-the-polynomial", epochs=4).to_the_end()
    guilty = {run.simulation.client_key(i) for i in (0, 4)}
    since = max(time for time, *_, m in run.sent if isinstance(m, Exhibit))
    oks = [m.client for time, s, _, m in run.sent if isinstance(m, ShareOk) and time > since + 1.0]
    assert oks
    assert not guilty & set(oks)
    replica = run.simulation.replica(1)
    assert not any(replica.context.inclusion.is_live(key, run.network.now) for key in guilty)


# attacks by evidence


class Accused:
    """A run of honest parties, and evidence of another deployment's crimes at hand."""

    def __init__(self) -> None:
        self.simulation = Simulation(make_parameters(8), 8, seed=5, last_epoch=2)
        self.observer = Observer(self.simulation, self.simulation.federation.replica_keys[:1])
        self.simulation.start()
        self.network = self.simulation.network
        self.network.run(seconds=1)
        self.liar, self.target = self.simulation.replica_key(0), self.simulation.replica_key(1)
        self.exhibit = Exhibit(evidence=encode_evidence(crimes()[1]["wrong-sum"]))

    def say(self, *messages: Message) -> list[Notify]:
        """What replica 1 says of itself once replica 0 has said this."""
        node = self.network.nodes[self.target]
        before = len(node.events)
        for message in messages:
            self.network.deliver(node, self.liar, message)
        self.network.run(seconds=0.5)
        return [event for _, event in node.events[before:]]


def test_evidence_that_nobody_asked_for_is_not_looked_at() -> None:
    accused = Accused()
    assert not [e for e in accused.say(*[accused.exhibit] * 50) if "evidence" in e.event]
    assert not accused.simulation.replica(1).context.docket.held


def overheard(network: Network) -> list[Message]:
    """All messages from now on, as they come."""
    heard: list[Message] = []

    def hear(source: Node, target: Node, message: Message) -> Message:
        heard.append(message)
        return message

    network.on_message = hear
    return heard


def test_evidence_of_another_deployment_is_false_here_and_its_bearer_is_not_asked_again() -> None:
    accused = Accused()
    convictions = Convictions(culprits=(accused.simulation.replica_key(3),))
    said = accused.say(convictions, accused.exhibit)
    assert [e.event for e in said if e.event == "false_evidence"]
    docket = accused.simulation.replica(1).context.docket
    assert not docket.held
    accused.network.run(seconds=3)
    asked = overheard(accused.network)
    accused.say(convictions)
    assert not [m for m in asked if isinstance(m, EvidenceRequest)]
    assert not accused.observer.violations


@pytest.mark.parametrize("claims", ["the culprit", "a client"])
def test_who_claims_to_hold_evidence_and_shows_none_keeps_nobody_from_it(claims: str) -> None:
    """Replica 0 holds evidence against replica 3. Whenever it says so, somebody else was a moment faster."""
    simulation = Simulation(make_parameters(8), 8, seed=5, last_epoch=1)
    network, culprit = simulation.network, simulation.replica_key(3)
    silent = culprit if claims == "the culprit" else simulation.client_key(0)
    claim, asked = Convictions(culprits=(culprit,)), []

    def hear(source: Node, target: Node, message: Message) -> Message | None:
        if isinstance(message, EvidenceRequest) and target.key == culprit:
            asked.append(message)
        if not isinstance(message, Exhibit | Convictions) or not target.name.startswith("replica"):
            return message
        if source.key != simulation.replica_key(0):
            return None
        if isinstance(message, Convictions) and target.key != culprit:
            network.deliver(target, silent, claim)
        return message

    network.on_message = hear
    simulation.start()
    network.run(seconds=2)
    place = GroupId(epoch=9, cell=0, coordinator=3, part=0)
    for item in (b"a" * 32, b"b" * 32):
        body = attest_body(place, item)
        signature = simulation.replica_ids[3].sign(Attest.KIND, simulation.federation.digest, body)
        network.deliver(
            network.nodes[simulation.replica_key(0)],
            culprit,
            Attest(id=place, item=item, signature=signature),
        )
    network.run(seconds=8)
    assert [culprit in simulation.replica(j).context.docket.convicted for j in range(3)] == [True] * 3
    assert not asked, "a culprit was asked about itself"


def test_convictions_of_strangers_and_of_oneself_are_not_asked_about() -> None:
    accused = Accused()
    asked = overheard(accused.network)
    strangers = tuple(bytes([1, k % 256, k // 256]) + bytes(29) for k in range(2000))
    accused.say(Convictions(culprits=(*strangers, accused.target)))
    assert not [m for m in asked if isinstance(m, EvidenceRequest)]


def test_requests_are_answered_sixteen_a_second_at_most() -> None:
    run = Run("two-groups-one-id").to_the_end()
    shown = overheard(run.network)
    node, peer = run.honest_replicas[0], run.honest_replicas[1].key
    for _ in range(100):
        run.network.deliver(node, peer, EvidenceRequest(culprits=(run.simulation.replica_key(0),) * 16))
    assert len([m for m in shown if isinstance(m, Exhibit)]) == 16
