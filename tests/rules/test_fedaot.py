"""FedAOT: nobody is left out, the worse weigh less, and what it learns follows the hold-out gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asyncfl.errors import ParameterError, RuleError
from asyncfl.rules import FedAOT, Trust, Weighed
from asyncfl.rules.arithmetic import FAST
from asyncfl.rules.fedaot import weighted_median
from asyncfl.rules.fedaot_features import FEATURES, standardise

DIMENSION, HONEST, BAD = 2000, 12, 8


def cohort(seed: int, attack: str) -> tuple[Tensor, Tensor]:
    """(updates, the direction that honest ones share): the bad ones come first."""
    made = torch.Generator().manual_seed(seed)
    truth = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(99))
    updates = truth * 0.05 + 0.2 * torch.randn(HONEST + BAD, DIMENSION, generator=made)
    match attack:
        case "sign flip":
            updates[:BAD] *= -1
        case "scaling":
            updates[:BAD] *= -10
        case "noise":
            updates[:BAD] = 0.5 * torch.randn(BAD, DIMENSION, generator=made)
    return updates, truth


def slope(gradient: Tensor, aggregate: Tensor) -> Tensor:
    """Of a loss that is linear."""
    return gradient


def epochs(attack: str, count: int, *, holdout: bool, trust: Trust | None = None) -> Weighed:
    rule = FedAOT(trust=trust or Trust())
    for epoch in range(count):
        updates, truth = cohort(epoch, attack)
        weighed = rule.step(updates, BAD, partial(slope, -truth) if holdout else None)
        rule = replace(rule, trust=weighed.trust)
    return weighed


@pytest.mark.parametrize("holdout", [True, False])
@pytest.mark.parametrize("size", [1e15, 1e25, 3e38])
def test_even_where_most_inputs_are_huge_the_aggregate_is_finite(size: float, holdout: bool) -> None:
    updates, truth = cohort(0, "noise")
    updates[: HONEST + 1] = truth.sign() * -size
    weighed = FedAOT().step(updates, 0, partial(slope, -truth) if holdout else None)
    assert torch.isfinite(weighed.aggregate).all()
    again = FedAOT(trust=weighed.trust).step(updates, 0, partial(slope, -truth) if holdout else None)
    assert torch.isfinite(again.aggregate).all()
    assert all(math.isfinite(weight) for weight in again.trust.weights)


@pytest.mark.parametrize("holdout", [True, False])
@pytest.mark.parametrize("attack", ["sign flip", "scaling", "noise"])
def test_two_fifths_of_bad_inputs_weigh_next_to_nothing(attack: str, holdout: bool) -> None:
    weighed = epochs(attack, 4, holdout=holdout)
    assert float(weighed.weights[:BAD].sum()) < 0.05
    assert 0.5 < float(weighed.weights.sum()) <= 1.0
    _, truth = cohort(0, attack)
    assert torch.cosine_similarity(weighed.aggregate, truth, dim=0) > 0.3


def test_a_feature_that_goes_with_the_loss_gains_weight() -> None:
    equal = (0.4,) * len(FEATURES)
    weighed = epochs("sign flip", 6, holdout=True, trust=Trust(weights=equal))
    learned = dict(zip(FEATURES, weighed.trust.weights, strict=True))
    assert learned["holdout"] > 0.4
    assert weighed.trust.epoch == 6


def test_the_aggregate_is_no_longer_than_the_median_input() -> None:
    updates, _ = cohort(1, "scaling")
    lengths = updates.norm(dim=1)
    assert FedAOT()(updates, BAD).norm() <= lengths.median() * 1.001


def test_where_every_input_is_bad_next_to_nothing_is_done() -> None:
    """As groups are in some epochs."""
    rule = FedAOT()
    for epoch in range(4):
        updates, truth = cohort(epoch + 1, "scaling")
        weighed = rule.step(updates[:BAD], 0, partial(slope, -truth))
        rule = replace(rule, trust=weighed.trust)
    assert float(weighed.weights.sum()) < 0.1
    assert weighed.aggregate.norm() < 0.05 * updates[:BAD].norm(dim=1).min()


def test_long_inputs_do_not_count_as_longer_than_trusted_ones_were() -> None:
    first, truth = cohort(1, "none")
    rule = FedAOT()
    rule = replace(rule, trust=rule.step(first, 0, lambda _: -truth).trust)
    later, _ = cohort(2, "none")
    weighed = rule.step(100 * later, 0, lambda _: -truth)
    assert weighed.aggregate.norm() <= first.norm(dim=1).max()


@given(
    st.lists(st.integers(1, 9), min_size=8, max_size=8), st.lists(st.integers(0, 7), min_size=8, max_size=8)
)
def test_the_weighted_median_is_that_of_values_repeated_by_weight(
    values: list[int], holders: list[int]
) -> None:
    """Eight units of weight, each given to one of eight values."""
    shares = torch.bincount(torch.tensor(holders), minlength=8).double() / 8
    repeated = sorted(values[holder] for holder in holders)
    assert weighted_median(torch.tensor(values, dtype=torch.float64), shares) == repeated[3]


def test_one_input_is_taken_as_it_is() -> None:
    one = torch.linspace(-1, 1, 9)[None]
    assert torch.allclose(FedAOT()(one), one[0])


def test_features_are_judged_on_a_scale_that_a_minority_does_not_choose() -> None:
    raw = torch.randn(20, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spoilt = raw.clone()
    spoilt[:9] = 1e12
    assert (standardise(raw, raw, FAST)[9:] - standardise(spoilt, spoilt, FAST)[9:]).abs().max() < 3.0
    assert standardise(spoilt, spoilt, FAST)[9:].std() > 0.1


def test_a_gradient_that_is_none_is_refused() -> None:
    updates, _ = cohort(1, "noise")
    with pytest.raises(RuleError, match="hold-out gradient must be finite and of 2000"):
        FedAOT().step(updates, BAD, lambda aggregate: aggregate[:5])
    with pytest.raises(ParameterError, match="memory = 1"):
        FedAOT(memory=1.0)
