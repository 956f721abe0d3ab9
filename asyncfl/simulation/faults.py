"""What happens from outside, as data: what a seed draws, what is applied to a run, and what shrinking leaves out.

Misfortune mostly; and the operator, who retires clients and enrols others, and takes entries out of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from asyncfl.effects import Effect
from asyncfl.messages import Message
from asyncfl.simulation.network import Network, Node

AT_ONCE: Final = 0.0


class Misfortune:
    """What all faults have in common."""

    __slots__ = ()

    @property
    def end(self) -> float:
        """Virtual time from which nothing of it is left to wait for."""
        return AT_ONCE


class Passing(Misfortune):
    """Begins at `at` and is over `seconds` later."""

    __slots__ = ()
    at: float
    seconds: float

    @property
    def end(self) -> float:
        return self.at + self.seconds


@dataclass(frozen=True, slots=True)
class Crash(Passing):
    """`node` loses all that is not on disk at `at`, and starts again `seconds` later."""

    node: str
    at: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.node} crashes at {self.at:g} s, and starts again {self.seconds:g} s later"


@dataclass(frozen=True, slots=True)
class CrashAtEffect(Misfortune):
    """`node` crashes before its `count`-th effect is carried out, and starts again `down` seconds later."""

    node: str
    count: int
    down: float

    def __str__(self) -> str:
        return f"{self.node} crashes before its effect {self.count}, and starts again {self.down:g} s later"


@dataclass(frozen=True, slots=True)
class Partition(Passing):
    """Nobody in `nodes` reaches anybody else from `at` on, for `seconds`."""

    nodes: tuple[str, ...]
    at: float
    seconds: float

    def __str__(self) -> str:
        return f"{', '.join(self.nodes)} cut off from all others at {self.at:g} s, for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Disconnection(Passing):
    """The connection between two nodes breaks at `at`, and comes back `seconds` later."""

    first: str
    second: str
    at: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.first} and {self.second} cannot reach each other from {self.at:g} s on, for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Hold(Misfortune):
    """An adversarial scheduler: messages of one `kind` ("*": all) to `target` ("*": anybody) take `seconds` longer."""

    kind: str
    target: str
    seconds: float
    until: float

    def __str__(self) -> str:
        kind = "everything" if self.kind == "*" else f"every {self.kind}"
        target = "everybody" if self.target == "*" else self.target
        return f"{kind} to {target} is held for {self.seconds:g} s, until {self.until:g} s"

    @property
    def end(self) -> float:
        return self.until + self.seconds


@dataclass(frozen=True, slots=True)
class Skew(Misfortune):
    """`node`'s clock shows offset + rate * time."""

    node: str
    rate: float
    offset: float

    def __str__(self) -> str:
        return f"the clock of {self.node} shows {self.offset:g} s + {self.rate:g} times the time"


@dataclass(frozen=True, slots=True)
class Duplicates(Misfortune):
    """Every message arrives twice with this probability."""

    probability: float

    def __str__(self) -> str:
        return f"every message arrives twice with probability {self.probability:g}"


@dataclass(frozen=True, slots=True)
class RosterChange(Passing):
    """At `at` the operator signs the next roster, in force `ahead` epochs beyond the front (`simulation.turnover`).

    `leaving` and `returning` are clients of the first roster; `joining` counts new ones, which are called joiner-0,
    joiner-1 and so on. Who returns or joins is started `seconds` later. The operator calls `told`.
    """

    at: float
    seconds: float
    ahead: int
    leaving: tuple[str, ...]
    returning: tuple[str, ...]
    joining: int
    told: tuple[str, ...]

    def __str__(self) -> str:
        changes = [f"{name} leaves" for name in self.leaving] + [f"{name} returns" for name in self.returning]
        changes += [f"{self.joining} join"] * bool(self.joining)
        return (
            f"at {self.at:g} s the operator signs a roster for {self.ahead} epochs beyond the front and tells "
            f"{', '.join(self.told)}: {', '.join(changes) or 'the same members'}"
        )


@dataclass(frozen=True, slots=True)
class Rollback(Misfortune):
    """At `at` the operator signs its next exclusion, and brings it to `told` (`simulation.rollbacks`).

    `entries` are places from 0 to 1 in the list of all that honest replicas hold then, `spans` first and last epochs,
    which neither overlap nor touch. `again`: under the number of the one before, which is the operator's error.
    One that excludes nothing lets everything count again.
    """

    at: float
    entries: tuple[float, ...]
    clients: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    again: bool
    told: tuple[str, ...]

    def __str__(self) -> str:
        entries = f"{len(self.entries)} entr{'y' if len(self.entries) == 1 else 'ies'}"
        what = [entries] * bool(self.entries) + list(self.clients)
        what += [f"epoch {a}" if a == b else f"epochs {a} to {b}" for a, b in self.spans]
        number = "the number that it used last" if self.again else "the next number"
        return (
            f"at {self.at:g} s the operator signs, under {number}, that the model leaves out "
            f"{', '.join(what) or 'nothing'}, and tells {', '.join(self.told)}"
        )

    @property
    def end(self) -> float:
        return self.at


Fault = Crash | CrashAtEffect | Partition | Disconnection | Hold | Skew | Duplicates | RosterChange | Rollback


def apply(network: Network, faults: Sequence[Fault]) -> None:
    """Arrange for all of `faults` but roster changes on a network that has not been started."""
    nodes = {node.name: node for node in network.nodes.values()}
    holds = [fault for fault in faults if isinstance(fault, Hold)]

    def hold(source: Node, target: Node, message: Message) -> float:
        kind = type(message).__name__
        return sum(
            fault.seconds
            for fault in holds
            if network.now < fault.until and fault.kind in ("*", kind) and fault.target in ("*", target.name)
        )

    if holds:
        network.hold = hold
    for fault in faults:
        match fault:
            case Crash(name, at, seconds):
                _crash_at(network, nodes[name], at, seconds)
            case CrashAtEffect(name, count, down):
                _crash_at_effect(network, nodes[name], count, down)
            case Partition(names, at, seconds):
                inside = [nodes[name].key for name in names]
                for node in nodes.values():
                    if node.key not in inside:
                        for key in inside:
                            _cut(network, node.key, key, at, seconds)
            case Disconnection(first, second, at, seconds):
                _cut(network, nodes[first].key, nodes[second].key, at, seconds)
            case Skew(name, rate, offset):
                nodes[name].clock = partial(_show, rate, offset)
            case Duplicates(probability):
                network.duplicates = probability
            case Hold() | RosterChange() | Rollback():
                pass


def _show(rate: float, offset: float, now: float) -> float:
    """What a clock that is off shows at a virtual time."""
    return offset + rate * now


def _crash_at(network: Network, node: Node, at: float, down: float) -> None:
    def crash() -> None:
        if node.machine is not None:
            network.crash(node.key)
            network.after(down, lambda: _restart(network, node))

    network.after(at, crash)


def _crash_at_effect(network: Network, node: Node, count: int, down: float) -> None:
    before, left = network.before_effect, count

    def watch(which: Node, effect: Effect) -> None:
        nonlocal left
        if which is node and left:
            left -= 1
            if not left:
                network.crash(node.key)
                network.after(down, lambda: _restart(network, node))
                return
        before(which, effect)

    network.before_effect = watch


def _restart(network: Network, node: Node) -> None:
    if node.machine is None:
        network.start(node.key)


def _cut(network: Network, a: bytes, b: bytes, at: float, seconds: float) -> None:
    network.after(at, lambda: network.cut(a, b))
    network.after(at + seconds, lambda: network.heal(a, b))
