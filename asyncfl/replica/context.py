"""What the parts of a replica share: public facts, its identity, who is connected, and the effects so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncfl.assignment import Assignment
from asyncfl.effects import (
    Compute,
    Delete,
    DeleteBlob,
    Effect,
    Fetch,
    Job,
    Notify,
    Persist,
    Put,
    Send,
)
from asyncfl.errors import ConfigurationError
from asyncfl.evidence import Docket
from asyncfl.exclusions import Exclusions
from asyncfl.federation import Federation
from asyncfl.identity import Identity, verify
from asyncfl.inclusion import Inclusion
from asyncfl.ledger import Ledger
from asyncfl.messages import Message, RosterRequest, Vote
from asyncfl.rosters import Rosters, compute_handicap

RESEND_SECONDS = 1.0
"""How long an unanswered request rests before it is repeated."""
FETCH_RETRY_SECONDS = 1.0


class Context:
    """Shared by the parts of one replica. Only the machine hands out the collected effects."""

    def __init__(self, federation: Federation, identity: Identity, clock_offset: float = 0.0) -> None:
        if identity.public not in federation.replica_index:
            raise ConfigurationError("this identity is not one of the deployment's replicas")
        self.federation = federation
        self.parameters = federation.parameters
        self.identity = identity
        self.clock_offset = clock_offset
        self.index = federation.replica_index[identity.public]
        self.rosters = Rosters(federation)
        self.exclusions = Exclusions(federation)
        self.assignment = Assignment(federation)
        self.ledger = Ledger(federation.digest)
        self.inclusion = Inclusion(self.rosters.at, places=federation.parameters.concurrency)
        self.now = 0.0
        self.started = 0.0
        self.connected: set[bytes] = set()
        self.unreachable_since: dict[int, float] = {}
        self.docket = Docket(self)
        self._handicaps: dict[bytes, float] = {}
        self._handicaps_of = (0, 0)
        """The (entries, highest roster) that they were computed from."""
        self._effects: list[Effect] = []
        self._computing: set[tuple[Any, ...]] = set()
        self._fetches: dict[bytes, _Fetching] = {}

    def count(self, client: bytes) -> float:
        """How often a client was included, as inclusion counts it: joiners start with the others' mean."""
        known = (self.ledger.entries, self.rosters.highest)
        if known != self._handicaps_of:
            self._handicaps_of, self._handicaps = known, {}
        if client not in self._handicaps:
            self._handicaps[client] = compute_handicap(client, self.rosters, self.ledger)
        return self.ledger.counts.get(client, 0) + self._handicaps[client]

    @property
    def version(self) -> bytes:
        """Names the model of all that is held here: every entry, and the operator's exclusion in force."""
        return self.exclusions.in_force.version(self.ledger.version)

    # effects

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def send(self, peer: bytes, message: Message) -> None:
        """To a connected peer; whatever cannot be sent now is repeated by its owner later."""
        if peer in self.connected:
            self._effects.append(Send(peer, message))

    def send_replica(self, index: int, message: Message) -> None:
        self.send(self.federation.replica_keys[index], message)

    def broadcast(self, message: Message) -> None:
        """To every other replica that is connected."""
        for index in self.others:
            self.send_replica(index, message)

    def request_rosters(self, peer: bytes) -> None:
        """Ask for the operator's statements that are lacking here."""
        self.send(peer, RosterRequest(after=self.rosters.highest))

    def persist(self, *writes: Put | Delete) -> None:
        if writes:
            self._effects.append(Persist(writes))

    def delete_blob(self, digest: bytes) -> None:
        self._effects.append(DeleteBlob(digest))

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def notify(self, event: str, level: str = "info", **fields: Any) -> None:
        self._effects.append(Notify(event, fields, level))

    def compute(self, key: tuple[Any, ...], job: Job) -> bool:
        """Start a job unless the same one is under way."""
        if key in self._computing:
            return False
        self._computing.add(key)
        self._effects.append(Compute(key, job))
        return True

    def compute_done(self, key: tuple[Any, ...]) -> None:
        self._computing.discard(key)

    # peers

    @property
    def others(self) -> Sequence[int]:
        return [j for j in range(self.parameters.replicas) if j != self.index]

    def is_connected(self, index: int) -> bool:
        return index == self.index or self.federation.replica_keys[index] in self.connected

    def connected_replicas(self) -> list[int]:
        """Replicas that can be reached now, this one included."""
        return [j for j in range(self.parameters.replicas) if self.is_connected(j)]

    def is_unreachable_for(self, index: int, seconds: float) -> bool:
        """Whether a replica has been out of reach for so long."""
        if self.is_connected(index):
            return False
        return self.now - self.unreachable_since.get(index, self.started) >= seconds

    # signatures

    def sign(self, kind: str, body: bytes) -> bytes:
        return self.identity.sign(kind, self.federation.digest, body)

    def verify_replica(self, index: int, kind: str, body: bytes, signature: bytes) -> bool:
        if index >= self.parameters.replicas:
            return False
        return verify(self.federation.replica_keys[index], kind, self.federation.digest, body, signature)

    def are_votes_valid(self, votes: Sequence[Vote], kind: str, body: bytes, needed: int) -> bool:
        """Whether at least `needed` distinct replicas signed `body`; a single bad vote spoils all."""
        if len({vote.replica for vote in votes}) != len(votes) or len(votes) < needed:
            return False
        return all(self.verify_replica(vote.replica, kind, body, vote.signature) for vote in votes)

    # blobs

    def want(self, digest: bytes, size: int, source: bytes) -> None:
        """Pull a blob from `source`, or from others that are known to have it, until it is here."""
        fetching = self._fetches.setdefault(digest, _Fetching())
        # Each source is asked for the size that it names: a client's upload can name any blob, with a wrong one.
        fetching.sources[source] = size
        self._start_fetch(digest, fetching)

    def want_no_more(self, digest: bytes) -> None:
        """It is here, or nobody needs it."""
        self._fetches.pop(digest, None)

    def fetch_failed(self, digest: bytes, peer: bytes) -> None:
        fetching = self._fetches.get(digest)
        if fetching is not None and fetching.current == peer:
            fetching.current = None
            fetching.retry_at = self.now + FETCH_RETRY_SECONDS
            fetching.sources[peer] = fetching.sources.pop(peer)

    def retry_fetches(self) -> None:
        for digest, fetching in self._fetches.items():
            self._start_fetch(digest, fetching)

    def _start_fetch(self, digest: bytes, fetching: _Fetching) -> None:
        if fetching.current is not None and fetching.current in self.connected:
            return
        if self.now < fetching.retry_at:
            return
        for source, size in fetching.sources.items():
            if source in self.connected:
                fetching.current = source
                self._effects.append(Fetch(source, digest, size))
                return


class _Fetching:
    __slots__ = ("current", "retry_at", "sources")

    def __init__(self) -> None:
        self.sources: dict[bytes, int] = {}
        """Who has it, and how large it is by their word; the next to be asked first."""
        self.current: bytes | None = None
        self.retry_at = float("-inf")
