"""Deliberate defects: a few characters of one function, for the time of a test.

`old` is replaced by `new` in the source of a function and its code is swapped in place, so that whoever has imported
it gets the defect too. `old` must occur exactly once: a defect that no longer fits the code fails loudly.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

Edit = tuple[str, str, str]
"""(place, old, new), the place as `module:path.to.the.function`."""


@contextmanager
def defects(edits: Sequence[Edit]) -> Iterator[None]:
    """The code with all of these in it."""
    changes: dict[str, list[tuple[str, str]]] = {}
    for place, old, new in edits:
        changes.setdefault(place, []).append((old, new))
    with ExitStack() as stack:
        for place, texts in changes.items():
            stack.enter_context(_replaced(place, texts))
        yield


def _find(place: str) -> FunctionType:
    """The function at `module:path.to.it`, without its decorators."""
    module, _, path = place.partition(":")
    thing: Any = import_module(module)
    for name in path.split("."):
        thing = inspect.getattr_static(thing, name)
    if isinstance(thing, property):
        thing = thing.fget
    function = inspect.unwrap(thing)
    assert isinstance(function, FunctionType)
    return function


@contextmanager
def _replaced(place: str, texts: Sequence[tuple[str, str]]) -> Iterator[None]:
    """One function with another text."""
    function = _find(place)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in texts:
        assert source.count(old) == 1, f"the defect in {place} does not fit the code any more:\n{source}"
        source = source.replace(old, new)
    lines = source.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(("def ", "async def ")))
    # Inside a class, for the sake of `super()`.
    body = textwrap.indent("\n".join(lines[first:]), "    ")
    compiled = compile(
        f"from __future__ import annotations\nclass It:\n{body}", f"<defect in {place}>", "exec"
    )
    honest = function.__code__
    function.__code__ = _code(_code(compiled, "It"), function.__name__)
    try:
        yield
    finally:
        function.__code__ = honest


def _code(within: CodeType, name: str) -> CodeType:
    return next(code for code in within.co_consts if isinstance(code, CodeType) and code.co_name == name)
