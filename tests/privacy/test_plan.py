"""The plan reproduces what experiments show, and its own figures agree with each other."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asyncfl.errors import ParameterError
from asyncfl.parameters import Parameters
from asyncfl.privacy.accountant import Mechanism, epsilon
from asyncfl.privacy.calibration import Budget
from asyncfl.privacy.plan import Wish, outcome, plan, smallest_usable_group, variations
from asyncfl.privacy.verdict import Run, Verdict
from node.cli import app

WISH = Wish(Budget(1.0, 1e-5), epochs=120, clients=1000, min_group=32)


def test_epsilon_1_over_120_epochs_wants_groups_of_hundreds_and_groups_of_3_train_nothing() -> None:
    verdicts = {
        group: outcome(replace(WISH, min_group=group)).verdict for group in (3, 32, 63, 128, 256, 512)
    }
    assert verdicts[3] == Verdict.UNUSABLE
    assert verdicts[512] == Verdict.USABLE
    assert all(verdicts[group] == Verdict.DOUBTFUL for group in (32, 63, 128, 256))
    few = replace(WISH, clients=300, server_learning_rate=0.05)
    assert outcome(few).verdict == Verdict.DOUBTFUL
    assert 150 < (smallest_usable_group(few, 44.31) or 0) <= 300


def test_a_generous_budget_with_groups_of_tens_is_usable() -> None:
    assert outcome(replace(WISH, budget=Budget(8.0, 1e-5), min_group=63)).verdict == Verdict.USABLE


def test_the_noise_is_that_of_a_deployment_with_these_parameters() -> None:
    found = outcome(WISH)
    parameters = Parameters.for_clients(
        1000, cell_size=48, min_group=32, noise_multiplier=found.noise_multiplier
    )
    in_model_units = parameters.payload_sigma / parameters.scale * parameters.clip
    # 1000 members' noise, divided by their number
    assert found.noise_per_parameter == pytest.approx(in_model_units * sqrt(1000) / 1000)
    assert found.noise_norm == pytest.approx(found.noise_per_parameter * sqrt(4810))
    assert found.error == pytest.approx(found.noise_norm / parameters.clip)
    assert found.epsilon == epsilon(Mechanism.of(parameters, 4810), 120, 1e-5) <= 1.0
    assert found.obstacle is None


def test_json_has_what_it_promises_in_plain_values() -> None:
    facts = plan(WISH)
    assert facts["noise_multiplier"] == pytest.approx(44.31, abs=0.01)
    assert facts["epsilon_pld_approximation"] < facts["epsilon"] <= 1.0
    assert facts["error"] * facts["signal_to_noise"] == pytest.approx(1.0)
    assert facts["verdict"] == "doubtful"
    assert {row["change"] for row in facts["sweep"]} == {
        "min_group", "epsilon", "epochs", "clip", "server_lr",
    }  # fmt: skip
    assert _is_plain(facts)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in {bool, int, float, str}


def test_the_smallest_usable_group_is_usable_and_the_next_smaller_one_is_not() -> None:
    group = smallest_usable_group(WISH, outcome(WISH).noise_multiplier)
    assert group is not None
    assert outcome(replace(WISH, min_group=group)).best_verdict == Verdict.USABLE
    assert outcome(replace(WISH, min_group=group - 1)).best_verdict == Verdict.DOUBTFUL


def test_colluders_want_larger_groups_and_more_noise_from_each() -> None:
    bad = replace(WISH, malicious_fraction=0.1)
    assert outcome(bad).noise_per_parameter > outcome(WISH).noise_per_parameter
    assert (smallest_usable_group(bad, 44.31) or 0) > (smallest_usable_group(WISH, 44.31) or 0)
    assert plan(bad)["malicious_allowance"] == 19
    assert 0 < plan(bad)["isolation_probability"] < 1e-6


def test_no_group_suffices_for_a_large_model_and_few_clients() -> None:
    wish = replace(WISH, clients=64, dimension=1_000_000)
    assert smallest_usable_group(wish, 44.31) is None
    assert outcome(wish).verdict == Verdict.UNUSABLE


@pytest.mark.parametrize(("group", "reason"), [(3, "drown every model"), (64, "more than 63 uploads")])
def test_groups_that_a_deployment_would_refuse_are_judged_with_the_reason(group: int, reason: str) -> None:
    assert reason in (outcome(replace(WISH, min_group=group)).obstacle or "")


def test_advice_that_is_out_of_reach_is_said_to_be_so_with_what_would_do() -> None:
    """1000 clients would need groups of 79; sums of at most 63 uploads can be opened."""
    facts = plan(WISH)
    assert facts["smallest_usable_group"] == 79 > facts["largest_group"] == 63
    assert facts["usable_group_in_reach"] is None
    assert "63" in facts["usable_group_obstacle"]
    needed = facts["clients_needed"]
    enough = replace(WISH, clients=needed, min_group=63)
    assert outcome(enough).best_verdict == Verdict.USABLE
    assert outcome(replace(enough, clients=needed - 2)).best_verdict == Verdict.DOUBTFUL
    assert plan(enough)["usable_group_in_reach"] is not None


def test_a_usable_group_below_16_is_advised_as_16_which_needs_no_flag() -> None:
    facts = plan(replace(WISH, budget=Budget(8.0, 1e-5), clients=2000))
    assert facts["smallest_usable_group"] < 16 == facts["usable_group_in_reach"]
    assert "allow_s" in facts["usable_group_obstacle"]
    assert facts["clients_needed"] is None


def test_the_command_does_not_call_usable_what_cannot_be_had() -> None:
    options = ["--epsilon", "1", "--epochs", "120", "--clients", "1000", "--min-group", "32"]
    shown = " ".join(CliRunner().invoke(app, ["plan", *options]).output.split())
    assert "groups of 79, which is out of reach: sums of at most 63 uploads can be opened" in shown
    assert "groups of 63 would do from 1250 clients on" in shown


def test_variations_change_one_thing_each_and_leave_out_what_cannot_be() -> None:
    wish = replace(WISH, clients=100, malicious_fraction=0.2)
    changed = list(variations(wish))
    assert all(other != wish for _, _, other in changed)
    assert max(value for change, value, _ in changed if change == "min_group") <= 100
    for _, _, other in changed:
        outcome(other)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"clients": 0},
        {"min_group": 1001},
        {"dimension": 0},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"server_learning_rate": -1.0},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        replace(WISH, **change)


runs = st.builds(Run, st.integers(6, 5000), st.integers(1, 10**9))


@given(st.floats(0, 1000), runs, st.floats(0.001, 1))
def test_less_noise_is_never_judged_worse(ratio: float, run: Run, rate: float) -> None:
    order = [Verdict.UNUSABLE, Verdict.DOUBTFUL, Verdict.USABLE]
    assert order.index(run.judge(ratio / 2, rate)) >= order.index(run.judge(ratio, rate))


@given(runs, st.floats(0, 0.999))
def test_a_usable_ratio_is_usable_at_the_suitable_rate(run: Run, part: float) -> None:
    ratio = part * run.largest_usable_ratio
    assert run.judge(ratio, run.suitable_server_rate(ratio)) == Verdict.USABLE


def test_larger_models_than_were_measured_are_not_believed_to_bear_more() -> None:
    assert Run(60, 10**9).largest_usable_ratio == Run(60, 19210).largest_usable_ratio


# (ratio, epochs, server rate, accuracy lost): rows of docs/results/dp-noise.md
MEASURED = [
    (4, 20, 1.0, 0.029), (4, 60, 1.0, 0.024), (6, 60, 0.3, 0.031), (9, 60, 1.0, 0.134), (13, 60, 1.0, 0.225),
    (13, 20, 1.0, 0.387), (20, 60, 0.1, 0.186), (6, 120, 0.1, 0.030), (9, 120, 0.1, 0.051),
    (6, 20, 0.03, 0.627), (60, 60, 0.1, 0.684), (30, 20, 0.1, 0.643), (60, 120, 0.03, 0.583),
]  # fmt: skip


@pytest.mark.parametrize(("ratio", "epochs", "rate", "lost"), MEASURED)
def test_verdicts_agree_with_what_was_measured(ratio: float, epochs: int, rate: float, lost: float) -> None:
    verdict = Run(epochs, 4810).judge(ratio, rate)
    if verdict is Verdict.USABLE:
        assert lost <= 0.06
    elif verdict is Verdict.DOUBTFUL:
        assert lost > 0.04
    else:
        assert lost > 0.42
