"""The fold with a rule in plain Python floats, one coordinate at a time: slow and plain.

A row's window is the shortest run of rows that ends with it and has groups of n - t coordinators, enough for the rule;
the rule's result over the means of these groups, in units of the clip, counts by how much of the row is there.
"""

from collections.abc import Callable
from math import ceil

from asyncfl.federation import Federation
from tests.spec import fold_reference, rules_reference

Entry = tuple[int, int, int, list[int]]
"""Epoch, coordinator, members, opened sum."""

LEAST: dict[str, Callable[[int], int]] = {
    "median": lambda f: 2 * f + 1, "trimmed_mean": lambda f: 2 * f + 1, "multi_krum": lambda f: 2 * f + 3,
}  # fmt: skip
RULES: dict[str, Callable[[list[list[float]], int], list[float]]] = {
    "median": lambda rows, f: rules_reference.median(rows),
    "trimmed_mean": rules_reference.trimmed_mean,
    "multi_krum": rules_reference.multi_krum,
}


def mean(entry: Entry, federation: Federation) -> list[float]:
    _, _, members, opened = entry
    total = fold_reference.clipped(opened, members, federation)
    return [
        value / (segment.bound * members)
        for segment in federation.model_segments
        for value in total[segment.start : segment.stop]
    ]


def fold(entries: list[Entry], roster: int, federation: Federation) -> list[float]:
    """Total displacement of the model, per coordinate, without a server optimiser, buffers after the weights."""
    parameters = federation.parameters
    rows: dict[int, list[Entry]] = {}
    for entry in entries:
        rows.setdefault(entry[0], []).append(entry)
    epochs, total, counts = sorted(rows), [0.0] * federation.dimension, list[int]()
    for last, epoch in enumerate(epochs):
        present = sum(members for _, _, members, _ in rows[epoch])
        divisor = max(present, fold_reference.expected_before(counts, roster))
        counts.append(present)
        for first in range(last, max(last - 16, -1), -1):
            window = [entry for each in epochs[first : last + 1] for entry in rows[each]]
            bad = ceil(round(parameters.bad_groups * len(window), 9))
            coordinators = {coordinator for _, coordinator, _, _ in window}
            if len(coordinators) >= parameters.quorum and len(window) >= LEAST[parameters.rule](bad):
                break
        else:
            continue
        result = RULES[parameters.rule]([mean(entry, federation) for entry in window], bad)
        for segment in federation.model_segments:
            for place in range(segment.start, segment.stop):
                total[place] += segment.clip * result[place] * present / divisor
    return total
