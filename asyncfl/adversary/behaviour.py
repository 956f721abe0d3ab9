"""A malicious node: the real state machine, with somebody between it and its channels, its disk and its jobs.

A `Behaviour` sees every message that comes in and every effect that goes out; it may drop, change and add, and sign
with the node's own key. Several of them may share a `Coven`: everything each has seen, and all their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from asyncfl.effects import Effect, Machine, Send
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.messages import Manifest, Message, Relay, ShareSum, Upload
from asyncfl.wire import Wire

Role = Literal["replica", "client"]


@dataclass
class Coven:
    """What colluding attackers share."""

    identities: dict[bytes, Identity] = field(default_factory=dict)
    manifests: dict[bytes, Manifest] = field(default_factory=dict)
    sums: list[ShareSum] = field(default_factory=list)

    def saw(self, message: Message) -> None:
        """Remember what may be of use to the others."""
        if isinstance(message, Upload | Relay):
            self.manifests[message.manifest.digest()] = message.manifest
        elif isinstance(message, ShareSum):
            self.sums.append(message)


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

    def sign(self, kind: str, body: bytes) -> bytes:
        return self.identity.sign(kind, self.federation.digest, body)

    def signed(self, message: _Signed) -> _Signed:
        """The same statement under this node's valid signature."""
        signature = self.sign(message.KIND, message.body())  # type: ignore[attr-defined]
        return message.model_copy(update={"signature": signature})


_Signed = TypeVar("_Signed", bound=Wire)


class Behaviour:
    """Honest until overridden."""

    def __init__(self, me: Insider) -> None:
        self.me = me
        self.now = 0.0

    def hears(self, peer: bytes, message: Message) -> Iterable[Message]:
        """What the machine is told instead of `message`."""
        return (message,)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        """What `peer` is told instead of `message`."""
        return (message,)

    def does(self, effect: Effect) -> Iterable[Effect]:
        """What is done in place of an effect other than a `Send`."""
        return (effect,)

    def acts(self) -> Iterable[Effect]:
        """What it does of its own accord, ten times a second."""
        return ()


@dataclass(frozen=True)
class Attacker:
    """A behaviour in the registry: what it tries, and the rule that stops it (protocol page)."""

    name: str
    role: Role
    tries: str
    rule: str
    make: Callable[[Insider], Behaviour]


ATTACKERS: Final[dict[str, Attacker]] = {}


def attacker(name: str, role: Role, *, tries: str, rule: str) -> Callable[[type[Behaviour]], type[Behaviour]]:
    """Enter a behaviour into the registry."""

    def register(behaviour: type[Behaviour]) -> type[Behaviour]:
        ATTACKERS[name] = Attacker(name, role, tries, rule, behaviour)
        return behaviour

    return register


class Malicious:
    """A machine under a behaviour. Implements `Machine`."""

    def __init__(self, machine: Machine, behaviour: Behaviour) -> None:
        self.machine = machine
        self.behaviour = behaviour

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)

    def _bend(self, effects: Iterable[Effect], now: float) -> list[Effect]:
        self.behaviour.now = now
        bent: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                said = self.behaviour.says(effect.peer, effect.message)
                bent.extend(Send(effect.peer, message) for message in said)
            else:
                bent.extend(self.behaviour.does(effect))
        return bent

    def start(self, now: float) -> list[Effect]:
        return self._bend(self.machine.start(now), now)

    def connected(self, peer: bytes, now: float) -> list[Effect]:
        return self._bend(self.machine.connected(peer, now), now)

    def disconnected(self, peer: bytes, now: float) -> list[Effect]:
        return self._bend(self.machine.disconnected(peer, now), now)

    def receive(self, peer: bytes, message: Message, now: float) -> list[Effect]:
        self.behaviour.now = now
        self.behaviour.me.coven.saw(message)
        bent: list[Effect] = []
        for told in self.behaviour.hears(peer, message):
            bent += self._bend(self.machine.receive(peer, told, now), now)
        return bent

    def tick(self, now: float) -> list[Effect]:
        bent = self._bend(self.machine.tick(now), now)
        return bent + list(self.behaviour.acts())

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

    def status(self, now: float) -> dict[str, Any]:
        return self.machine.status(now)
