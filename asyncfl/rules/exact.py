"""Sums and inner products whose bits depend on no machine, library, or number of threads.

A matrix product adds in an order of its library's choice, and may fuse. It is exact, and so the same everywhere, where
all partial sums are integers below 2^53. So each input is rounded to integers of at most 2^20, with a scale of its own
(a power of two, from its largest coordinate: a huge input costs nobody else's resolution), products of at most 2^12
coordinates at a time are taken in float64, and these are added as int64. An inner product is off by a relative 2^-20 of
the inputs' largest coordinates, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ldexp
from typing import Final

import numpy as np
import torch
from torch import Tensor

CHUNK: Final = 1 << 12
"""Coordinates at a time, at most: 2^20 * 2^20 * 2^12 < 2^53."""
_CACHED: Final = 1 << 18
"""Numbers of a block: 2 MiB, so that it stays in the processor's cache while it is worked on."""
BITS: Final = 20
_NARROW: Final = 64
"""Columns up to which rows are no longer worth adding by halves side by side."""
_MIDDLE: Final = 256
"""Squares of numbers between 2^-256 and 2^256, and sums of them, are far from both ends of float64."""


def column_places(updates: Tensor) -> Iterator[slice]:
    """Ranges of columns of `updates` [n, d], so that no second copy of all of it is needed."""
    width = min(CHUNK, max(256, _CACHED // max(1, len(updates))))
    for start in range(0, updates.shape[1], width):
        yield slice(start, min(start + width, updates.shape[1]))


def column_blocks(updates: Tensor, rows: list[int] | None = None) -> Iterator[tuple[slice, Tensor]]:
    """(place, a copy of these columns in float64 [n, <= CHUNK]) of `updates` [n, d]; the next takes its memory.

    With `rows` of these alone, in that order.
    """
    space = _Space(torch.float64)
    for place in column_places(updates):
        block = updates[:, place] if rows is None else updates[:, place][rows]
        yield place, space.of(block).copy_(block)


class _Space:
    """Memory for one block after the other: to ask for it anew each time takes longer than most of the arithmetic."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._held = torch.empty(0, dtype=dtype)

    def of(self, block: Tensor) -> Tensor:
        """Contiguous, and of the size of `block`."""
        if self._held.numel() < block.numel():
            self._held = torch.empty(block.numel(), dtype=self._held.dtype)
        return self._held[: block.numel()].view(block.shape)


def tree_sum(values: Tensor) -> Tensor:
    """Sum over the first axis of `values` [n, ...] as a fixed tree of elementwise additions in their dtype."""
    count = len(values)
    if count == 1:
        return values[0]
    half = (count + 1) // 2
    block = values[:half].clone()
    block[: count - half] += values[half:]
    return tree_sum_in(block)


def tree_sum_in(block: Tensor) -> Tensor:
    """The same, written over `block`."""
    rows, count = block.numpy(), len(block)  # NumPy takes a third of the time to begin with it.
    while count > 1:
        half = (count + 1) // 2
        np.add(rows[: count - half], rows[half:count], out=rows[: count - half])
        count = half
    return block[0]


def _row_sums_in(block: Tensor) -> Tensor:
    """The sum [n] of each row of `block` [n, width] as that tree, written over `block`."""
    count = block.shape[1]
    while count > _NARROW:
        half = (count + 1) // 2
        block.narrow(1, 0, count - half).add_(block.narrow(1, half, count - half))
        count = half
    return tree_sum_in(block[:, :count].T.contiguous())


def mean(updates: Tensor, rows: list[int] | None = None) -> Tensor:
    """The mean [d] of `updates` [n, d], or of these `rows` of it, in float64."""
    count = len(updates) if rows is None else len(rows)
    return weighted_sum(updates, torch.ones(count, dtype=torch.float64), rows) / count


def weighted_sum(updates: Tensor, weights: Tensor, rows: list[int] | None = None) -> Tensor:
    """The sum [d] of `updates` [n, d], or of these `rows` of it, each times its weight, float64 [n]."""
    result = torch.empty(updates.shape[1], dtype=torch.float64)
    for place, block in column_blocks(updates, rows):
        result[place] = tree_sum_in(block.mul_(weights[:, None]))
    return result


def member_sums(updates: Tensor, members: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(place, block [m, width] in float64): the sum of the `updates` [n, d] that each row of `members` [m, n] has True.

    Many sums at once as matrix products: inputs of one scale are rounded to integers so large that sums of n of them
    are exact, a relative 2^-40 of their largest coordinates for n up to 4095. The scales' sums are added in ascending
    order, so that a huge input takes nothing from sums that it is not in.
    """
    bits = 52 - len(updates).bit_length()
    exponents, chosen = _exponents(updates), members.to(torch.float64)
    scales = [(scale, exponents == scale) for scale in sorted(set(exponents.tolist()))]
    for place, block in column_blocks(updates):
        sums = torch.zeros((len(members), block.shape[1]), dtype=torch.float64)
        for scale, of_scale in scales:
            whole = (block[of_scale] * ldexp(1.0, bits - scale)).round_()
            sums += (chosen[:, of_scale] @ whole) * ldexp(1.0, scale - bits)
        yield place, sums


def norms(updates: Tensor, centre: Tensor | None = None) -> Tensor:
    """The length [n] of each of `updates` [n, d], or of its difference from `centre` [d], in float64."""
    squares = torch.zeros(len(updates), dtype=torch.float64)
    for place, block in column_blocks(updates):
        if centre is not None:
            block.sub_(centre[place])
        squares += _row_sums_in(block.mul_(block))
    return roots(squares)


def roots(values: Tensor) -> Tensor:
    """Square roots, correctly rounded on every machine: `torch.sqrt` is not where a vector library does it."""
    found: Tensor = torch.from_numpy(np.sqrt(values.numpy()))
    return found


def sort_columns(updates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(place, block [n, <= width] in float64 with every column in ascending order)."""
    for place in column_places(updates):
        block = np.ascontiguousarray(updates[:, place].numpy())
        yield (
            place,
            torch.from_numpy(np.sort(block, axis=0)).to(torch.float64),
        )  # 10 times faster than torch.sort


def inner_products(updates: Tensor, others: Tensor) -> Tensor:
    """All inner products, float64 [n, m], of `updates` [n, d] with `others` [m, d]: exact ones of rounded inputs."""
    dimension = updates.shape[1]
    bits = BITS
    while dimension << (2 * bits) > 1 << 62:
        bits -= 1
    left, right = _exponents(updates) - bits, _exponents(others) - bits
    numbers = torch.zeros((len(others), len(updates)), dtype=torch.int64)
    one_by_one, other_by_other = _Rounding(left, updates.dtype), _Rounding(right, others.dtype)
    for place in column_places(updates):
        one = one_by_one.of(updates[:, place])
        other = one if others is updates else other_by_other.of(others[:, place])
        numbers += (other @ one.T).to(torch.int64)
    return numbers.T.to(torch.float64) * power_of_two(left)[:, None] * power_of_two(right)


def squared_distances(updates: Tensor) -> Tensor:
    """float64 [n, n], zero on the diagonal and between equal inputs."""
    products = inner_products(updates, updates)
    lengths = torch.diagonal(products)
    squared = lengths[:, None] + lengths[None, :] - 2.0 * products
    return squared.nan_to_num(nan=torch.inf).clamp_(
        min=0.0
    )  # Of inputs beyond the range of squares: far apart.


def of_middle_size(updates: Tensor) -> tuple[Tensor, Tensor]:
    """(`updates` [n, d] times powers of two so that no row's squares vanish or overflow, the powers' exponents [n]).

    A copy only where there is such a row; others stay as they are, with power 0.
    """
    exponents = _exponents(updates)
    powers = torch.where(exponents.abs() > _MIDDLE, -exponents, torch.zeros_like(exponents)).clamp_(min=-1000)
    return (updates * power_of_two(powers)[:, None] if bool(powers.any()) else updates), powers


def power_of_two(exponents: Tensor) -> Tensor:
    """2^e, exactly, in float64; `exponents` int32. (`torch.ldexp` goes by way of float32 powers in some versions.)"""
    return torch.from_numpy(np.ldexp(1.0, exponents.numpy()))


class _Rounding:
    """Blocks of rows as integers, in units of 2^`exponents` [n] each, in float64.

    Rounded as float32 where that has these powers of two, and so has the integers: half of the memory to pass over.
    """

    def __init__(self, exponents: Tensor, dtype: torch.dtype) -> None:
        self._powers = power_of_two(-exponents)[:, None]
        single = dtype == torch.float32 and float(self._powers.max()) < 2.0**127
        self._rounded, self._result = (
            _Space(torch.float32 if single else torch.float64),
            _Space(torch.float64),
        )
        self._powers = self._powers.to(torch.float32) if single else self._powers

    def of(self, block: Tensor) -> Tensor:
        """The next one takes its memory."""
        rounded = torch.mul(block, self._powers, out=self._rounded.of(block)).round_()
        return rounded if rounded.dtype == torch.float64 else self._result.of(block).copy_(rounded)


def _exponents(updates: Tensor) -> Tensor:
    """int32 [n]: the least e with |coordinates| <= 2^e, from -960 on: 2^(52 - e) is finite."""
    largest = torch.maximum(updates.amax(dim=1), -updates.amin(dim=1))  # 5 times faster than abs or aminmax.
    exponents = torch.frexp(largest.to(torch.float64)).exponent
    return exponents.to(torch.int32).clamp_(min=-960)
