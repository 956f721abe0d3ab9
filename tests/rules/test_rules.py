"""Rules agree with their papers, state and enforce their bounds, stand what they say, and give the same bits always."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asyncfl.errors import ParameterError, RuleError
from asyncfl.rules import RULES, Krum, Mean, Median, aggregate, make_rule
from asyncfl.rules.exact import CHUNK, inner_products, member_sums, tree_sum
from tests.spec import rules_reference as reference

ROBUST = [name for name in RULES if name != "mean"]
EXACT = [name for name in RULES if name != "fedaot"]
"""FedAOT's weights come from float32 products: last bits may differ between machines."""


def options(name: str, dimension: int) -> dict[str, Any]:
    return {"reference": 1.0 + torch.arange(dimension) / 2**13} if name == "fltrust" else {}


def drawn(seed: int, inputs: int, dimension: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(inputs, dimension, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def near(found: Tensor, wanted: list[float], tolerance: float = 1e-5) -> None:
    assert torch.allclose(found.double(), torch.tensor(wanted, dtype=torch.float64), atol=tolerance, rtol=0)


cases = given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(11, 16),
    dimension=st.integers(1, 12),
    byzantine=st.integers(0, 2),
)


@cases
@settings(max_examples=60, deadline=None)
def test_rules_agree_with_their_papers(seed: int, inputs: int, dimension: int, byzantine: int) -> None:
    updates = drawn(seed, inputs, dimension)
    rows = updates.tolist()
    near(aggregate("mean", updates), reference.mean(rows))
    near(aggregate("median", updates), reference.median(rows))
    near(aggregate("trimmed_mean", updates, byzantine=byzantine), reference.trimmed_mean(rows, byzantine))
    near(aggregate("krum", updates, byzantine=byzantine), reference.krum(rows, byzantine))
    near(aggregate("multi_krum", updates, byzantine=byzantine), reference.multi_krum(rows, byzantine))
    near(aggregate("bulyan", updates, byzantine=byzantine), reference.bulyan(rows, byzantine))
    near(
        aggregate("nearest_neighbor_mixing", updates, byzantine=byzantine, then=Mean()),
        reference.mean(reference.nearest_mixing(rows, byzantine)),
    )
    near(
        aggregate("centered_clipping", updates, byzantine=byzantine, radius=0.8, steps=2),
        reference.centered_clipping(rows, 0.8, 2),
    )
    near(
        aggregate("norm_clipping", updates, byzantine=byzantine, norm=1.5),
        reference.mean([reference.clipped(row, 1.5) for row in rows]),
    )
    trusted = torch.linspace(-1.0, 1.0, dimension, dtype=torch.float64) + 0.1
    near(
        aggregate("fltrust", updates, byzantine=byzantine, reference=trusted),
        reference.fltrust(rows, trusted.tolist()),
        tolerance=inputs * 2**-15,
    )


@cases
@settings(max_examples=30, deadline=None)
def test_no_point_nearby_has_a_smaller_summed_distance_than_the_geometric_median(
    seed: int, inputs: int, dimension: int, byzantine: int
) -> None:
    updates = drawn(seed, inputs, dimension)
    found = aggregate("geometric_median", updates, byzantine=byzantine, steps=200)
    least = reference.geometric_objective(updates.tolist(), found.tolist())
    for offset in drawn(seed + 1, 20, dimension) * 0.05:
        assert reference.geometric_objective(updates.tolist(), (found + offset).tolist()) > least - 1e-3


@pytest.mark.parametrize("name", RULES)
def test_every_rule_enforces_its_own_bound(name: str) -> None:
    rule = make_rule(name, **options(name, 4))
    for byzantine in range(5):
        least = rule.least_inputs(byzantine)
        assert rule(drawn(1, least, 4), byzantine).shape == (4,)
        if least > 1:
            with pytest.raises(RuleError, match=f"stands {byzantine} bad inputs among {least} or more"):
                rule(drawn(1, least - 1, 4), byzantine)
    with pytest.raises(RuleError, match="negative"):
        rule(drawn(1, 9, 4), -1)


def test_bounds_are_those_of_the_papers() -> None:
    bounds = {
        "krum": (2, 3),
        "multi_krum": (2, 3),
        "bulyan": (4, 3),
        "median": (2, 1),
        "trimmed_mean": (2, 1),
    }
    for name, (factor, plus) in bounds.items():
        assert [make_rule(name).least_inputs(f) for f in range(4)] == [factor * f + plus for f in range(4)]


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("size", [1e3, 1e30, 1e200, 1e300, 0.0, 1e-40, 1e-170, 1e-300, 1e-310])
def test_bad_inputs_of_any_size_do_not_move_a_robust_rule_far(name: str, size: float) -> None:
    byzantine = 2
    honest = drawn(7, 15, 50) * 0.1 + 1.0
    bad = torch.full((byzantine, 50), -size, dtype=torch.float64)
    rule = make_rule(name, **options(name, 50))
    found = rule(torch.cat((bad, honest)), byzantine)
    centre = honest.mean(0)
    assert torch.isfinite(found).all()
    assert (found - centre).norm() < 4.0, "further than the honest inputs' own spread and clip allow"
    wrong = aggregate("mean", torch.cat((bad, honest)))
    assert size < 1e3 or (wrong - centre).norm() > 50


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("power", [-400, -60, 60])
def test_inputs_of_another_size_have_an_aggregate_of_that_size(name: str, power: int) -> None:
    updates, scale = drawn(7, 15, 50) + 1.0, 2.0**power
    given = options(name, 50)
    wanted = aggregate(name, updates, byzantine=2, **given) * scale
    if name == "fltrust":
        given = {"reference": given["reference"].double() * scale}
    assert torch.equal(aggregate(name, updates * scale, byzantine=2, **given), wanted)


@pytest.mark.parametrize("power", [-950, -664, -300, 300, 900, 1015])
def test_fltrust_sees_directions_alone_and_gives_the_references_length(power: int) -> None:
    updates, trusted = drawn(7, 15, 50) + 1.0, torch.linspace(1.0, 2.0, 50, dtype=torch.float64)
    wanted = aggregate("fltrust", updates, byzantine=2, reference=trusted)
    assert torch.equal(aggregate("fltrust", updates * 2.0**power, reference=trusted), wanted)
    mixed = torch.cat((updates[:4] * 2.0**power, updates[4:]))
    assert torch.equal(aggregate("fltrust", mixed, reference=trusted), wanted)
    found = aggregate("fltrust", updates, reference=trusted * 2.0**power)
    assert torch.equal(found, wanted * 2.0**power)
    huge = torch.full((50,), 1e300, dtype=torch.float64)
    with pytest.raises(RuleError, match=r"beyond the range of the updates' torch\.float32; .* a wider type"):
        aggregate("fltrust", updates.float(), reference=huge)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(4), "must not be zero"),
        (torch.tensor([1.0, torch.nan, torch.inf]), "2 coordinates are not finite"),
        (torch.ones(2, 3), r"of shape \[2, 3\]: must be one update"),
        ([1.0, 2.0], r"= \[1.0, 2.0\]: must be a tensor"),
    ],
)
def test_what_is_no_reference_is_refused(given: object, words: str) -> None:
    with pytest.raises(ParameterError, match=f"rule fltrust: reference.*{words}"):
        make_rule("fltrust", reference=given)


