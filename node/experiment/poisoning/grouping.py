"""Random groups as the protocol draws them, and how likely one is to be clean."""

from __future__ import annotations

from math import ceil, comb

from asyncfl.assignment import compute_shuffled_positions, cut
from asyncfl.digest import digest


def draw_groups(clients: int, size: int, seed: bytes, epoch: int) -> tuple[tuple[int, ...], ...]:
    """Clients 0 .. clients - 1 in the order of the protocol's shuffle, cut into groups of `size` or a little more."""
    words = digest("asyncfl/1/poisoning", b"groups", seed, epoch.to_bytes(8, "little"))
    positions = compute_shuffled_positions(clients, words)
    return cut([int(client) for client in positions.argsort()], size)


def probability_clean(clients: int, malicious: int, size: int) -> float:
    """That none of `malicious` among `clients` is in a random group of `size`: hypergeometric."""
    return comb(clients - malicious, size) / comb(clients, size)


def expected_bad(clients: int, malicious: int, size: int) -> int:
    """Groups with a malicious member to be expected in an epoch, rounded up; in the clear all malicious clients."""
    groups = cut(range(clients), size)
    clean = sum(probability_clean(clients, malicious, len(group)) for group in groups)
    return ceil(len(groups) - clean - 1e-9)
