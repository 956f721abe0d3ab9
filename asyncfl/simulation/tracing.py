"""A readable trace: one line for every message that is sent, and for everything a machine says of itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from asyncfl.effects import Effect, Notify, Send
from asyncfl.messages import GroupId, Message
from asyncfl.simulation.network import Network, Node


class Event(NamedTuple):
    """Something that a node sent (to `target`) or said of itself."""

    time: float
    node: str
    target: str | None
    what: Message | Notify

    def line(self, names: Mapping[bytes, str]) -> Line:
        """In words; `names` of nodes, by public key."""
        if isinstance(self.what, Notify):
            said = ", ".join(f"{key}={value}" for key, value in self.what.fields.items())
            return Line(self.time, self.node, None, self.what.event, said)
        return Line(self.time, self.node, self.target, type(self.what).__name__, summarise(self.what, names))


class Line(NamedTuple):
    """An event in words: `kind` is that of the message sent, or the name of what a node says of itself."""

    time: float
    node: str
    target: str | None
    kind: str
    said: str

    def __str__(self) -> str:
        if self.target is None:
            return f"{self.time:9.3f}  {self.node:>10}  * {self.kind} {self.said}"
        return f"{self.time:9.3f}  {self.node:>10} -> {self.target:<10} {self.kind}({self.said})"


def record(network: Network, trace: deque[Event]) -> None:
    """Append to `trace` whatever happens on `network` from now on."""
    before = network.before_effect

    def watch(node: Node, effect: Effect) -> None:
        if isinstance(effect, Send):
            target = network.nodes.get(effect.peer)
            name = target.name if target is not None else "?"
            trace.append(Event(network.now, node.name, name, effect.message))
        elif isinstance(effect, Notify):
            trace.append(Event(network.now, node.name, None, effect))
        before(node, effect)

    network.before_effect = watch


def summarise(message: Message, names: Mapping[bytes, str]) -> str:
    """The fields of a message that are short."""
    shown = []
    for name in getattr(type(message), "model_fields", {}):
        value = getattr(message, name)
        if isinstance(value, bool | int | str):
            shown.append(f"{name}={value}")
        elif name == "id":
            shown.append(f"id={_place(value)}")
        elif name == "content":
            shown.append(f"id={_place(value.id)}, members={len(value.members)}")
        elif name == "certificate":
            shown.append(f"version={value.version.hex()[:6]}, entries={value.entries}")
        elif name == "manifest" and not isinstance(value, bytes):
            whose = names.get(value.core.client, value.core.client.hex()[:6])
            shown.append(f"upload={whose}/{value.core.epoch}")
        elif isinstance(value, bytes) and len(value) == 32:
            shown.append(f"{name}={names.get(value, value.hex()[:6])}")
    return ", ".join(shown)


def _place(group: GroupId) -> str:
    return f"{group.epoch}/{group.cell}/{group.coordinator}/{group.part}"