@pytest.mark.parametrize("name", RULES)
def test_equal_inputs_are_their_own_aggregate(name: str) -> None:
    one = torch.linspace(1.0, 2.0, 30, dtype=torch.float64)
    given = {"reference": one} if name == "fltrust" else {}  # It gives aggregates the reference's length.
    near(aggregate(name, one.repeat(9, 1), byzantine=1, **given), one.tolist(), 1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("bucketing", "bulyan")])
def test_the_order_of_inputs_does_not_matter(name: str) -> None:
    """Buckets are drawn by place. Bulyan ends with one neighbour for each: two that are each other's nearest tie."""
    updates = drawn(3, 11, 40)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    rule = make_rule(name, **options(name, 40))
    assert torch.allclose(rule(updates, 2), rule(updates[order], 2), atol=1e-4)


def test_ties_go_to_the_earlier_input() -> None:
    updates = torch.tensor([[0.0], [1.0], [0.0], [1.0], [5.0]])
    assert aggregate("krum", updates, byzantine=1).tolist() == [0.0]
    assert aggregate("krum", updates[[1, 0, 3, 2, 4]], byzantine=1).tolist() == [1.0]


@pytest.mark.parametrize("name", EXACT)
def test_bits_depend_neither_on_threads_nor_on_memory_layout(name: str) -> None:
    updates = drawn(5, 19, CHUNK + 3, torch.float32)
    rule = make_rule(name, **options(name, CHUNK + 3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = rule(updates, 3)
        torch.set_num_threads(2)
        together = rule(updates, 3)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)
    assert torch.equal(alone, rule(updates.T.contiguous().T, 3))


def test_bits_are_those_of_every_other_machine() -> None:
    """Inputs from integer arithmetic alone; a rule that gives other bits elsewhere breaks certificates."""
    numbers = torch.arange(13 * 5000, dtype=torch.int64) * 2654435761 % 1000003 - 500001
    updates = (numbers.double() / 2**20).float().view(13, 5000)
    found = {name: aggregate(name, updates, byzantine=2, **options(name, 5000)) for name in EXACT}
    bits = {
        name: hashlib.blake2b(one.numpy().tobytes(), digest_size=8).hexdigest() for name, one in found.items()
    }
    assert bits == BITS


BITS = {
    "mean": "df71e81656ded693",
    "median": "d1c436cef8f034f6",
    "trimmed_mean": "b2fe597c24e16ff0",
    "krum": "3c67de467e875207",
    "multi_krum": "394dd88dc2c2bf06",
    "bulyan": "8ddea0c8408cd304",
    "geometric_median": "165f2fb4cdaf01d0",
    "centered_clipping": "0ace3ae4b07b919f",
    "norm_clipping": "8fe85c4b2294244e",
    "norm_rejection": "394dd88dc2c2bf06",
    "bucketing": "4b19e8232395f6e7",
    "nearest_neighbor_mixing": "42181851525dcb38",
    "fltrust": "d06aaa17f5e79975",
}


@given(st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_inner_products_are_those_of_the_inputs(inputs: int, seed: int) -> None:
    updates = drawn(seed, inputs, 300) * torch.logspace(-6, 6, inputs, dtype=torch.float64)[:, None]
    products = inner_products(updates, updates)
    lengths = updates.norm(dim=1)
    assert ((products - updates @ updates.T).abs() <= 1e-5 * lengths[:, None] * lengths[None, :]).all()


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_sums_of_members_are_theirs_alone_however_long_others_are(inputs: int, seed: int) -> None:
    updates = drawn(seed, inputs, 300)
    updates[0] *= 1e30
    members = drawn(seed + 1, 5, inputs) > 0
    for place, sums in member_sums(updates, members):
        for row, found in zip(members, sums, strict=True):
            own = updates[row]
            rounding = own.abs().amax(dim=1).sum() * 2.0**-40 if len(own) else 0.0
            assert ((found - own[:, place].sum(0)).abs() <= rounding).all()


def test_tree_sums_add_every_row_once() -> None:
    for count in range(1, 70):
        assert tree_sum(torch.eye(count, dtype=torch.float64)).tolist() == [1.0] * count


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        (torch.zeros(4), "must be a floating-point tensor"),
        (torch.zeros(4, 0), "must be a floating-point tensor"),
        (torch.zeros(4, 3, dtype=torch.int32), "must be a floating-point tensor"),
        (torch.zeros(4, 3).to_sparse(), "not sparse"),
        (torch.zeros(4, 3).to(torch.float8_e5m2), "of 16 bits or more"),
        (np.zeros((4, 3)), "not ndarray; make one with torch.from_numpy"),
        ([torch.zeros(3)], "not list; .* torch.stack"),
        (
            torch.tensor([[1.0], [torch.nan], [torch.inf]]),
            r"inputs \[1, 2\] have coordinates that are not finite",
        ),
    ],
)
def test_what_is_no_input_is_refused_by_name(updates: Any, words: str) -> None:
    for name in ("mean", "fedaot"):
        with pytest.raises(RuleError, match=words):
            aggregate(name, updates)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("byzantine", [0.2, 1.0, True, "1", None])
