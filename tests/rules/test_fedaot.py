"""FedAOT: nobody is left out, the worse weigh less, and what it learns follows the hold-out gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asyncfl.errors import ParameterError, RuleError
from asyncfl.rules import FedAOT, Trust, Weighed
from asyncfl.rules.arithmetic import FAST
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


def epochs(attack: str, count: int, *, holdout: bool) -> Weighed:
    rule = FedAOT()
    for epoch in range(count):
        updates, truth = cohort(epoch, attack)
        weighed = rule.step(updates, BAD, (lambda _, truth=truth: -truth) if holdout else None)  # type: ignore[misc]
        rule = replace(rule, trust=weighed.trust)
    return weighed


@pytest.mark.parametrize("holdout", [True, False])
@pytest.mark.parametrize("attack", ["sign flip", "scaling", "noise"])
def test_two_fifths_of_bad_inputs_weigh_next_to_nothing(attack: str, holdout: bool) -> None:
    weighed = epochs(attack, 4, holdout=holdout)
    assert float(weighed.weights[:BAD].sum()) < 0.05
    assert float(weighed.weights.sum()) == 1.0
    _, truth = cohort(0, attack)
    assert torch.cosine_similarity(weighed.aggregate, truth, dim=0) > 0.3


def test_a_feature_that_goes_with_the_loss_gains_weight() -> None:
    weighed = epochs("sign flip", 6, holdout=True)
    learned = dict(zip(FEATURES, weighed.trust.weights, strict=True))
    assert learned["holdout"] > Trust().weights[0]
    assert weighed.trust.epoch == 6


def test_the_aggregate_is_no_longer_than_the_median_input() -> None:
    updates, _ = cohort(1, "scaling")
    lengths = updates.norm(dim=1)
    assert FedAOT()(updates, BAD).norm() <= lengths.median() * 1.001


def test_one_input_is_taken_as_it_is() -> None:
    one = torch.linspace(-1, 1, 9)[None]
    assert torch.allclose(FedAOT()(one), one[0])


def test_features_are_judged_on_a_scale_that_a_minority_does_not_choose() -> None:
    raw = torch.randn(20, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spoilt = raw.clone()
    spoilt[:9] = 1e12
    assert (standardise(raw, FAST)[9:] - standardise(spoilt, FAST)[9:]).abs().max() < 3.0
    assert standardise(spoilt, FAST)[9:].std() > 0.1


def test_a_gradient_that_is_none_is_refused() -> None:
    updates, _ = cohort(1, "noise")
    with pytest.raises(RuleError, match="hold-out gradient must be finite and of 2000"):
        FedAOT().step(updates, BAD, lambda aggregate: aggregate[:5])
    with pytest.raises(ParameterError, match="memory = 1"):
        FedAOT(memory=1.0)
