"""Random groups as the protocol draws them, and how many of them are bad."""

from __future__ import annotations

from math import ceil

from asyncfl.assignment import compute_shuffled_positions, cut
from asyncfl.digest import digest
from asyncfl.group_rules import clean_probability


def draw_groups(clients: int, size: int, seed: bytes, epoch: int) -> tuple[tuple[int, ...], ...]:
    """Clients 0 .. clients - 1 in the order of the protocol's shuffle, cut into groups of `size` or a little more."""
    words = digest("asyncfl/1/poisoning", b"groups", seed, epoch.to_bytes(8, "little"))
    positions = compute_shuffled_positions(clients, words)
    return cut([int(client) for client in positions.argsort()], size)


def expected_bad(clients: int, malicious: float, size: int) -> int:
    """Groups of `size` with a malicious member to be expected in an epoch, rounded up.

    In the clear that is the number of malicious clients, a fraction of all.
    """
    groups = cut(range(clients), size)
    clean = sum(clean_probability(clients, len(group), malicious) for group in groups)
    return ceil(len(groups) - clean - 1e-9)