def test_what_is_no_number_of_bad_inputs_is_refused_by_every_rule(name: str, byzantine: Any) -> None:
    with pytest.raises(RuleError, match=r"byzantine = .*: a whole number of bad inputs; .* ceil\(s \* n\)"):
        aggregate(name, drawn(1, 11, 4), byzantine=byzantine, **options(name, 4))


WRONG_OPTIONS = [
    *((rule, "steps", value) for rule in ("geometric_median", "centered_clipping") for value in (2.5, 0, "3")),
    *(("geometric_median", "smoothing", value) for value in (0, 1.0, math.nan, "x")),
    *((rule, key, value) for rule, key in (("norm_clipping", "norm"), ("centered_clipping", "radius"))
      for value in (0, -1.0, math.inf, math.nan, "x", True)),
    *(("multi_krum", "selected", value) for value in (2.5, 0, True)),
    *(("bucketing", "size", value) for value in (2.5, 0)),
    ("bucketing", "seed", "x"),
    *((rule, "then", Krum) for rule in ("bucketing", "nearest_neighbor_mixing")),
    *(("fedaot", "rate", value) for value in (-1, math.inf, math.nan, "x")),
    *(("fedaot", "memory", value) for value in (-0.1, 1, math.nan)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), WRONG_OPTIONS)
