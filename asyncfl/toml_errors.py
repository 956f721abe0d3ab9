"""Turns pydantic's refusal of a TOML document into one sentence: file, line, key, cause, remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel], source: str, text: str) -> str:
    """The first thing that `error` says about `text`, a document for `model` in the file `source`."""
    problems = error.errors(include_url=False, include_context=False)
    # A misspelt key is also a missing one: say the first.
    problem = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location = problem["loc"]
    path = _path(location)
    line = _line(text, location)
    where = f"{source}:{line}: {path}" if line else f"{source}: {path}"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: this key is missing; add it, or make a new file with `asyncfl init`"
    if isinstance(problem["input"], dict):  # keys that do not go together: the table would say nothing more
        return f"{where}: {in_words(problem['msg'])}"
    return f"{where}: {in_words(problem['msg'])}, not {shown(problem['input'])}; correct the value"


def in_words(message: str) -> str:
    """Pydantic's message about one value, as this program's own messages are worded."""
    message = message.removeprefix("Value error, ")
    message = re.sub(r"^\w+ should ", "it must ", message)
    message = re.sub(r"\bbe a valid (?=[aeiou])", "be an ", message)
    return re.sub(r"\bbe a valid ", "be a ", message)


def shown(value: Any) -> str:
    """A value of a file, for a message: what is long is cut."""
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        name = f"[{part}]" if isinstance(part, int) else part if part.isprintable() else repr(part)
        path += f".{name}" if path and isinstance(part, str) else name
    if len(path) > 200:
        return f"{path[:180]}… ({len(path)} characters)"
    return path or "the file"


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _section(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field's type is, or holds (`tuple[Model, ...]`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section(inner))), None)


def _line(text: str, location: Sequence[int | str]) -> int | None:
    """The line (from 1) of the key at `location`, or of its table when the key is not there."""
    if not text or not location:
        return None
    table = str(location[0])
    occurrence = location[1] if len(location) > 1 and isinstance(location[1], int) else 0
    key = str(location[-1])
    header = re.compile(rf"\s*\[\[?\s*{re.escape(table)}\s*\]")
    assignment = re.compile(rf"\s*{re.escape(key)}\s*=")
    found, seen, inside = None, -1, len(location) == 1
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("["):
            seen += bool(header.match(line))
            inside = bool(header.match(line)) and seen == occurrence
            found = number if inside else found
        elif inside and assignment.match(line):
            return number
    return found
