"""Residues mod q < 2^23 at 23 bits each.

A block of N coefficients is a matrix [32, N/32]: coefficient i stands at row i // (N/32). Each column's 32
coefficients, 23 bits each from the lowest up, are one number of 736 bits; its 23 little-endian 32-bit words
are stored word-major: `[23, N/32]` words, 23*N/8 bytes a block. 32 coefficients fill 23 words exactly, and
all N/32 columns (of all blocks at a time) are shifted and joined by the same vector operations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from asyncfl.errors import InvalidItem
from asyncfl.ring.transform import ROWS

BITS: Final = 23
_MASK: Final = (1 << BITS) - 1
_WORD: Final = 32
_SMALL: Final = 1 << 16
"""Coefficients below which the number of operations costs more than the memory that they go through."""


def packed_bytes(blocks: int, degree: int) -> int:
    """Size of `blocks` packed blocks."""
    return blocks * degree * BITS // 8


def pack(lanes: Tensor, out: Tensor | None = None) -> Tensor:
    """Words [B, 23, C] (int32) of residues [32, B, C] (int32, in [0, q)), into the view `out` if given."""
    if out is None:
        blocks, columns = lanes.shape[1:]
        out = torch.empty((blocks, BITS, columns), dtype=torch.int32, device=lanes.device)
    if lanes.numel() < _SMALL:
        return out.copy_(_words_at_once(lanes).permute(1, 0, 2))
    coefficients = lanes.unbind(0)
    word = torch.empty(lanes.shape[1:], dtype=torch.int32, device=lanes.device)
    part = torch.empty_like(word)
    for index, stored in enumerate(out.unbind(1)):
        first = index * _WORD // BITS
        last = min(((index + 1) * _WORD - 1) // BITS, ROWS - 1)
        for position in range(first, last + 1):
            target = word if position == first else part
            shift = position * BITS - index * _WORD
            if shift >= 0:
                torch.bitwise_left_shift(coefficients[position], shift, out=target)
            else:
                torch.bitwise_right_shift(coefficients[position], -shift, out=target)
            if position != first:
                word.bitwise_or_(part)
        # Joined in contiguous memory first: only finished words go to their place in each block.
        stored.copy_(word)
    return out


def _words_at_once(lanes: Tensor) -> Tensor:
    """Words [23, B, C] of coefficients [32, B, C], through 64-bit words: each joins parts of three coefficients."""
    index, left, right = _parts(lanes.device)
    parts = lanes.to(torch.int64)[index].bitwise_left_shift_(left).bitwise_right_shift_(right)
    return (parts[0] | parts[1] | parts[2]).to(torch.int32)  # The conversion keeps the lowest 32 bits.


@lru_cache(maxsize=8)
def _parts(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every word the three coefficients from the one that it begins in, and how far each is shifted."""
    word = torch.arange(BITS, device=device)
    position = word * _WORD // BITS + torch.arange(3, device=device)[:, None]
    shift = (position * BITS - word * _WORD)[:, :, None, None]
    # What begins beyond the word is shifted out of it; there the place may as well be the last.
    return position.clamp(max=ROWS - 1), shift.clamp(0, _WORD), (-shift).clamp(min=0)


def unpack(data: bytes | memoryview, degree: int, modulus: int, device: torch.device) -> Tensor:
    """Residues [32, B, C] (int32) of packed blocks.

    Raises `InvalidItem` when the length is not a whole number of blocks or a coefficient is >= q.
    """
    columns = degree // ROWS
    if not data or len(data) % packed_bytes(1, degree):
        raise InvalidItem(
            f"{len(data)} bytes are not a whole number of packed blocks of {degree} coefficients"
        )
    stored = np.frombuffer(data, dtype="<i4").reshape(-1, BITS, columns)
    words = torch.from_numpy(stored.transpose(1, 0, 2).astype(np.int32, order="C")).to(device)
    lanes = _lanes_at_once(words) if 8 * len(data) < BITS * _SMALL else _lanes(words)
    if int(lanes.max()) >= modulus:
        raise InvalidItem(f"a packed coefficient is not below the modulus {modulus}")
    return lanes


def _lanes_at_once(words: Tensor) -> Tensor:
    """Coefficients [32, B, C] of words [23, B, C], through 64-bit words of which each holds a whole coefficient."""
    unsigned = words.to(torch.int64).bitwise_and_((1 << _WORD) - 1)
    first, following, shift = _places(words.device)
    pair = (unsigned[following] << _WORD).bitwise_or_(unsigned[first])
    return pair.bitwise_right_shift_(shift).bitwise_and_(_MASK).to(torch.int32)


@lru_cache(maxsize=8)
def _places(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every coefficient of a column the word that it begins in, the next one, and where in the first."""
    position = torch.arange(ROWS, device=device) * BITS
    first = position // _WORD
    following = (first + 1).clamp_(max=BITS - 1)  # The last coefficient ends with the last word.
    return first, following, (position % _WORD)[:, None, None]


def _lanes(words: Tensor) -> Tensor:
    """The same by many operations that each go through little memory."""
    lanes = torch.empty((ROWS, *words.shape[1:]), dtype=torch.int32, device=words.device)
    part = torch.empty_like(words[0])
    source = words.unbind(0)
    for position, coefficient in enumerate(lanes.unbind(0)):
        word, shift = divmod(position * BITS, _WORD)
        torch.bitwise_right_shift(source[word], shift, out=coefficient)
        if shift + BITS > _WORD:
            # >> keeps the sign, so cut to the bits that this word really holds before the rest is joined.
            coefficient.bitwise_and_((1 << (_WORD - shift)) - 1)
            torch.bitwise_left_shift(source[word + 1], _WORD - shift, out=part)
            coefficient.bitwise_or_(part)
        coefficient.bitwise_and_(_MASK)
    return lanes


def to_bytes(words: Tensor) -> bytes:
    """The canonical bytes of packed words."""
    return words.cpu().numpy().astype("<i4", copy=False).tobytes()
