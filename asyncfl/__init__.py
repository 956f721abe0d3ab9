"""Federated learning that nobody has to trust. `asyncfl.run` runs a whole deployment from Python."""

from typing import Any, Final

_API: Final = ("run",)


def __getattr__(name: str) -> Any:
    """What the shell offers under a name of `_API`, loaded when it is first asked for.

    Found by the distribution's entry points, because this package knows nothing of the shell.
    """
    if name in _API:
        from importlib.metadata import entry_points

        for found in entry_points(group="asyncfl.api", name=name):
            value = globals()[name] = found.load()
            return value
        raise AttributeError(
            f"asyncfl.{name} is missing from what pip recorded of asyncfl; install it again: pip install -e ."
        )
    raise AttributeError(f"module 'asyncfl' has no attribute {name!r}")
