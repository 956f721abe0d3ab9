"""How runs are told apart in the pictures of an experiment: the same name, the same colour and dash in each."""

from __future__ import annotations

from typing import Any, Final

_COLOURS: Final = ("#1f6fb4", "#d1622b", "#3c8d53", "#8656a4", "#8c6d31", "#4b5563", "#c03a6b", "#2a9d9d")
_DASHES: Final = ("-", "--", "-.", ":", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


def colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def dash(index: int) -> Any:
    return _DASHES[index % len(_DASHES)]


def by_name(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs with the same name (other seeds), in the file's order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        groups.setdefault(run["run"], []).append(run)
    return groups
