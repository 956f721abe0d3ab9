"""Values that the types of messages allow, drawn with a taste for what is known and for what is extreme."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Le, Len
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, FailFast

from asyncfl.identity import Identity
from asyncfl.messages import Message
from asyncfl.wire import Wire

SMALL = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate,)
)
"""What all state machines here have in common."""

Known = Mapping[str, Sequence[Any]]
"""Values worth saying again, by the name of the field that they fit."""


def shaped(kind: type[Wire], known: Known) -> st.SearchStrategy[Any]:
    """Messages of one type."""
    fields = {
        name: _field(
            name, Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation, known
        )
        for name, info in kind.model_fields.items()
    }
    return st.builds(kind, **fields)


def _field(name: str, annotation: Any, known: Known) -> st.SearchStrategy[Any]:
    fresh = _of_type(name, annotation, (), known)
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    fitting = [
        value
        for value in known.get(name, ())
        if isinstance(annotation, type) and isinstance(value, annotation)
    ]
    return st.sampled_from(fitting) | fresh if fitting else fresh


def _of_type(name: str, kind: Any, metadata: tuple[Any, ...], known: Known) -> st.SearchStrategy[Any]:
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return _of_type(name, inner, (*metadata, *more), known)
    low, high = _bounds(metadata)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.sampled_from(sorted({low, low + 1, min(high, low + 3), high})) | st.integers(low, high)
    if kind is float:
        return st.sampled_from((float(low), -0.0, float(high), 0.1))
    if kind is bytes:
        return st.sampled_from(
            (bytes(low), b"\xff" * low, bytes(min(high, low + 1)), b"\x5a" * min(high, 184))
        )
    if kind is str:
        return st.sampled_from(("", "because", "a" * high))
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        inner = _field(name.removesuffix("s"), element, known)
        return st.lists(inner, min_size=low, max_size=min(high, low + 3)).map(tuple)
    if isinstance(kind, types.UnionType):
        return st.one_of(*(_of_type(name, option, (), known) for option in get_args(kind)))
    assert issubclass(kind, Wire), f"a field of type {kind} is unknown here"
    return shaped(kind, known)


def _bounds(metadata: tuple[Any, ...]) -> tuple[int, int]:
    low, high = 0, 2**31 - 1
    for item in metadata:
        match item:
            case Ge(ge=least):
                low = least
            case Le(le=most):
                high = most
            case Len(min_length=shortest, max_length=longest):
                low, high = shortest, longest if longest is not None else high
            case FailFast() | AfterValidator():
                continue
            case _:
                low = getattr(item, "min_length", None) or getattr(item, "ge", None) or low
                high = getattr(item, "max_length", None) or getattr(item, "le", None) or high
    return low, high


def signed(message: Message, identity: Identity, deployment: bytes) -> Message:
    """With the sender's own signature, where there is one to give."""
    if hasattr(message, "signature") and hasattr(message, "body"):
        signature = identity.sign(type(message).KIND, deployment, message.body())
        return message.model_copy(update={"signature": signature})
    return message
