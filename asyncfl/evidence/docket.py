"""The evidence that one party holds: found, verified, on disk, told to others; and who is convicted by it.

Theory of operation. Whatever contradicts itself is a *suspicion*: it is verified as if a stranger had brought it, and
enters the docket only then. Who holds evidence says so (CONVICTIONS: public keys, nothing else), on connecting, when
there is news, and every few seconds to those who do not hold as much; who lacks some asks for it; what was not asked
for is not looked at. So nothing travels while nobody lies, and a flood costs its sender more than its target: one
request a second for a culprit, at most 16 to one peer, and whoever shows something that proves nothing is not asked
again. Whoever does not answer comes last: then somebody else is asked of those who have said that they hold it.

What is held is bounded by who can be guilty: of a replica one piece of each kind, of a client one in all.
Nobody's safety rests on any of this, and no quorum shrinks: who is convicted is avoided where there is a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from asyncfl.durable import require_name
from asyncfl.effects import Job, Put, Table
from asyncfl.errors import InvalidItem, MalformedMessage
from asyncfl.evidence.jobs import CompareSums, Judge, Judgement
from asyncfl.evidence.kinds import (
    Evidence,
    WrongSum,
    decode_evidence,
    encode_evidence,
    evidence_digest,
)
from asyncfl.evidence.verify import find_culprit
from asyncfl.evidence.watch import Watch
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.messages import CULPRITS_AT_ONCE, Convictions, EvidenceRequest, Exhibit, Message
from asyncfl.rosters import Rosters

JUDGE: Final = "judge-evidence"
COMPARE: Final = "compare-sums"
ANNOUNCE_SECONDS: Final = 5.0
"""How often those who hold less evidence are told of what is held here."""
REQUEST_SECONDS: Final = 1.0
"""How long a request for evidence rests before somebody else is asked, and between two answers to one peer."""
SUSPICIONS_AT_ONCE: Final = 4
"""Of one kind against one party: one that holds is enough, and a liar contradicts itself as often as it likes."""
MAX_CLIENTS: Final = 1024
"""Clients against whom evidence is kept: a piece has up to 100 kB."""


class Surroundings(Protocol):
    """What a docket needs of the context of its machine."""

    federation: Federation
    identity: Identity
    rosters: Rosters
    now: float
    connected: set[bytes]

    def send(self, peer: bytes, message: Message) -> None: ...
    def persist(self, *writes: Put) -> None: ...
    def notify(self, event: str, level: str = "info", **fields: Any) -> None: ...
    def compute(self, key: tuple[Any, ...], job: Job) -> bool: ...


@dataclass(frozen=True, slots=True)
class Held:
    """One piece of evidence in the docket."""

    evidence: Evidence
    culprit: bytes
    encoded: bytes


@dataclass(slots=True)
class Asked:
    """Whom evidence against one culprit was asked of. Whoever says so first may hold none, and never answer."""

    peers: set[bytes] = field(default_factory=set)
    """In this round: somebody is asked again only when all others have been."""
    unanswered: set[bytes] = field(default_factory=set)
    again_at: float = float("-inf")

    def ask(self, peer: bytes, now: float) -> None:
        if peer in self.peers:
            self.peers.clear()
        self.peers.add(peer)
        self.unanswered.add(peer)
        self.again_at = now + REQUEST_SECONDS


class Docket:
    """The evidence of one replica or client."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.watch = Watch(around.federation)
        self.held: dict[bytes, Held] = {}
        """By digest."""
        self.by_culprit: dict[bytes, dict[str, bytes]] = {}
        """Digests of the evidence against each convicted party, by kind."""
        self.convict: Callable[[bytes], None] = lambda party: None
        """Told of each party once there is evidence against it, also of what was on disk."""
        self._replicas = frozenset(around.federation.replica_keys)
        self._clients = 0
        """How many clients are convicted."""
        self._judging: dict[bytes, tuple[Held, bytes | None]] = {}
        """What is being verified, by digest, and who showed it (None: found here)."""
        self._asked: dict[bytes, Asked] = {}
        """By culprit, while evidence against it is lacking here."""
        self._ask_at = 0.0
        self._shown: dict[bytes, tuple[float, int]] = {}
        """To each peer: since when, and how many pieces of evidence were shown."""
        self._holding: dict[bytes, Set[bytes]] = {}
        """Whom each peer was last heard to hold evidence against."""
        self._deaf: set[bytes] = set()
        """Peers that have shown what proves nothing: they are not asked again."""
        self._announce_at = 0.0

    @property
    def convicted(self) -> Set[bytes]:
        """Public keys of all against whom evidence is held."""
        return self.by_culprit.keys()

    @property
    def liars(self) -> frozenset[int]:
        """The convicted replicas, by index."""
        index = self.around.federation.replica_index
        return frozenset(index[key] for key in self.by_culprit if key in index)

    def load(self, rows: Mapping[bytes, bytes]) -> None:
        """What was on disk: it was verified before it was written."""
        for name, encoded in sorted(rows.items()):
            require_name(name, evidence_digest(encoded))
            evidence = decode_evidence(encoded)
            self._enter(name, Held(evidence, find_culprit(self._federation(), evidence), encoded))

    def status(self) -> list[dict[str, str]]:
        """Plain values: kind, culprit (public key) and digest of each piece."""
        return [
            {"kind": held.evidence.NAME, "culprit": held.culprit.hex(), "digest": name.hex()}
            for name, held in sorted(self.held.items(), key=lambda pair: (pair[1].culprit, pair[0]))
        ]

    # finding

    def suspect(self, suspicions: Iterable[Evidence]) -> None:
        """Verify what was found here; what holds enters the docket."""
        for evidence in suspicions:
            self._judge(evidence, None)

    def compare(self, group: bytes) -> None:
        """Compare the answers to a group, if there are enough to convict anybody."""
        around, answers = self.around, self.watch.answers(group)
        if len(answers) > around.federation.parameters.quorum:
            job = CompareSums(group, answers, self.liars, around.federation)
            around.compute((COMPARE, group + bytes([len(answers)])), job)

    def computed(self, kind: str, name: bytes, result: Any) -> None:
        """A job of this docket is done."""
        if kind == COMPARE:
            found: list[WrongSum] = result
            self.suspect(found)
        elif name in self._judging:
            self._judged(name, result)

    def _federation(self) -> Federation:
        """With all rosters held here, not only those of the deployment file."""
        around = self.around
        return replace(around.federation, rosters=tuple(around.rosters.held))

    def _judge(self, evidence: Evidence, source: bytes | None) -> None:
        federation = self._federation()
        try:
            culprit = find_culprit(federation, evidence)
        except InvalidItem as error:
            self.around.notify("evidence_dropped", "debug", reason=str(error))
            return
        if culprit == self.around.identity.public:
            # Our own fault, or a copy of this node that ran elsewhere: never evidence against a peer.
            self.around.notify("contradicted_itself", "error", kind=evidence.NAME)
            return
        if not self._has_room(culprit, evidence.NAME):
            return
        if source is None and self._under_way(culprit, evidence.NAME) >= SUSPICIONS_AT_ONCE:
            return
        encoded = encode_evidence(evidence)
        name = evidence_digest(encoded)
        if self.around.compute((JUDGE, name), Judge(evidence, federation)):
            self._judging[name] = (Held(evidence, culprit, encoded), source)

    def _under_way(self, culprit: bytes, kind: str) -> int:
        """How many suspicions of this kind, found here, are being verified against one party."""
        found_here = [held for held, source in self._judging.values() if source is None]
        return sum((held.culprit, held.evidence.NAME) == (culprit, kind) for held in found_here)

    def _has_room(self, culprit: bytes, kind: str) -> bool:
        known = self.by_culprit.get(culprit, {})
        if culprit in self._replicas:
            return kind not in known
        return not known and self._clients < MAX_CLIENTS

    def _judged(self, name: bytes, judgement: Judgement) -> None:
        held, source = self._judging.pop(name)
        if judgement.objection is None:
            if self._has_room(held.culprit, held.evidence.NAME):
                self._accept(name, held)
        elif source is None or not judgement.judged:
            self.around.notify("evidence_dropped", "debug", reason=judgement.objection)
        else:
            self._deaf.add(source)
            self.around.notify(
                "false_evidence", "warning", peer=source.hex()[:12], kind=held.evidence.NAME,
                reason=judgement.objection,
            )  # fmt: skip

    def _accept(self, name: bytes, held: Held) -> None:
        around = self.around
        is_new = held.culprit not in self.by_culprit
        self._enter(name, held)
        around.persist(Put(Table.EVIDENCE, name, held.encoded))
        culprit = around.federation.replica_index.get(held.culprit)
        who = {"client": held.culprit.hex()[:12]} if culprit is None else {"replica": culprit}
        around.notify("evidence", "error", kind=held.evidence.NAME, **who)
        if is_new:
            self._announce(around.connected)

    def _enter(self, name: bytes, held: Held) -> None:
        is_new = held.culprit not in self.by_culprit
        self._clients += is_new and held.culprit not in self._replicas
        self.held[name] = held
        self.by_culprit.setdefault(held.culprit, {})[held.evidence.NAME] = name
        self._asked.pop(held.culprit, None)
        if is_new:
            self.convict(held.culprit)

    # telling

    def _concerns(self, peer: bytes) -> Set[bytes]:
        """Whom `peer` is told about: replicas of everybody but itself, clients of replicas."""
        told = self.by_culprit.keys() if peer in self._replicas else self.by_culprit.keys() & self._replicas
        return told - {peer}

    def _announce(self, peers: Iterable[bytes]) -> None:
        for peer in sorted(peers):
            culprits = self._concerns(peer)
            if not culprits <= self._holding.get(peer, frozenset()):
                self.around.send(peer, Convictions(culprits=tuple(sorted(culprits))))

    def connected(self, peer: bytes) -> None:
        """A channel is up: say what is held."""
        self._holding.pop(peer, None)
        self._announce((peer,))

    def tick(self) -> None:
        if self.by_culprit and self.around.now >= self._announce_at:
            self._announce_at = self.around.now + ANNOUNCE_SECONDS
            self._announce(self.around.connected)
        if self._asked and self.around.now >= self._ask_at:
            self._ask_at = self.around.now + REQUEST_SECONDS
            self._ask_others()

    def receive_convictions(self, peer: bytes, message: Convictions) -> None:
        """Ask for what is lacking here, some at a time."""
        around = self.around
        # Nobody is asked about itself.
        self._holding[peer] = frozenset(message.culprits) - {peer}
        if peer in self._deaf:
            return
        wanted = [
            culprit for culprit in message.culprits
            if culprit in self._holding[peer] and self._is_wanted(culprit) and self._may_ask(peer, culprit)
        ]  # fmt: skip
        self._ask(peer, wanted[:CULPRITS_AT_ONCE])
        if self._concerns(peer) - self._holding[peer]:
            self._announce_at = min(self._announce_at, around.now + REQUEST_SECONDS)

    def _is_wanted(self, culprit: bytes) -> bool:
        around = self.around
        if culprit in self.by_culprit or culprit == around.identity.public:
            return False
        return culprit in self._replicas or (
            around.identity.public in self._replicas
            and culprit in around.rosters.clients
            and self._clients < MAX_CLIENTS
        )

    def _may_ask(self, peer: bytes, culprit: bytes) -> bool:
        """Whether a peer may be asked at once. A second time it is asked in its turn only."""
        asked = self._asked.get(culprit)
        return asked is None or (self.around.now >= asked.again_at and peer not in asked.peers)

    def _ask(self, peer: bytes, culprits: Sequence[bytes]) -> None:
        for culprit in culprits:
            self._asked.setdefault(culprit, Asked()).ask(peer, self.around.now)
        if culprits:
            self.around.send(peer, EvidenceRequest(culprits=tuple(culprits)))

    def _ask_others(self) -> None:
        """What was not shown within a second is asked of somebody else; the longest wait comes first."""
        turns: dict[bytes, list[bytes]] = {}
        for culprit, asked in sorted(self._asked.items(), key=lambda each: (each[1].again_at, each[0])):
            if self.around.now < asked.again_at:
                break
            holders = self._holders(culprit)
            if not holders or not self._is_wanted(culprit):
                del self._asked[culprit]
                continue
            free = [peer for peer in holders if len(turns.get(peer, ())) < CULPRITS_AT_ONCE]
            if free:
                first = min(free, key=lambda peer: (peer in asked.peers, peer not in self._replicas, peer))
                turns.setdefault(first, []).append(culprit)
        for peer, culprits in turns.items():
            self._ask(peer, culprits)

    def _holders(self, culprit: bytes) -> list[bytes]:
        """Who can be asked about a culprit; clients hold evidence against replicas only."""
        peers = self._holding.keys() & self.around.connected
        if culprit not in self._replicas:
            peers &= self._replicas
        return [peer for peer in peers - self._deaf if culprit in self._holding[peer]]

    def receive_request(self, peer: bytes, message: EvidenceRequest) -> None:
        """Show one piece against each culprit, to the same peer at most 16 a second."""
        around, concerns = self.around, self._concerns(peer)
        since, count = self._shown.get(peer, (around.now, 0))
        if around.now >= since + REQUEST_SECONDS:
            since, count = around.now, 0
        for culprit in message.culprits:
            if culprit in concerns and count < CULPRITS_AT_ONCE:
                count += 1
                name = min(self.by_culprit[culprit].values())
                around.send(peer, Exhibit(evidence=self.held[name].encoded))
        self._shown[peer] = (since, count)

    def receive_exhibit(self, peer: bytes, message: Exhibit) -> None:
        """A piece of evidence that was asked for."""
        around = self.around
        try:
            evidence = decode_evidence(message.evidence)
            culprit = find_culprit(self._federation(), evidence)
        except MalformedMessage as error:
            self._deaf.add(peer)
            around.notify("false_evidence", "warning", peer=peer.hex()[:12], reason=str(error))
            return
        except InvalidItem as error:
            around.notify("evidence_dropped", "debug", reason=str(error))
            return
        asked = self._asked.get(culprit)
        if asked is not None and peer in asked.unanswered:
            asked.unanswered.discard(peer)
            self._judge(evidence, peer)
