"""Real inputs to start from: everything that was said and written in a short simulated run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Len
from pydantic import FailFast
from pydantic.fields import FieldInfo

from asyncfl.effects import Table
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.messages import MESSAGE_TYPES, Manifest, Message, Upload, encode_message
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import Node
from asyncfl.wire import Wire
from tests.core.builders import make_parameters

Rows = dict[Table, dict[bytes, bytes]]


@dataclass
class Samples:
    """One small run: messages by type, and what each party had on disk when it was at its busiest."""

    federation: Federation
    initial: bytes
    replicas: tuple[Identity, ...]
    client: Identity
    operator: Identity
    messages: dict[type[Wire], list[Message]] = field(default_factory=dict)
    replica_rows: Rows = field(default_factory=dict)
    client_rows: Rows = field(default_factory=dict)
    uploads: list[tuple[Manifest, bytes]] = field(default_factory=list)
    """Uploads of `client`, and their payloads."""

    @property
    def upload(self) -> Manifest:
        return self.uploads[0][0]

    @property
    def payload(self) -> bytes:
        return self.uploads[0][1]


@cache
def samples() -> Samples:
    """Made once in a process."""
    simulation = Simulation(make_parameters(8, cell_size=4, min_group=3), 8, seed=5, last_epoch=4)
    made = Samples(
        simulation.federation,
        simulation.initial,
        tuple(simulation.replica_ids),
        simulation.client_ids[0],
        simulation.operator_id,
    )

    def note(source: Node, target: Node, message: Message) -> Message:
        kind = made.messages.setdefault(type(message), [])
        if len(kind) < 12:
            kind.append(message)
        if isinstance(message, Upload) and source.key == made.client.public:
            made.uploads.append((message.manifest, source.blobs.data[message.manifest.core.upload]))
        return message

    def keep_busiest(node: Node, _effect: object) -> None:
        for key, rows in (
            (made.replicas[0].public, made.replica_rows),
            (made.client.public, made.client_rows),
        ):
            if node.key != key:
                continue
            for table, found in node.durable.items():
                for name, value in found.items():
                    if len(rows.setdefault(table, {})) < 24:
                        rows[table].setdefault(name, value)

    simulation.network.on_message = note
    simulation.network.before_effect = keep_busiest
    simulation.start()
    simulation.network.run(seconds=1.0)
    simulation.tell(1, simulation.sign_next_roster(3, range(7)))
    simulation.tell(2, simulation.sign_exclusion(1, spans=[(1, 1), (9, 10)], reason="poison"))
    simulation.network.run(until=simulation.is_drained, seconds=120)
    return made


@cache
def frames(*kinds: type[Wire]) -> tuple[bytes, ...]:
    """Frames of these message types, of all where none is named: what was said, and one with something in every list.

    The run is too short for some messages, and others have empty lists in it.
    """
    said = samples().messages
    found: list[bytes] = []
    for kind in kinds or MESSAGE_TYPES:
        found += [encode_message(message) for message in said.get(kind, ())[:4]]
        found.append(encode_message(smallest(kind, elements=1)))
    return tuple(found)


def smallest(kind: Any, metadata: tuple[Any, ...] = (), *, elements: int = 0) -> Any:
    """The smallest value of a field's type, with so many elements at least in its lists, and theirs."""
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return smallest(inner, (*metadata, *more), elements=elements)
    least = 0
    for item in metadata:
        match item:
            case Ge(ge=low):
                least = low
            case Len(min_length=shortest):
                least = shortest
            case FailFast():
                continue
            case _ if hasattr(item, "min_length"):
                least = item.min_length
            case _:
                continue
    if kind in (bool, int, float):
        return kind(least)
    if kind is bytes:
        return bytes(least)
    if kind is str:
        return "a" * least
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(smallest(inner, elements=elements) for _ in range(max(least, elements)))
    assert issubclass(kind, Wire), f"a field of type {kind} is unknown here"
    fields = {name: _annotation(info) for name, info in kind.model_fields.items()}
    return kind(**{name: smallest(field, elements=elements) for name, field in fields.items()})


def _annotation(info: FieldInfo) -> Any:
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
