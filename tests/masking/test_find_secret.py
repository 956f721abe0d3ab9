"""A right subset of answers is found among wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl import masking
from asyncfl.errors import OpeningError
from asyncfl.federation import Federation
from asyncfl.masking.sharing import lagrange_weights
from tests.masking.builders import loads, make_federation, protect_members, share_sums
from tests.spec import ring_reference as reference

Q = 8380417
Change = Callable[[list[int]], list[int]]


def group(replicas: int, byzantine: int) -> tuple[Federation, list[masking.Protected], dict[int, bytes]]:
    federation = make_federation(50, replicas=replicas, byzantine=byzantine)
    uploads = protect_members(federation, 3)
    return federation, uploads, share_sums(federation, uploads)


def changed(answer: bytes, change: Change) -> bytes:
    return reference.pack([value % Q for value in change(reference.unpack(answer, 64))], 64)


LIES: dict[str, Change] = {
    "zero": lambda values: [0] * len(values),
    "constant": lambda values: [1234567] * len(values),
    "off by one everywhere": lambda values: [value + 1 for value in values],
    "off by one in one coefficient": lambda values: [values[0] + 1, *values[1:]],
    "half the modulus off in one coefficient": lambda values: [*values[:-1], values[-1] + Q // 2],
    "negated": lambda values: [-value for value in values],
    "shifted": lambda values: values[1:] + values[:1],
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("replicas", "byzantine"), [(4, 1), (7, 2), (10, 3)])
def test_liars_are_outvoted_whatever_they_say(lie: str, replicas: int, byzantine: int) -> None:
    federation, uploads, answers = group(replicas, byzantine)
    honest = masking.find_secret(loads(uploads), answers, federation)
    for first in range(replicas - byzantine + 1):
        liars = range(first, first + byzantine)
        told = answers | {index: changed(answers[index], LIES[lie]) for index in liars}
        right = tuple(index for index in range(replicas) if index not in liars)
        for distrusted in ((), liars, right):
            assert masking.find_secret(loads(uploads), told, federation, distrusted=distrusted) == honest
            assert masking.find_wrong(told, federation, distrusted=distrusted) == (right, tuple(liars))


def test_two_liars_whose_errors_cancel_change_nothing() -> None:
    """With weights c_0 e_0 + c_1 e_1 = 0 a subset with both liars opens too; the liars are found, once n-t agree."""
    federation, uploads, answers = group(7, 2)
    honest = masking.find_secret(loads(uploads), answers, federation)
    first, second = lagrange_weights([1, 2, 3], 0, Q)[:2]
    factor = -first * pow(second, -1, Q)
    error = [int(value) for value in torch.randint(1, Q, (64,), generator=torch.Generator().manual_seed(3))]
    told = answers | {
        0: changed(answers[0], lambda values: [v + e for v, e in zip(values, error, strict=True)]),
        1: changed(answers[1], lambda values: [v + factor * e for v, e in zip(values, error, strict=True)]),
    }
    only_liars = {index: told[index] for index in (0, 1, 2)}
    assert masking.find_secret(loads(uploads), only_liars, federation) == honest
    assert masking.find_secret(loads(uploads), told, federation) == honest
    few = {index: told[index] for index in range(6)}
    assert masking.find_wrong(few, federation) == ((), ())
    assert masking.find_wrong(told, federation) == ((2, 3, 4, 5, 6), (0, 1))


@pytest.mark.parametrize("answer", [b"", bytes(183), b"\xff" * 184, bytes(368)])
def test_malformed_answers_are_passed_over(answer: bytes) -> None:
    federation, uploads, answers = group(4, 1)
    honest = masking.find_secret(loads(uploads), answers, federation)
    assert masking.find_secret(loads(uploads), answers | {2: answer}, federation) == honest
    assert masking.find_wrong(answers | {2: answer}, federation) == ((0, 1, 3), (2,))


def test_too_many_liars_raise_and_open_nothing() -> None:
    federation, uploads, answers = group(4, 1)
    told = answers | {index: changed(answers[index], LIES["constant"]) for index in (0, 1, 2)}
    with pytest.raises(OpeningError, match="too many of them are wrong"):
        masking.find_secret(loads(uploads), told, federation)


def test_answers_for_another_group_do_not_open() -> None:
    federation, uploads, _ = group(4, 1)
    with pytest.raises(OpeningError):
        masking.find_secret(loads(uploads), share_sums(federation, uploads[:2]), federation)


def test_the_largest_federation_finds_its_secret_among_eight_thousand_subsets() -> None:
    federation, uploads, answers = group(16, 5)
    honest = masking.find_secret(loads(uploads), answers, federation)
    told = answers | {index: changed(answers[index], LIES["off by one everywhere"]) for index in range(5)}
    assert masking.find_secret(loads(uploads), told, federation) == honest


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_n_minus_2t_right_answers_suffice(data: st.DataObject) -> None:
    federation, uploads, answers = _SHARED
    right = data.draw(st.lists(st.integers(0, 6), min_size=3, max_size=7, unique=True))
    wrong = data.draw(
        st.lists(st.sampled_from([i for i in range(7) if i not in right] or [7]), max_size=2, unique=True)
    )
    told = {index: answers[index] for index in right}
    told |= {index: changed(answers[index], LIES["shifted"]) for index in wrong if index < 7}
    secret = masking.find_secret(loads(uploads), told, federation)
    assert masking.open_sum((upload.payload for upload in uploads), secret, federation).shape == (50,)


_SHARED = group(7, 2)
