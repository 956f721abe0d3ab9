"""Rules in the fold: what a slow reference makes of the same groups, whatever came when, and never an exception."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.federation import Federation
from asyncfl.fold import FoldCache, FoldJob, FoldState
from asyncfl.ledger import Ledger
from asyncfl.masking import encode_sum
from asyncfl.messages import GroupId, Item, Member
from asyncfl.parameters import Parameters
from asyncfl.replay import replay
from asyncfl.rules import RULES
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import MemoryBlobs
from asyncfl.windows import WINDOW_ROWS
from tests.spec import rules_fold_reference

WEIGHTS, BUFFERS = 5, 2
DIMENSION = WEIGHTS + BUFFERS
INITIAL = bytes(4 * DIMENSION)
CLIENTS = 16
ROBUST = [name for name in RULES if name not in ("mean", "fltrust")]
Content = dict[tuple[int, int], tuple[int, list[int]]]


def make_federation(rule: str = "median", **options: object) -> Federation:
    values = {"preset": "tiny", "rule": rule, "clip": 2.0, "buffer_clip": 3.0, **options}
    parameters = Parameters.for_clients(CLIENTS, **values)
    return Simulation(parameters, CLIENTS, initial=INITIAL, weights=WEIGHTS).federation


def make_item(blobs: MemoryBlobs, epoch: int, cell: int, members: int, values: list[int]) -> Item:
    clients = sorted(bytes([cell, number]) * 16 for number in range(members))
    return Item(
        id=GroupId(epoch=epoch, cell=cell, coordinator=cell % 4, part=0),
        members=tuple(Member(client=client, epoch=epoch, manifest=bytes(32)) for client in clients),
        opened=blobs.write(encode_sum(torch.tensor(values, dtype=torch.int32))),
    )


def make_items(blobs: MemoryBlobs, content: Content) -> list[Item]:
    return [make_item(blobs, epoch, cell, *rest) for (epoch, cell), rest in content.items()]


def fill(federation: Federation, items: list[Item]) -> Ledger:
    ledger = Ledger(federation.digest)
    for item in items:
        ledger.add(item)
    return ledger


def compute_state(
    federation: Federation, ledger: Ledger, blobs: MemoryBlobs, cache: FoldCache | None = None
) -> FoldState:
    return FoldJob(federation, INITIAL, ledger.head, CLIENTS, cache or FoldCache()).state(blobs)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Groups, here and there. Their sums have no ties, which the reference would break its own way."""
    places = st.tuples(st.integers(1, 6), st.integers(0, 7))
    sizes = draw(st.dictionaries(places, st.integers(3, 6), max_size=16))
    numbers = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    return {
        place: (members, numbers.integers(-40_000, 40_000, DIMENSION).tolist())
        for place, members in sizes.items()
    }


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "multi_krum"])
@given(content=contents())
@settings(max_examples=40)
def test_the_fold_is_the_reference_to_rounding(rule: str, content: Content) -> None:
    federation, blobs = make_federation(rule, bad_groups=0.2), MemoryBlobs()
    items = make_items(blobs, content)
    found = compute_state(federation, fill(federation, items), blobs).total
    entries = [(item.id.epoch, item.id.coordinator, *content[item.id.epoch, item.id.cell]) for item in items]
    wanted = rules_fold_reference.fold(entries, CLIENTS, federation)
    for got, exact in zip((found.double() / 2**32).tolist(), wanted, strict=True):
        assert abs(got - exact) < 1e-5


