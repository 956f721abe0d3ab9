"""Packing at 23 bits agrees with bit strings, and unpacking refuses what is no residue."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.errors import InvalidItem
from asyncfl.ring import from_lanes, pack, packed_bytes, to_lanes, unpack
from asyncfl.ring.packing import to_bytes
from tests.spec import ring_reference as reference

CPU = torch.device("cpu")
Q = 8380417
RESIDUES = st.one_of(st.integers(0, Q - 1), st.sampled_from([0, 1, Q - 1, 1 << 22]))


def packed(values: list[int], degree: int) -> bytes:
    return to_bytes(pack(to_lanes(torch.tensor(values, dtype=torch.int32), degree)))


def unpacked(data: bytes, degree: int) -> list[int]:
    return from_lanes(unpack(data, degree, Q, CPU)).flatten().tolist()


@given(st.integers(1, 3).flatmap(lambda n: st.lists(RESIDUES, min_size=64 * n, max_size=64 * n)))
@settings(max_examples=30)
def test_packing_agrees_with_bit_strings(values: list[int]) -> None:
    data = packed(values, 64)
    assert data == reference.pack(values, 64)
    assert unpacked(data, 64) == reference.unpack(data, 64) == values


@pytest.mark.parametrize("blocks", [1, 3, 65])
def test_packing_at_standard_size_agrees_with_bit_strings(blocks: int) -> None:
    values = torch.randint(0, Q, (blocks * 1024,), generator=torch.Generator().manual_seed(blocks)).tolist()
    data = packed(values, 1024)
    assert len(data) == packed_bytes(blocks, 1024) == blocks * 2944
    assert data == reference.pack(values, 1024)
    assert unpacked(data, 1024) == values


@pytest.mark.parametrize("position", [0, 1, 17, 63])
@pytest.mark.parametrize("value", [Q, Q + 1, (1 << 23) - 1])
def test_a_coefficient_from_q_on_is_refused(position: int, value: int) -> None:
    values = [0] * 64
    values[position] = value
    with pytest.raises(InvalidItem, match="not below the modulus"):
        unpack(reference.pack(values, 64), 64, Q, CPU)


@pytest.mark.parametrize("size", [0, 1, 183, 185, 2943])
def test_a_length_that_is_no_whole_number_of_blocks_is_refused(size: int) -> None:
    with pytest.raises(InvalidItem, match="whole number"):
        unpack(bytes(size), 64, Q, CPU)


def test_packing_may_write_into_a_larger_upload() -> None:
    words = torch.zeros(5, 23, 2, dtype=torch.int32)
    values = torch.arange(128, dtype=torch.int32)
    pack(to_lanes(values, 64), out=words[2:4])
    assert unpacked(to_bytes(words), 64) == [0] * 128 + values.tolist() + [0] * 64


@pytest.mark.parametrize("blocks", [1, 31, 32, 33, 200])
def test_few_and_many_blocks_unpack_alike(blocks: int) -> None:
    """Few blocks go through 64-bit words at once, many through the cache piece by piece."""
    degree, edges = 64 * 32, torch.tensor([0, 1, 2**22, Q - 1], dtype=torch.int32)
    lanes = torch.randint(0, Q, (32, blocks, degree // 32), dtype=torch.int32)
    lanes[:, 0, : len(edges)] = edges
    assert torch.equal(unpack(to_bytes(pack(lanes)), degree, Q, CPU), lanes)
