"""What a rule stands is held against what clients yield: refused at load with numbers and a remedy."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch

from asyncfl.errors import ParameterError, RuleError
from asyncfl.group_rules import (
    EXCEEDED,
    check_rule,
    clean_probability,
    explain_rule,
    likely_bad,
    make_group_rule,
    settle_rule,
    warn_of_rule,
)
from asyncfl.parameters import NEED_A_REFERENCE, Parameters, RuleName
from asyncfl.privacy.allowance import Cells
from asyncfl.rules import RULES


def parameters(clients: int = 60, **options: object) -> Parameters:
    return Parameters.for_clients(clients, **{"cell_size": 3, **options})


def test_every_rule_can_be_chosen_but_those_that_need_a_reference() -> None:
    assert {*get_args(RuleName), *NEED_A_REFERENCE} == set(RULES)
    for rule in NEED_A_REFERENCE:
        with pytest.raises(ParameterError, match="replicas have none"):
            parameters(rule=rule)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("median", {"steps": 3}, "no option 'steps'; it has none"),
        ("centered_clipping", {"radius": "x"}, "radius = 'x': must be a number"),
        ("centered_clipping", {"steps": 2.5}, "steps = 2.5: must be a whole number"),
        ("centered_clipping", {"steps": 0}, "steps = 0: must be a whole number from 1"),
        ("multi_krum", {"selected": True}, "selected = True: must be a whole number"),
        ("bucketing", {"seed": "x"}, "no option 'seed'; its options are then, size"),
        ("bucketing", {"then": "bucketing"}, "one of mean, median"),
        ("nearest_neighbor_mixing", {"then": "fltrust"}, "one of mean, median"),
    ],
)
def test_options_that_a_rule_does_not_take_are_refused(
    rule: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        make_group_rule(parameters(rule=rule, rule_options=options))


def test_the_mean_has_no_options_and_stands_nothing() -> None:
    for options in ({"bad_groups": 0.1}, {"rule_options": {"steps": 3}}):
        with pytest.raises(ParameterError, match="stands no bad group"):
            parameters(**options)


def test_options_reach_the_rule_and_bad_groups_are_rounded_up() -> None:
    made = make_group_rule(
        parameters(rule="bucketing", rule_options={"then": "krum", "size": 3}, bad_groups=0.3)
    )
    assert (made.rule.then, made.rule.size) == (RULES["krum"](), 3)
    assert [made.byzantine(inputs) for inputs in (1, 3, 10, 20)] == [1, 1, 3, 6]
    means = torch.arange(40.0).view(20, 2) ** 2
    drawn = {tuple(made.combine(means, bytes([seed]), None)[0].tolist()) for seed in range(5)}
    assert len(drawn) > 1


def test_the_probability_of_a_clean_group_is_that_of_all_groups_there_are() -> None:
    groups = list(combinations(range(10), 4))
    clean = sum(not {0, 1, 2} & set(group) for group in groups)
    assert clean_probability(10, 4, 0.3) == pytest.approx(clean / len(groups))
    assert clean_probability(10, 4, 0.0) == 1.0


def test_more_bad_groups_than_likely_are_rare_and_never_more_than_bad_clients() -> None:
    generator = np.random.default_rng(1)
    cells = Cells(100, 4, 4)
    bound, trials = likely_bad(cells, 0.1), 2000
    found = [len({int(place) // 4 for place in generator.permutation(100)[:10]}) for _ in range(trials)]
    assert sum(bad > bound for bad in found) <= EXCEEDED * trials
    assert likely_bad(Cells(16, 4, 4), 0.05) == 1


def test_bad_groups_are_worked_out_from_bad_clients_or_as_many_as_the_rule_stands() -> None:
    assumed = settle_rule(parameters(rule="krum", bad_clients=0.05), 60)
    assert make_group_rule(assumed).byzantine(20) == 3
    assert make_group_rule(settle_rule(parameters(rule="krum"), 60)).byzantine(20) == 8
    assert make_group_rule(settle_rule(parameters(rule="median"), 60)).byzantine(20) == 9
    given = parameters(rule="krum", bad_groups=0.1)
    assert settle_rule(given, 60) is given
    for settled in (assumed, given):
        check_rule(settled, 60)


def test_a_rule_that_does_not_stand_its_bad_groups_is_refused_with_what_would_do() -> None:
    wish = settle_rule(parameters(rule="krum", bad_clients=0.2, cell_size=10), 60)
    with pytest.raises(RuleError) as caught:
        check_rule(wish, 60)
    message = str(caught.value)
    assert "6 groups, from cells of 10 clients" in message
    assert f"clean with probability {clean_probability(60, 10, 0.2):.2g}" in message
    assert "many small cells for each coordinator give more groups" in message
    size = int(message.split("cell_size=")[1].split(maxsplit=1)[0])
    small = {"cell_size": size, "min_group": size, "allow_single_clients": True}
    check_rule(settle_rule(parameters(rule="krum", bad_clients=0.2, **small), 60), 60)


def test_bad_groups_that_are_fewer_than_assumed_are_refused() -> None:
    with pytest.raises(RuleError, match="has to stand 6"):
        check_rule(parameters(rule="krum", bad_clients=0.1, bad_groups=0.05), 60)


def test_the_mean_is_refused_where_malicious_clients_are_assumed_with_rules_that_would_do() -> None:
    with pytest.raises(RuleError, match="mean stands no bad group") as caught:
        check_rule(settle_rule(parameters(bad_clients=0.1), 60), 60)
    named = str(caught.value).split("take --rule ")[1].split(" or ")
    assert {"median", "multi_krum"} <= set(named)
    for rule in named:
        check_rule(settle_rule(parameters(rule=rule, bad_clients=0.1), 60), 60)
    assert "bulyan" not in named
    with pytest.raises(RuleError, match=r"no rule stands them as it is; for the median: .* cell_size=1"):
        check_rule(parameters(8, bad_clients=0.3), 8)
    check_rule(parameters(), 60)


def test_a_rule_that_stands_no_bad_group_of_so_few_is_told() -> None:
    few = settle_rule(parameters(4, rule="krum"), 4)
    assert "krum stands no bad group of 3 (n >= 2f + 3)" in str(warn_of_rule(few, 4))
    for rule, clients in (("median", 4), ("krum", 60), ("mean", 4)):
        assert warn_of_rule(settle_rule(parameters(clients, rule=rule), clients), clients) is None


def test_fewer_cells_than_coordinators_give_groups_of_several_rows() -> None:
    two_cells = settle_rule(parameters(8, rule="median", cell_size=4), 8)
    assert make_group_rule(two_cells).byzantine(4) == 1
    assert "2 epochs yield 4 groups" in explain_rule(two_cells, 8)


def test_what_is_left_as_it_was_keeps_a_deployments_digest() -> None:
    """Files from before these parameters existed keep their signatures."""
    plain = parameters()
    assert not {"rule_options", "bad_groups", "bad_clients"} & dict(plain.digested()).keys()
    digests = [
        parameters(rule="bucketing", bad_groups=0.1).digested(),
        parameters(rule="bucketing", bad_groups=0.1, rule_options={"size": 3}).digested(),
        parameters(rule="bucketing", bad_groups=0.2).digested(),
    ]
    assert len(set(digests)) == 3
