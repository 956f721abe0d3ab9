"""A readable trace: one line for every message that is sent, and for everything a machine says of itself."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from asyncfl.effects import Effect, Notify, Send
from asyncfl.messages import Message
from asyncfl.simulation.network import Network, Node


class Event(NamedTuple):
    """Something that a node sent (to `target`) or said of itself."""

    time: float
    node: str
    target: str | None
    what: Message | Notify

    def __str__(self) -> str:
        if isinstance(self.what, Notify):
            said = ", ".join(f"{key}={value}" for key, value in self.what.fields.items())
            return f"{self.time:9.3f}  {self.node:>10}  * {self.what.event} {said}"
        return f"{self.time:9.3f}  {self.node:>10} -> {self.target:<10} {summarise(self.what)}"


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


def summarise(message: Message) -> str:
    """A message in a few words: its type, and the fields that are short."""
    shown = []
    for name in getattr(type(message), "model_fields", {}):
        value = getattr(message, name)
        if isinstance(value, bool | int | str):
            shown.append(f"{name}={value}")
        elif name == "id":
            shown.append(f"id={value.epoch}/{value.cell}/{value.coordinator}/{value.part}")
        elif name == "manifest" and not isinstance(value, bytes):
            shown.append(f"upload={value.core.client.hex()[:6]}/{value.core.epoch}")
        elif isinstance(value, bytes) and len(value) == 32:
            shown.append(f"{name}={value.hex()[:6]}")
    return f"{type(message).__name__}({', '.join(shown)})"
