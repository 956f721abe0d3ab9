"""Attacks on opening that broke earlier drafts stay dead: (i) disjoint groupings, (iii) wedges, (vi) forgotten locks.

The attacker is replica 0. It lets its clients' uploads come in and be vouched for, groups nothing itself, and then
says whatever the test wants, signed with its own key.
"""

from collections.abc import Sequence

import pytest

from asyncfl.effects import Blobs, Table
from asyncfl.identity import Identity
from asyncfl.messages import (
    GroupId,
    Lock,
    LockContent,
    Locked,
    LockRefused,
    Member,
    Message,
    Reveal,
    ShareSum,
    Vote,
)
from asyncfl.replica import Replica
from asyncfl.replica.coordination import Coordination
from asyncfl.replica.items import Items
from asyncfl.replica.jobs import Dealt, VerifyUpload
from asyncfl.replica.locks import LockTable
from asyncfl.replica.uploads import UploadRecord
from asyncfl.simulation import Node, Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer, sent

ATTACKER = 0


class Attack:
    """A run that has stopped before the attacker has grouped the uploads of one of its cells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, seed: int = 0) -> None:
        form = Coordination.form

        def form_unless_attacker(self: Coordination) -> None:
            if self.context.index != ATTACKER:
                form(self)

        monkeypatch.setattr(Coordination, "form", form_unless_attacker)
        parameters = make_parameters(24, cell_size=6, min_group=2, allow_minority_groups=True)
        self.simulation = Simulation(parameters, 24, seed=seed, last_epoch=1)
        self.observer = Observer(self.simulation, honest={1, 2, 3})
        self.simulation.start()
        self.network = self.simulation.network
        assert self.network.run(until=self._is_ready, seconds=60)
        self.records = sorted(self._uploads(), key=lambda record: record.key)

    def _uploads(self) -> list[UploadRecord]:
        records = self.simulation.replica(ATTACKER).uploads.records.values()
        return [r for r in records if r.manifest.core.coordinator == ATTACKER and r.manifest.core.cell == 0]

    def _is_ready(self) -> bool:
        records = self._uploads()
        return len(records) == 6 and all(len(record.oks) == 4 for record in records)

    @property
    def identity(self) -> Identity:
        return self.simulation.replica_ids[ATTACKER]

    def content(self, records: Sequence[UploadRecord], part: int) -> LockContent:
        return LockContent(
            id=GroupId(epoch=1, cell=0, coordinator=ATTACKER, part=part),
            members=tuple(
                Member(client=r.key[0], epoch=r.key[1], manifest=r.digest)
                for r in sorted(records, key=lambda record: record.key)
            ),
        )

    def lock(self, content: LockContent) -> Lock:
        by_name = {record.digest: record for record in self.records}
        return Lock(
            content=content,
            supporters=(1, 2, 3),
            oks=tuple(tuple(by_name[m.manifest].oks[j] for j in (1, 2, 3)) for m in content.members),
            signature=self.sign(Lock.KIND, content.digest()),
        )

    def sign(self, kind: str, body: bytes) -> bytes:
        return self.identity.sign(kind, self.simulation.federation.digest, body)

    def say(self, target: int, message: Message) -> None:
        """The attacker's message to one replica, over its own authenticated channel."""
        node = self.network.nodes[self.simulation.replica_key(target)]
        self.network._on(node, "receive", self.identity.public, message)

    def votes(self, content: LockContent) -> tuple[Vote, ...]:
        """Every vote the attacker can show for a content: its own, and those that honest replicas gave it."""
        group = content.digest()
        given = {ATTACKER: self.sign(Locked.KIND, group)}
        for source, _, message in self.observer.messages:
            if isinstance(message, Locked) and message.group == group:
                given[self.simulation.federation.replica_index[source]] = message.signature
        return tuple(Vote(replica=j, signature=given[j]) for j in sorted(given))

    def opened_sets(self) -> list[frozenset[bytes]]:
        """Sets of uploads that honest replicas gave sums of shares for."""
        groups = {m.group for m in sent(self.observer, ShareSum)}
        return [
            frozenset(member.manifest for member in content.members)
            for group, content in self.contents.items()
            if group in groups
        ]

    def of_cell(self, kind: type[Locked] | type[ShareSum]) -> list[Locked | ShareSum]:
        """Honest replicas' messages about the attacked cell."""
        return [m for m in sent(self.observer, kind) if m.id.cell == 0]

    contents: dict[bytes, LockContent]

    def try_everything(self, shown: dict[int, list[LockContent]]) -> None:
        """Ask each replica for the locks of its own grouping, then everybody for sums with all votes there are."""
        self.contents = {c.digest(): c for contents in shown.values() for c in contents}
        for replica, contents in shown.items():
            for content in contents:
                self.say(replica, self.lock(content))
        self.network.run(seconds=3)
        for content in self.contents.values():
            for replica in (1, 2, 3):
                self.say(replica, Reveal(content=content, votes=self.votes(content)))
        self.network.run(seconds=3)