@pytest.mark.parametrize(
    ("rule", "reputation"), [*((rule, False) for rule in ROBUST), ("mean", True), ("median", True)]
)
@given(content=contents(), random=st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_bits_do_not_depend_on_arrival_on_the_cache_or_on_who_computes(
    rule: str, reputation: bool, content: Content, random: np.random.Generator
) -> None:
    options = {"bad_groups": 0.0 if rule == "mean" else 0.15, "reputation": reputation}
    federation, blobs = make_federation(rule, server_optimizer="momentum", **options), MemoryBlobs()
    items = make_items(blobs, content)
    random.shuffle(items)
    cache, ledger = FoldCache(limit=3), Ledger(federation.digest)
    state = compute_state(federation, ledger, blobs, cache)
    for item in items:
        ledger.add(item)
        state = compute_state(federation, ledger, blobs, cache)
    fresh = compute_state(federation, ledger, blobs)
    assert torch.equal(state.total, fresh.total)
    assert state.rows == fresh.rows == len(ledger.rows())
    assert state.reputation == fresh.reputation
    assert (state.reputation is not None) == reputation
    if rule == "fedaot" and state.trust is not None:
        assert state.trust.weights == fresh.trust.weights
    for _, audited in replay(ledger.head, federation, blobs):
        last = audited.total
    assert not items or torch.equal(last, fresh.total)


def test_a_late_entry_changes_its_row_and_those_whose_windows_reach_back_to_it() -> None:
    federation, blobs = make_federation("median"), MemoryBlobs()
    # One cell to an epoch: windows are of three rows, as many as hold three coordinators.
    items = [make_item(blobs, e, e % 4, 6, [1000 * e + i for i in range(DIMENSION)]) for e in range(1, 13)]
    late = make_item(blobs, 5, 2, 6, [9000] * DIMENSION)

    def steps(held: list[Item]) -> list[torch.Tensor]:
        totals = [state.total for _, state in replay(fill(federation, held).head, federation, blobs)]
        return [
            after - before
            for before, after in zip([torch.zeros_like(totals[0]), *totals], totals, strict=False)
        ]

    before, after = steps(items), steps([*items, late])
    changed = [row for row, pair in enumerate(zip(before, after, strict=True), 1) if not torch.equal(*pair)]
    assert changed == [5, 6, 7]


def test_rows_of_too_few_coordinators_count_zero_and_block_nobody() -> None:
    federation, blobs = make_federation("median"), MemoryBlobs()
    two = [make_item(blobs, e, cell, 4, [5000] * DIMENSION) for e in range(1, 4) for cell in (0, 1)]
    states = [state for _, state in replay(fill(federation, two).head, federation, blobs)]
    assert all(not state.total.any() and state.judgement.groups == 0 for state in states)
    third = make_item(blobs, 4, 2, 4, [5000] * DIMENSION)
    *before, last = [state for _, state in replay(fill(federation, [*two, third]).head, federation, blobs)]
    assert not any(state.total.any() for state in before)
    assert last.total.all()
    assert (last.judgement.rows, last.judgement.groups) == (2, 3)


def test_a_window_reaches_back_so_far_and_no_further() -> None:
    federation, blobs = make_federation("median"), MemoryBlobs()
    old = [make_item(blobs, 1, cell, 4, [5000] * DIMENSION) for cell in (0, 1)]
    new = [make_item(blobs, e, 2, 4, [5000] * DIMENSION) for e in range(2, WINDOW_ROWS + 2)]
    states = [state for _, state in replay(fill(federation, old + new).head, federation, blobs)]
    assert [state.judgement.rows for state in states] == [0, *range(2, WINDOW_ROWS + 1), 0]
    assert torch.equal(states[-1].total, states[-2].total)


def test_a_window_holds_as_many_groups_as_the_rule_needs() -> None:
    federation, blobs = make_federation("krum", bad_groups=0.25), MemoryBlobs()
    items = [make_item(blobs, e, cell, 4, [e, cell, 1, 2, 3, 4, 5]) for e in (1, 2, 3) for cell in range(4)]
    states = [state for _, state in replay(fill(federation, items).head, federation, blobs)]
    # 4 groups may hold 1 bad one: krum wants 5. Of 8 two may be bad: 7 are needed.
    assert [(s.judgement.rows, s.judgement.groups, s.judgement.byzantine) for s in states] == [
        (0, 0, 0), (2, 8, 2), (2, 8, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@given(data=st.data())
@settings(max_examples=8)
def test_no_group_whatever_it_opens_stops_the_fold_or_moves_it_beyond_its_clip(
    rule: str, weighting: str, data: st.DataObject
) -> None:
    federation = make_federation(rule, bad_groups=0.15, weighting=weighting, metrics=True)
    blobs, extreme = MemoryBlobs(), st.sampled_from([0, 1, -1, 4_190_208, -4_190_208])
    values = st.lists(extreme, min_size=federation.upload_dimension, max_size=federation.upload_dimension)
    places = st.tuples(st.integers(1, 3), st.integers(0, 7))
    content = data.draw(st.dictionaries(places, st.tuples(st.integers(3, 6), values), max_size=16))
    states = replay(fill(federation, make_items(blobs, content)).head, federation, blobs)
    before, limit = torch.zeros(DIMENSION), 2.0 if weighting == "examples" else 1.0
    for _, state in states:
        after = (state.total.double() / 2**32).float()
        for segment in federation.model_segments:
            moved = float((after - before)[segment.start : segment.stop].norm())
            # A coordinate-wise rule's result can be longer than any input: by sqrt(coordinates) at most.
            assert moved <= limit * 1.2 * segment.clip * (segment.stop - segment.start) ** 0.5
        before = after


GOLDEN = {
    "median": "0ef0357c77e60df1",
    "trimmed_mean": "4949e7bf55dd7151",
    "krum": "5870610a13410a93",
    "multi_krum": "af7bf6b47b1f661e",
    "bulyan": "723180f176f48cad",
    "geometric_median": "662785d8ddb6d050",
    "centered_clipping": "9b15753f60ab859c",
    "norm_clipping": "ff4b407250faa75d",
    "norm_rejection": "3dcc0e78fa4b0356",
    "bucketing": "8a16b5ebc5d9151c",
    "fedaot": "69b8b00ff5577c62",
    "nearest_neighbor_mixing": "26c40e6d91d328d5",
}


@pytest.mark.parametrize("rule", ROBUST)
def test_models_are_those_of_every_machine(rule: str) -> None:
    """Digests of fold states: another processor, library or number of threads must not change a bit."""
    federation, blobs = make_federation(rule, bad_groups=0.2, server_optimizer="adam"), MemoryBlobs()
    numbers = iter(
        np.random.Generator(np.random.PCG64(7)).integers(-30_000, 30_000, 4 * 8 * DIMENSION).tolist()
    )
    items = [
        make_item(blobs, epoch, cell, 3 + cell % 3, [next(numbers) for _ in range(DIMENSION)])
        for epoch in range(1, 5) for cell in range(8)
    ]  # fmt: skip
    state = compute_state(federation, fill(federation, items), blobs)
    assert hashlib.sha256(state.total.numpy().tobytes()).hexdigest()[:16] == GOLDEN[rule]