def test_an_option_that_makes_no_sense_is_refused_by_its_name_with_its_value_and_what_it_must_be(
    name: str, key: str, value: object
) -> None:
    with pytest.raises(ParameterError, match=f"rule {name}: {key} = {re.escape(repr(value))}: must be"):
        make_rule(name, **{key: value})
    with pytest.raises(ParameterError, match=f"{key} = .*: must be"):
        RULES[name](**{key: value})


def test_a_rule_that_follows_another_may_be_named_and_numpys_whole_numbers_are_such() -> None:
    updates = drawn(3, 13, 40)
    for name in ("bucketing", "nearest_neighbor_mixing"):
        assert make_rule(name, then="krum") == make_rule(name, then=Krum())
        named = aggregate(name, updates, byzantine=np.int64(1), then="krum")
        assert torch.equal(named, aggregate(name, updates, byzantine=1, then=Krum()))
        with pytest.raises(ParameterError, match="no rule is called 'krumm'"):
            make_rule(name, then="krumm")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_as_float32_and_rounded_at_the_end(name: str, dtype: torch.dtype) -> None:
    updates = drawn(3, 11, 40, torch.float32).to(dtype)
    found = aggregate(name, updates, byzantine=2, **options(name, 40))
    assert found.dtype is dtype
    assert torch.equal(found, aggregate(name, updates.float(), byzantine=2, **options(name, 40)).to(dtype))


def test_unknown_rules_and_options_are_refused() -> None:
    with pytest.raises(ParameterError, match="no rule is called 'krumm'; there are mean, median"):
        aggregate("krumm", torch.zeros(3, 1))
    with pytest.raises(ParameterError, match=r"rule krum: .*unexpected keyword argument 'sizes'"):
        aggregate("krum", torch.zeros(3, 1), sizes=3)
    with pytest.raises(ParameterError, match="size = 0"):
        aggregate("bucketing", torch.zeros(3, 1), size=0)


def test_results_have_the_inputs_type_and_inputs_stay_as_they_were() -> None:
    updates = drawn(2, 9, 7, torch.float32)
    copy = updates.clone()
    for name in RULES:
        assert aggregate(name, updates, byzantine=1, **options(name, 7)).dtype is torch.float32
    assert torch.equal(updates, copy)


def test_buckets_depend_on_the_seed_alone() -> None:
    updates = drawn(2, 12, 5)
    one = make_rule("bucketing", then=Krum(), size=2, seed=b"one")
    assert torch.equal(one(updates, 1), one(updates, 1))
    seeds = [aggregate("bucketing", updates, then=Median(), seed=bytes([seed])) for seed in range(8)]
    assert len({tuple(found.tolist()) for found in seeds}) > 4


def test_fltrust_gives_nothing_to_inputs_that_point_away() -> None:
    reference_update = torch.tensor([1.0, 0.0])
    updates = torch.tensor([[-5.0, 0.1], [-1.0, 0.0]])
    assert aggregate("fltrust", updates, byzantine=2, reference=reference_update).tolist() == [0.0, 0.0]