def disjoint_groupings(attack: Attack) -> dict[int, list[LockContent]]:
    """`{a}+P, Q` to one replica, `P, {a}+Q` to another, `P, Q` to the third."""
    a, p, q = attack.records[:1], attack.records[1:3], attack.records[3:5]
    return {
        1: [attack.content(a + p, 0), attack.content(q, 1)],
        2: [attack.content(p, 0), attack.content(a + q, 1)],
        3: [attack.content(p, 0), attack.content(q, 1)],
    }


def span_reveals(opened: list[frozenset[bytes]], upload: bytes) -> bool:
    """Whether differences of opened sums show a single upload (or fewer than two)."""
    return any(
        len(one - other) == 1 and other <= one and one - other == {upload}
        for one in opened
        for other in opened
    )


def test_disjoint_groupings_shown_to_different_replicas_open_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attack = Attack(monkeypatch)
    attack.try_everything(disjoint_groupings(attack))
    opened = attack.opened_sets()
    assert not span_reveals(opened, attack.records[0].digest)
    members = [upload for group in opened for upload in group]
    assert len(members) == len(set(members))


def test_without_the_lock_rule_the_same_attack_singles_a_client_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the test above can fail: with the lock table off, `{a}+P` and `P` are both answered."""
    monkeypatch.setattr(LockTable, "conflict", lambda self, content: None)
    monkeypatch.setattr(Items, "add_opened", lambda self, item, size, entry: None)
    attack = Attack(monkeypatch)
    monkeypatch.setattr(attack.observer, "_fail", lambda rule, node, text: None)
    a, p = attack.records[:1], attack.records[1:3]
    both = [attack.content(a + p, 0), attack.content(p, 1)]
    attack.try_everything(dict.fromkeys((1, 2, 3), both))
    assert span_reveals(attack.opened_sets(), attack.records[0].digest)


def test_a_group_and_the_same_less_one_member_are_not_both_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(monkeypatch)
    whole, less = attack.content(attack.records, 0), attack.content(attack.records[1:], 1)
    attack.try_everything({1: [whole, less], 2: [less, whole], 3: [whole, less]})
    assert len(attack.opened_sets()) <= 1
    refusals = sent(attack.observer, LockRefused)
    assert len(refusals) == 3


@pytest.mark.parametrize("votes", ["two", "repeated", "forged"])
def test_fewer_than_n_minus_t_locks_reveal_nothing(monkeypatch: pytest.MonkeyPatch, votes: str) -> None:
    attack = Attack(monkeypatch)
    content = attack.content(attack.records, 0)
    attack.say(1, attack.lock(content))
    attack.network.run(seconds=2)
    given = attack.votes(content)
    assert len(given) == 2
    shown = {
        "two": given,
        "repeated": (*given, given[1]),
        "forged": (*given, Vote(replica=3, signature=given[1].signature)),
    }[votes]
    for replica in (1, 2, 3):
        attack.say(replica, Reveal(content=content, votes=shown))
    attack.network.run(seconds=3)
    assert len(attack.of_cell(Locked)) == 1
    assert not attack.of_cell(ShareSum)


@pytest.mark.parametrize("size", [1, 0])
def test_a_group_below_the_minimum_is_never_locked(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    attack = Attack(monkeypatch)
    if size == 0:
        with pytest.raises(ValueError, match="members"):
            attack.content([], 0)
        return
    attack.try_everything({j: [attack.content(attack.records[:size], 0)] for j in (1, 2, 3)})
    assert not attack.opened_sets()
    assert all("min_group" in m.reason for m in sent(attack.observer, LockRefused))


def test_another_replica_cannot_ask_in_the_coordinators_name(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack(monkeypatch)
    content = attack.content(attack.records, 0)
    stolen = attack.lock(content.model_copy(update={"id": content.id.model_copy(update={"coordinator": 2})}))
    attack.say(1, stolen)
    attack.network.run(seconds=2)
    assert not attack.of_cell(Locked)


def test_a_lock_survives_the_entry_and_restarts_and_stops_a_second_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pruned or forgotten locks were once replayed into a differencing attack."""
    attack = Attack(monkeypatch)
    whole = attack.content(attack.records, 0)
    attack.try_everything({j: [whole] for j in (1, 2, 3)})
    network, simulation = attack.network, attack.simulation
    network.run(until=lambda: bool(simulation.replica(1).context.ledger.by_id.get(whole.id)), seconds=10)
    network.run(seconds=3)
    for replica in (1, 2, 3):
        key = simulation.replica_key(replica)
        assert not simulation.replica(replica).uploads.records.keys() & {r.digest for r in attack.records}
        network.crash(key)
        assert network.nodes[key].durable[Table.LOCKS]
        network.start(key)
    network.run(seconds=2)
    before = len(sent(attack.observer, ShareSum))
    less = attack.content(attack.records[1:], 1)
    attack.try_everything({j: [less] for j in (1, 2, 3)})
    assert not [m for m in sent(attack.observer, Locked) if m.group == less.digest()]
    assert len(sent(attack.observer, ShareSum)) == before


