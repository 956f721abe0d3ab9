"""Secret randomness comes from the operating system, is never repeated, and never from torch's generator."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from asyncfl.ring import SecretStream
from asyncfl.ring.stream import accepted_residues

Q = 8380417


def test_seeding_torch_and_numpy_does_not_touch_the_stream() -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)
        outputs.append(bytes(SecretStream().take(64)))
    assert outputs[0] != outputs[1]


def test_the_stream_takes_nothing_from_torch() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    SecretStream().uniform(1000, Q)
    assert torch.equal(before, torch.get_rng_state())


def test_a_seeded_stream_is_reproducible_and_goes_on() -> None:
    one, two = SecretStream(bytes(32)), SecretStream(bytes(32))
    assert [bytes(one.take(7)), bytes(one.take(9))] == [bytes(two.take(7)), bytes(two.take(9))]
    assert bytes(one.take(32)) != bytes(one.take(32))


def test_every_request_erases_the_key_that_made_it() -> None:
    stream = SecretStream(bytes(32))
    stream.take(1)
    first = stream._key
    stream.take(1)
    assert len({bytes(32), first, stream._key}) == 3


def test_a_stream_is_redacted_and_never_copied() -> None:
    stream = SecretStream(b"\x11" * 32)
    assert "11" not in repr(stream)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never copied"):
            duplicate(stream)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(bytes(size))


def test_uniform_residues_are_below_the_modulus_and_spread() -> None:
    values = SecretStream(bytes(32)).uniform(64_000, Q)
    assert values.dtype == np.int32
    assert 0 <= values.min() <= values.max() < Q
    counts, _ = np.histogram(values, bins=64, range=(0, Q))
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 63 + 6 * (2 * 63) ** 0.5


def test_uniform_draws_on_when_rejection_leaves_too_few() -> None:
    values = SecretStream(bytes(32)).uniform(50, 1 << 16)  # 127 of 128 words are rejected
    assert len(values) == 50
    assert 0 <= values.min() <= values.max() < 1 << 16


def test_words_are_masked_to_23_bits_and_rejected_from_q_on() -> None:
    words = [0, 1, Q - 1, Q, (1 << 23) - 1, 1 << 23, (1 << 32) - 1, (1 << 31) | 5]
    data = b"".join(word.to_bytes(4, "little") for word in words)
    assert accepted_residues(data, Q).tolist() == [0, 1, Q - 1, 0, 5]
