"""The model as a pure function of a set of ledger items: model(version) = fold over rows in order.

Exact by construction, so that replicas agree to the last bit: sums of integers, or a rule that is exact itself
(`asyncfl.rules`) over the groups of a row's window; one elementwise float64 multiplication, rounded to a multiple of
2^-32, per row; those rounded integers are added, so that the order of arrival is irrelevant (protocol section 6).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from asyncfl.digest import content_digest
from asyncfl.effects import Blobs
from asyncfl.federation import Federation
from asyncfl.group_rules import GroupRule, make_group_rule
from asyncfl.ledger import Link
from asyncfl.masking import decode_sum
from asyncfl.optimisers import FRACTION, LIMIT, advance, start_moments
from asyncfl.reputation import Reputation
from asyncfl.rows import (
    EXPECTED_ROWS,
    RowSum,
    compute_divisor,
    compute_expected,
    compute_presence,
    row_statistics,
    sum_row,
)
from asyncfl.rules import Trust
from asyncfl.statistics import RowStatistics
from asyncfl.windows import Inputs, Judgement, Read, find_window, judge, read_inputs, remember

CACHED_STATES = 12
OTHERS_STATES = 4


def compute_contribution(row: RowSum, divisor: float, federation: Federation) -> Tensor:
    """A row's contribution, int64 [d] in units of 2^-32: the mean update, times the server's rate for `sgd`."""
    parameters = federation.parameters
    rate = parameters.server_learning_rate if parameters.server_optimizer == "sgd" else 1.0
    share = rate / divisor
    values = row.total[: federation.dimension].to(torch.float64)
    for segment in federation.model_segments:
        values[segment.start : segment.stop] *= share * segment.clip / segment.bound * FRACTION
    return values.round_().clamp_(-LIMIT, LIMIT).to(torch.int64)


def scale_result(result: Tensor, presence: float, federation: Federation) -> Tensor:
    """The same of a rule's `result` [dimension], in units of the clip, for a row that is there so far."""
    parameters = federation.parameters
    rate = parameters.server_learning_rate if parameters.server_optimizer == "sgd" else 1.0
    values = result.clone()
    for segment in federation.model_segments:
        values[segment.start : segment.stop] *= rate * presence * segment.clip * FRACTION
    return values.round_().clamp_(-LIMIT, LIMIT).to(torch.int64)


def apply_total(initial: bytes, total: Tensor) -> bytes:
    """Canonical model bytes (float32 little-endian) of the initial model plus a fold state int64 [d]."""
    start = torch.frombuffer(bytearray(initial), dtype=torch.float32).to(torch.float64)
    return (start + total.to(torch.float64) / FRACTION).to(torch.float32).numpy().tobytes()


def expected_members(link: Link, roster_size: int) -> int:
    """Members to expect in the row of `link`: the median of the five rows before, `roster_size` in the first.

    `roster_size` is the first roster's: later ones are not in the version, and must not change its model.
    """
    before = islice(link.back(), 1, 1 + EXPECTED_ROWS)
    return compute_expected([each.members for each in before], roster_size)


@dataclass(frozen=True, slots=True)
class FoldState:
    """What the fold carries from one row to the next. Its tensors are never changed in place.

    `total` is the model's displacement so far, int64 [d] in units of 2^-32. `first` and `second` are the server
    optimiser's moments of the weights, int64 [weights], where it has any. `rows` counts the rows folded in;
    `masses` are those of the last five rows, where uploads carry their weight.
    """

    total: Tensor
    first: Tensor | None = None
    second: Tensor | None = None
    rows: int = 0
    masses: tuple[int, ...] = ()
    statistics: tuple[RowStatistics, ...] = ()
    """Of all rows so far, where metrics are on."""
    judgement: Judgement | None = None
    """What the rule saw at the last row; None with the mean, which sees no group."""
    reputation: Reputation[bytes] | None = None
    """What all rows so far say of clients, by key, where the deployment keeps it."""
    trust: Trust | None = None
    """What FedAOT has learned from the rows so far."""

    @classmethod
    def start(cls, federation: Federation) -> FoldState:
        """Before the first row."""
        first, second = start_moments(federation.parameters, federation.weights)
        reputation = Reputation[bytes]() if federation.parameters.reputation else None
        total = torch.zeros(federation.dimension, dtype=torch.int64)
        return cls(total, first, second, reputation=reputation)

    def after(self, contribution: Tensor, federation: Federation) -> FoldState:
        """The state one row later. Buffers move by the mean alone: momentum would overshoot a variance."""
        weights = federation.weights
        step, (first, second) = advance(
            federation.parameters, contribution[:weights], (self.first, self.second)
        )
        total = self.total + contribution
        if first is not None:
            total[:weights] = self.total[:weights] + step
        total.clamp_(-int(LIMIT), int(LIMIT))
        return replace(self, total=total, first=first, second=second, rows=self.rows + 1)