def test_share_bad_does_not_wedge_an_honest_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replica 3's own opinion of the shares must not keep it from signing a lock that n-t OKs support."""
    simulation = Simulation(make_parameters(), 16, last_epoch=3)
    liar = simulation.replica_key(3)

    from asyncfl.replica import uploads as module

    class Doubting(VerifyUpload):
        def run(self, blobs: Blobs) -> Dealt:
            dealt = super().run(blobs)
            return Dealt(None) if self.index == 3 else dealt

    monkeypatch.setattr(module, "VerifyUpload", Doubting)
    observer = Observer(simulation)
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=200)
    assert sorted(simulation.replica(0).context.ledger.counts.values()) == [3] * 16
    signed = [m for m in sent(observer, Locked, liar)]
    assert signed, "the doubting replica signed no lock at all"
    assert not [m for m in sent(observer, ShareSum, liar)]


def test_a_replica_without_any_upload_pulls_them_and_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signer lacks delays its signature, never refuses it: one replica is dead, so all others must sign."""
    simulation = Simulation(make_parameters(), 16, last_epoch=3)
    observer = Observer(simulation)

    from asyncfl.messages import Relay

    deaf = simulation.replica_key(2)
    asked: set[bytes] = set()

    def lose_relays(source: Node, target: Node, message: Message) -> Message | None:
        from asyncfl.messages import ManifestRequest

        if isinstance(message, ManifestRequest) and source.key == deaf:
            asked.update(message.manifests)
        wanted = isinstance(message, Relay) and message.manifest.digest() in asked
        lost = isinstance(message, Relay) and target.key == deaf and not wanted
        return None if lost else message

    simulation.network.on_message = lose_relays
    simulation.start()
    simulation.network.run(until=lambda: len(simulation.replica(0).context.ledger.items) >= 6, seconds=100)
    assert sent(observer, Locked, deaf)


def test_replicas_are_the_real_ones() -> None:
    assert Simulation(make_parameters(), 16).make_replica is Replica


def test_a_group_that_was_revealed_is_not_signed_after_another_one_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two lock signatures that contradict each other convict their signer: an honest replica never gives them.

    Replica 3 signs the smaller group; the others lock and reveal the larger one, which replica 3 then records too.
    Asked for its signature on that one again, it stays silent, before and after a restart.
    """
    attack = Attack(monkeypatch)
    whole, less = attack.content(attack.records, 0), attack.content(attack.records[1:], 1)
    attack.try_everything({1: [whole], 2: [whole], 3: [less]})
    assert attack.simulation.replica(3).locks.table.by_id[whole.id] == whole, "it did not even hear of it"
    attack.say(3, attack.lock(whole))
    attack.network.run(seconds=1)
    network, key = attack.network, attack.simulation.replica_key(3)
    network.crash(key)
    network.start(key)
    network.run(seconds=1)
    attack.say(3, attack.lock(whole))
    attack.say(3, attack.lock(less))
    network.run(seconds=1)
    given = [m.group for m in sent(attack.observer, Locked, key)]
    assert less.digest() in given
    assert whole.digest() not in given
