"""From a task's name in the deployment file to the task, with errors that name what is wrong."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final, cast

from asyncfl.errors import ConfigurationError
from node.training.task import Task

BUILT_IN: Final = ("digits", "npz:PATH")
_FIXED: Final = ("clients", "seed", "path")
"""Arguments of a factory that are no options."""
_METHODS: Final = ("model", "train", "evaluate")


def load_task(name: str, *, clients: int, seed: int = 0, options: Mapping[str, object] | None = None) -> Task:
    """The task called `name`: `digits`, `npz:PATH` (a path) or `module:factory`.

    Calls the factory with `clients` (how many share the data), `seed` (initial weights, partition) and
    `options`. Raises `ConfigurationError` naming module, attribute or option. Imports torch.
    """
    if clients < 1:
        raise ConfigurationError(f"task {name!r}: {clients} clients; at least one is needed")
    arguments: dict[str, object] = {"clients": clients, "seed": seed}
    for option, value in (options or {}).items():
        if option in _FIXED:
            raise ConfigurationError(f"task {name!r}: option {option!r} is set by the deployment itself")
        arguments[option] = value
    factory: Callable[..., object]
    if name == "digits":
        from node.training.digits import digits as factory
    elif name.startswith("npz:"):
        from node.training.npz import npz as factory

        arguments["path"] = name.removeprefix("npz:")
    else:
        factory = _import(name)
    _check_arguments(name, factory, arguments)
    return _check_task(name, factory(**arguments))


def _import(name: str) -> Callable[..., object]:
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigurationError(
            f"unknown task {name!r}: use {', '.join(BUILT_IN)} or MODULE:FACTORY for a task of your own"
        )
    # An installed command does not look into the current directory; last, so that it shadows no package.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The task's own missing dependency is another mistake than a misspelt module.
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigurationError(
                f"task {name!r}: no module named {error.name!r} here or on PYTHONPATH; run in its folder or "
                "add that to PYTHONPATH"
            ) from error
        raise ConfigurationError(f"task {name!r}: importing {module_name!r} failed: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"task {name!r}: importing {module_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ConfigurationError(f"task {name!r}: module {module_name!r} has no attribute {attribute!r}")
    if not callable(factory):
        raise ConfigurationError(
            f"task {name!r}: {attribute!r} in {module_name!r} is a {type(factory).__name__}, not a function"
        )
    return cast(Callable[..., object], factory)


def _check_arguments(name: str, factory: Callable[..., object], arguments: Mapping[str, object]) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        options = [
            each.name
            for each in signature.parameters.values()
            if each.kind in kinds and each.name not in _FIXED
        ]
        raise ConfigurationError(
            f"task {name!r}: its factory does not take ({', '.join(sorted(arguments))}): {error}; "
            f"its options: {', '.join(options) or 'none'}"
        ) from error


def _check_task(name: str, task: object) -> Task:
    missing = [method for method in _METHODS if not callable(getattr(task, method, None))]
    if missing or not isinstance(task, Task):
        raise ConfigurationError(
            f"task {name!r}: its factory returned a {type(task).__name__} without {', '.join(missing)}(); "
            f"a task has the methods {', '.join(_METHODS)}"
        )
    return task
