"""Rules in the fold: which groups a row's rule sees, and what it makes of them.

A rule needs several inputs, from several coordinators: one coordinator chooses, within limits, whom it puts together.
The *window* of a row is the shortest run of rows that ends with it and holds groups of n - t coordinators, and as
many groups as the rule needs to stand its bad ones. The row's mean update is the rule's result over the window.
So every row makes one step, and a late entry changes the steps of its own row and of those whose windows reach back
to it. A row without a window (the first ones, or where too few coordinators open groups) counts zero and blocks nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from asyncfl.digest import digest
from asyncfl.federation import Federation
from asyncfl.group_rules import GroupRule
from asyncfl.ledger import Link
from asyncfl.masking import decode_sum
from asyncfl.parameters import MAX_REPLICAS
from asyncfl.reputation import Reputation, score_groups, shrink_suspects
from asyncfl.rows import GroupSum, RowSum, add_groups, clip_group, compute_group_mean
from asyncfl.rules import Trust

WINDOW_ROWS: Final = MAX_REPLICAS
"""A window has no more rows: with one cell to an epoch so many pass until every replica has had its turn."""

Read = Callable[[bytes], bytes]
"""Gives the opened sum of that digest, as stored."""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows whose groups a rule takes together, in order; the last is the one that moves."""

    links: tuple[Link, ...]
    groups: int

    @property
    def seed(self) -> bytes:
        """Of the entries alone: nobody knows it before they are there, and older rows do not change it."""
        return digest("asyncfl/1/window", *(item.opened for link in self.links for item in link.items))


def find_window(link: Link, federation: Federation, rule: GroupRule) -> Window | None:
    """The window of the row of `link`; None where the last `WINDOW_ROWS` rows hold too little."""
    links: list[Link] = []
    coordinators: set[int] = set()
    groups = 0
    for each in islice(link.back(), WINDOW_ROWS):
        links.append(each)
        items = each.items
        coordinators.update(item.id.coordinator for item in items)
        groups += len(items)
        if len(coordinators) >= federation.parameters.quorum and rule.suffices(groups):
            return Window(tuple(reversed(links)), groups)
    return None


@dataclass(frozen=True, slots=True)
class Inputs:
    """A row as a rule sees it: `means` float32 [groups, dimension], in units of the clip, and the `row` they make."""

    means: Tensor
    row: RowSum


def read_inputs(link: Link, read: Read, federation: Federation) -> Inputs:
    """Read and clip the groups of one row."""
    items = link.items
    means = torch.empty((len(items), federation.dimension), dtype=torch.float32)

    def clipped(index: int) -> GroupSum:
        item = items[index]
        opened = decode_sum(read(item.opened), federation.upload_dimension)
        group = clip_group(opened, len(item.members), federation)
        means[index] = compute_group_mean(group, federation)
        return group

    row = add_groups(map(clipped, range(len(items))), federation)
    return Inputs(means, row)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rule saw at a row: its window, and the bad groups allowed for; all 0 without one."""

    rows: int = 0
    groups: int = 0
    byzantine: int = 0
    scores: tuple[float, ...] = ()
    """The suspicion score of each group of the row itself, in its order; none without reputation."""
    weights: tuple[float, ...] = ()
    """What these groups counted, by the rows before."""


def judge(
    window: Window, means: Tensor, rule: GroupRule, reputation: Reputation[bytes] | None, trust: Trust | None
) -> tuple[Tensor, Trust | None, Judgement]:
    """The rule's result over `means` of the window, float64 [dimension] in units of the clip; what it learned and saw.

    Means are finite and bounded, and a window has inputs enough: no rule can refuse them. `reputation` and `trust` are
    those of the rows before; without a reputation all groups count alike.
    """
    byzantine, rows = rule.byzantine(window.groups), len(window.links)
    if reputation is None:
        result, learned = rule.combine(means, window.seed, trust)
        return result, learned, Judgement(rows, window.groups, byzantine)
    items = [item for link in window.links for item in link.items]
    scores = score_groups(means, [len(item.members) for item in items])
    weights = tuple(reputation.group_weight(member.client for member in item.members) for item in items)
    result, learned = rule.combine(shrink_suspects(means, weights), window.seed, trust)
    own = slice(len(items) - len(window.links[-1].items), None)
    return result, learned, Judgement(rows, window.groups, byzantine, scores[own], weights[own])


def remember(reputation: Reputation[bytes], link: Link, judgement: Judgement) -> Reputation[bytes]:
    """The reputation after the row of `link` as well; a row without a window says nothing of anybody."""
    members = [[member.client for member in item.members] for item in link.items]
    return reputation.after(zip(members, judgement.scores, strict=False))