def fold_row(
    state: FoldState, sums: Iterable[tuple[Tensor, int]], epoch: int, expected: int, federation: Federation
) -> FoldState:
    """The state after one more row: (opened sum int32 [upload dimension], members) of its entries, in any order.

    By the mean.
    """
    row = sum_row(sums, federation)
    divisor = compute_divisor(row, expected, state.masses, federation)
    after = state.after(compute_contribution(row, divisor, federation), federation)
    return _with_row(after, row, epoch, federation)


def _with_row(state: FoldState, row: RowSum, epoch: int, federation: Federation) -> FoldState:
    """`state`, which has moved by `row`, with what the row says to those after it."""
    masses = (*state.masses, row.mass)[-EXPECTED_ROWS:] if federation.weight_segment else ()
    told = (row_statistics(epoch, row, federation),) if federation.metrics_segment else ()
    return replace(state, masses=masses, statistics=state.statistics + told)


class Folder:
    """Folds rows in order. It holds the groups of the last row's window, and no others.

    `roster_size` is the first roster's; `read` gives an opened sum by digest, as it is stored.
    """

    def __init__(self, federation: Federation, roster_size: int, read: Read) -> None:
        self.federation = federation
        self.roster_size = roster_size
        self.read = read
        parameters = federation.parameters
        self._rule = make_group_rule(parameters) if parameters.judges_groups else None
        self._inputs: dict[bytes, Inputs] = {}

    def after(self, state: FoldState, link: Link) -> FoldState:
        """The state after the row of `link`; `state` is the one after all rows before."""
        expected = expected_members(link, self.roster_size)
        if self._rule is not None:
            return self._judge(state, link, expected, self._rule)
        dimension = self.federation.upload_dimension
        sums = ((decode_sum(self.read(item.opened), dimension), len(item.members)) for item in link.items)
        return fold_row(state, sums, link.epoch, expected, self.federation)

    def _judge(self, state: FoldState, link: Link, expected: int, rule: GroupRule) -> FoldState:
        federation, window = self.federation, find_window(link, self.federation, rule)
        links = (link,) if window is None else window.links
        self._inputs = {
            each.chain: self._inputs.get(each.chain) or read_inputs(each, self.read, federation)
            for each in links
        }
        row = self._inputs[link.chain].row
        if window is None:
            moved, judgement = replace(state, rows=state.rows + 1), Judgement()
        else:
            means = torch.cat([self._inputs[each.chain].means for each in links])
            result, trust, judgement = judge(window, means, rule, state.reputation, state.trust)
            divisor = compute_divisor(row, expected, state.masses, federation)
            presence = compute_presence(row, divisor, federation)
            moved = state.after(scale_result(result, presence, federation), federation)
            moved = replace(moved, trust=trust)
        known = state.reputation
        return replace(
            _with_row(moved, row, link.epoch, federation),
            judgement=judgement,
            reputation=None if known is None else remember(known, link, judgement),
        )


class FoldCache:
    """Fold states after recent rows, by chain value: O(rows in flight * d) memory.

    A late entry changes the chain from its row on, so that just those rows are added up again. What is computed for
    versions that only others hold is kept apart: a replica that shows one version after the other, none of which has
    the first item, would else have every model computed anew from the first row.
    """

    def __init__(self, limit: int = CACHED_STATES, others: int = OTHERS_STATES) -> None:
        self._own: OrderedDict[bytes, FoldState] = OrderedDict()
        self._others: OrderedDict[bytes, FoldState] = OrderedDict()
        self._limits = {True: limit, False: others}

    def get(self, chain: bytes, *, own: bool) -> FoldState | None:
        state = self._own.get(chain)
        if state is not None and own:
            self._own.move_to_end(chain)
        return state or self._others.get(chain)

    def put(self, chain: bytes, state: FoldState, *, own: bool) -> None:
        """`own`: of a version of this replica's own ledger."""
        states = self._own if own else self._others
        states[chain] = state
        while len(states) > self._limits[own]:
            states.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Folded:
    """A model that was computed: its digest and size in bytes, and what the rows say of the models before them."""

    model: bytes
    size: int
    statistics: tuple[RowStatistics, ...]
    reputation: Reputation[bytes] | None = None


@dataclass(frozen=True, slots=True)
class FoldJob:
    """Compute the model of a version off the event loop."""

    federation: Federation
    initial: bytes
    head: Link
    """The version."""
    roster_size: int
    cache: FoldCache
    own: bool = True
    """Whether the version is one of this replica's own ledger."""

    def run(self, blobs: Blobs) -> Folded:
        state = self.state(blobs)
        data = apply_total(self.initial, state.total)
        blobs.write(data)
        return Folded(content_digest(data), len(data), state.statistics, state.reputation)

    def model(self, blobs: Blobs) -> bytes:
        """Canonical bytes of the model."""
        return apply_total(self.initial, self.state(blobs).total)

    def state(self, blobs: Blobs) -> FoldState:
        """What the fold holds after the last row."""
        state, changed = FoldState.start(self.federation), []
        for link in self.head.back():
            cached = self.cache.get(link.chain, own=self.own)
            if cached is not None:
                state = cached
                break
            changed.append(link)
        folder = Folder(self.federation, self.roster_size, blobs.read)
        for link in reversed(changed):
            state = folder.after(state, link)
            self.cache.put(link.chain, state, own=self.own)
        return state
