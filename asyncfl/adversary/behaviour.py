"""A malicious node: the real state machine, with somebody between it and its channels, its disk and its jobs.

A `Behaviour` sees every message that comes in and every effect that goes out; it may drop, change and add, and sign
with the node's own key. Several of them may share a `Coven`: everything each has seen, and all their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol, Self, TypeVar

from asyncfl.effects import Effect, Machine, Send
from asyncfl.errors import LocalProtocolError
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.messages import Locked, Manifest, Message, Relay, ShareOk, Upload, Vote, share_ok_body

Role = Literal["replica", "client"]


class Statement(Protocol):
    """A message that carries its sender's own signature."""

    KIND: ClassVar[str]

    def body(self) -> bytes:
        """The bytes that are signed."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


_Signed = TypeVar("_Signed", bound=Statement)


@dataclass
class Coven:
    """What colluding attackers share: their keys, and whatever one of them has seen."""

    federation: Federation
    identities: dict[bytes, Identity] = field(default_factory=dict)
    manifests: dict[bytes, Manifest] = field(default_factory=dict)
    oks: dict[bytes, dict[int, bytes]] = field(default_factory=dict)
    """SHARE_OKs of honest replicas, by manifest digest."""
    votes: dict[bytes, dict[int, bytes]] = field(default_factory=dict)
    """Lock signatures of honest replicas, by group digest."""
    plans: dict[str, Any] = field(default_factory=dict)
    """What several of them have agreed on, by attack."""

    def saw(self, peer: bytes, message: Message) -> None:
        """Remember what may be of use to the others."""
        replica = self.federation.replica_index.get(peer)
        if isinstance(message, Upload | Relay):
            self.manifests[message.manifest.digest()] = message.manifest
        elif isinstance(message, ShareOk) and replica is not None:
            self.oks.setdefault(message.manifest, {})[replica] = message.signature
        elif isinstance(message, Locked) and replica is not None:
            self.votes.setdefault(message.group, {})[replica] = message.signature

    def forget(self) -> None:
        """All but who they are: what is left to an attacker that works alone when its process starts again."""
        for what in (self.manifests, self.oks, self.votes, self.plans):
            what.clear()

    @property
    def replicas(self) -> dict[int, Identity]:
        """The colluding replicas, by index."""
        index = self.federation.replica_index
        return {index[key]: identity for key, identity in self.identities.items() if key in index}

    def sign_all(self, kind: str, body: bytes) -> dict[int, bytes]:
        """The statement under the valid signature of every colluding replica."""
        deployment = self.federation.digest
        return {j: identity.sign(kind, deployment, body) for j, identity in self.replicas.items()}

    def oks_of(self, manifest: Manifest) -> dict[int, bytes]:
        """Every SHARE_OK of an upload that can be shown: those seen, and the colluders' own."""
        name, core = manifest.digest(), manifest.core
        own = self.sign_all(ShareOk.KIND, share_ok_body(core.client, core.epoch, name))
        return {**self.oks.get(name, {}), **own}

    def votes_of(self, group: bytes) -> tuple[Vote, ...]:
        """Every lock signature of a group that can be shown."""
        known = {**self.votes.get(group, {}), **self.sign_all(Locked.KIND, group)}
        return tuple(Vote(replica=j, signature=known[j]) for j in sorted(known))


@dataclass(frozen=True)
class Insider:
    """The node that misbehaves. `machine` is its real state machine, to be read and to be meddled with."""

    federation: Federation
    identity: Identity
    machine: Any
    coven: Coven

    @property
    def index(self) -> int:
        """The replica's index."""
        return self.federation.replica_index[self.identity.public]

    @property
    def others(self) -> list[bytes]:
        """The other replicas' keys."""
        return [key for key in self.federation.replica_keys if key != self.identity.public]

    @property
    def honest(self) -> list[bytes]:
        """Keys of the replicas that do not collude."""
        return [key for key in self.federation.replica_keys if key not in self.coven.identities]

    def sign(self, kind: str, body: bytes) -> bytes:
        return self.identity.sign(kind, self.federation.digest, body)

    def signed(self, message: _Signed) -> _Signed:
        """The same statement under this node's valid signature."""
        signature = self.sign(message.KIND, message.body())
        return message.model_copy(update={"signature": signature})


class Behaviour:
    """Honest until overridden. `now` is in seconds since it began."""

    def __init__(self, me: Insider) -> None:
        self.me = me
        self.now = 0.0
        self._own: list[Effect] = []

    def send(self, peer: bytes, message: Message) -> None:
        """Say something of its own, when the event under way has been dealt with."""
        self._own.append(Send(peer, message))

    def do(self, effect: Effect) -> None:
        """Do something of its own, likewise."""
        self._own.append(effect)

    def take(self) -> list[Effect]:
        """What `send` and `do` have gathered."""
        effects, self._own = self._own, []
        return effects

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        """What the machine is told instead of `message`."""
        return (message,)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        """What `peer` is told instead of `message`."""
        return (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        """What is done in place of an effect other than a `Send`."""
        return (effect,)

    def begins(self) -> None:
        """Called before the machine, whose state is loaded, starts: the time to meddle with it."""

    def acts(self) -> None:
        """Called with every tick: the time for `send` and `do` without any occasion."""


@dataclass(frozen=True)
class Attacker:
    """A behaviour in the registry: what it tries, and the rule that stops it (protocol page).

    `without` names the defects (tests/simulation/mutations.py) under which it succeeds; empty where no rule stops it
    alone, or where it only wastes time. `beside` is the attack of a colluding replica without which there is nothing to
    do.
    """

    name: str
    role: Role
    tries: str
    rule: str
    make: Callable[[Insider], Behaviour]
    without: tuple[str, ...] = ()
    beside: str | None = None

    @property
    def least_byzantine(self) -> int:
        """Malicious replicas that it takes."""
        return (self.role == "replica") + (self.beside is not None)


ATTACKERS: Final[dict[str, Attacker]] = {}


_Class = TypeVar("_Class", bound=type[Behaviour])


def attacker(
    name: str, role: Role, *, tries: str, rule: str, without: tuple[str, ...] = (), beside: str | None = None
) -> Callable[[_Class], _Class]:
    """Enter a behaviour into the registry."""

    def register(behaviour: _Class) -> _Class:
        if name in ATTACKERS:
            raise LocalProtocolError(f"there are two attackers {name!r}")
        ATTACKERS[name] = Attacker(name, role, tries, rule, behaviour, without, beside)
        return behaviour

    return register


class Malicious:
    """A machine under a behaviour. Implements `Machine`.

    `began` is when, by the machine's clock; behaviours count their seconds from there.
    """

    def __init__(self, machine: Machine, behaviour: Behaviour, *, began: float = 0.0) -> None:
        self.machine = machine
        self.behaviour = behaviour
        self._began = began
        self.acted = 0
        """How often something else was done, said or heard than an honest node would have: 0 shows no attack."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)

    def _bend(self, effects: Iterable[Effect], now: float) -> list[Effect]:
        self.behaviour.now = now - self._began
        bent: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                said = [*self.behaviour.says(effect.peer, effect.message)]
                self.acted += said != [effect.message]
                bent.extend(Send(effect.peer, message) for message in said)
            else:
                done = [*self.behaviour.does(effect)]
                self.acted += len(done) != 1 or done[0] is not effect
                bent.extend(done)
        return bent + self._taken()

    def _taken(self) -> list[Effect]:
        own = self.behaviour.take()
        self.acted += len(own)
        return own

    def accepts(self, peer: bytes) -> bool:
        return self.machine.accepts(peer)

    def start(self, now: float) -> list[Effect]:
        self.behaviour.begins()
        self.acted += type(self.behaviour).begins is not Behaviour.begins
        return self._bend(self.machine.start(now), now)

    def connected(self, peer: bytes, now: float) -> list[Effect]:
        return self._bend(self.machine.connected(peer, now), now)

    def disconnected(self, peer: bytes, now: float) -> list[Effect]:
        return self._bend(self.machine.disconnected(peer, now), now)

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        self.behaviour.now = now - self._began
        self.behaviour.me.coven.saw(peer, message)
        bent: list[Effect] = []
        heard = [*self.behaviour.hears(peer, message)]
        self.acted += heard != [message]
        for told in heard:
            bent += self._bend(self.machine.receive(peer, told, now), now)
        return bent + self._taken()

    def tick(self, now: float) -> list[Effect]:
        bent = self._bend(self.machine.tick(now), now)
        self.behaviour.acts()
        return bent + self._taken()

    def computed(self, key: tuple[Any, ...], result: Any, now: float) -> list[Effect]:
        return self._bend(self.machine.computed(key, result, now), now)

    def compute_failed(self, key: tuple[Any, ...], error: Exception, now: float) -> list[Effect]:
        return self._bend(self.machine.compute_failed(key, error, now), now)

    def fetched(self, peer: bytes, digest: bytes, now: float) -> list[Effect]:
        return self._bend(self.machine.fetched(peer, digest, now), now)

    def fetch_failed(self, peer: bytes, digest: bytes, reason: str, now: float) -> list[Effect]:
        return self._bend(self.machine.fetch_failed(peer, digest, reason, now), now)

    def referenced_blobs(self) -> set[bytes]:
        return self.machine.referenced_blobs()

    def needs(self, blob: bytes) -> bool:
        return self.machine.needs(blob)

    def status(self, now: float) -> dict[str, Any]:
        told = self.machine.status(now)
        return {**told, "misbehaved": self.acted + told.get("misbehaved", 0)}
