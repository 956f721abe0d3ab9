"""Uploads that carry their weight: what a client sends, and what malicious weights cannot do to a row."""

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.client.upload import NOTHING, Measured, compose, compute_weight
from asyncfl.errors import UpdateError
from asyncfl.federation import Federation
from asyncfl.fold import FRACTION, FoldCache, FoldJob
from asyncfl.ledger import Ledger
from asyncfl.masking import encode_sum, quantise
from asyncfl.messages import GroupId, Item, Member
from asyncfl.parameters import Parameters
from asyncfl.rows import compute_divisor, sum_row
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import MemoryBlobs
from tests.spec import fold_reference

WEIGHTS, BUFFERS = 5, 2
DIMENSION = WEIGHTS + BUFFERS
INITIAL = np.linspace(-1, 1, DIMENSION, dtype="<f4").tobytes()
CLIENTS = 16


def make_federation(weights: int = WEIGHTS, buffers: int = BUFFERS, **options: object) -> Federation:
    values = {"preset": "tiny", "weighting": "examples", "examples_cap": 100, **options}
    parameters = Parameters.for_clients(CLIENTS, **values)
    initial = bytes(4 * (weights + buffers))
    return Simulation(parameters, CLIENTS, initial=initial, weights=weights).federation


def make_item(blobs: MemoryBlobs, epoch: int, cell: int, members: int, values: list[int]) -> Item:
    clients = sorted(bytes([cell, number]) * 16 for number in range(members))
    return Item(
        id=GroupId(epoch=epoch, cell=cell, coordinator=cell % 4, part=0),
        members=tuple(Member(client=client, epoch=epoch, manifest=bytes(32)) for client in clients),
        opened=blobs.write(encode_sum(torch.tensor(values, dtype=torch.int32))),
    )


def compute_model(
    federation: Federation, ledger: Ledger, blobs: MemoryBlobs, cache: FoldCache | None = None
) -> bytes:
    return FoldJob(federation, INITIAL, ledger.head, CLIENTS, cache or FoldCache()).model(blobs)


def honest_sum(federation: Federation, members: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """The opened sum of members (update, examples), without noise."""
    parts = [
        quantise(
            compose(update, examples, NOTHING, federation), federation.segments, federation.upload_dimension
        )
        for update, examples in members
    ]
    return torch.stack(parts).sum(0).to(torch.int32)


def test_without_options_an_upload_is_the_update_itself() -> None:
    federation = make_federation(weighting="uniform")
    update = torch.randn(DIMENSION)
    assert compose(update, 3, NOTHING, federation) is update
    assert federation.upload_dimension == federation.dimension
    assert federation.segments == federation.model_segments


@pytest.mark.parametrize(("examples", "weight"), [(0, 0.0), (1, 0.01), (50, 0.5), (100, 1.0), (10**6, 1.0)])
def test_an_upload_is_clipped_first_and_weighted_then(examples: int, weight: float) -> None:
    federation = make_federation(clip=2.0, buffer_clip=3.0)
    update = torch.randn(DIMENSION) * 100
    upload = compose(update, examples, NOTHING, federation)
    assert compute_weight(examples, federation.parameters) == weight
    assert float(upload[:WEIGHTS].norm()) == pytest.approx(2.0 * weight, rel=1e-5)
    assert float(upload[WEIGHTS:DIMENSION].norm()) == pytest.approx(3.0 * weight, rel=1e-5)
    assert upload[DIMENSION].item() == pytest.approx(weight)
    small = update / update.norm() / 10
    assert torch.allclose(compose(small, examples, NOTHING, federation)[:DIMENSION], small * weight)


def test_with_noise_no_weight_travels_and_members_are_counted() -> None:
    federation = make_federation(noise_multiplier=0.01, allow_small_private_groups=True)
    assert federation.upload_dimension == DIMENSION
    assert federation.weight_segment is None
    upload = compose(torch.ones(DIMENSION) / 10, 25, NOTHING, federation)
    assert torch.allclose(upload, torch.ones(DIMENSION) / 40)
    row = sum_row([(torch.zeros(DIMENSION, dtype=torch.int32), 5)], federation)
    assert compute_divisor(row, 7, (), federation) == 7.0


def test_values_out_of_range_are_refused_without_noise_and_zero_with_it() -> None:
    quiet = make_federation(metrics=True)
    noisy = make_federation(metrics=True, noise_multiplier=0.01, allow_small_private_groups=True)
    update = torch.full((DIMENSION,), 0.1)
    nan = float("nan")
    for measured in (
        Measured(nan, 3),
        Measured(3, nan),
        Measured(4, 3),
        Measured(-1, 3),
        Measured(0, float("inf")),
    ):
        with pytest.raises(UpdateError, match="correct"):
            compose(update, 1, measured, quiet)
        assert compose(update, 1, measured, noisy)[-2:].tolist() == [0, 0]
    with pytest.raises(UpdateError, match="-1 examples"):
        compose(update, -1, NOTHING, quiet)
    assert compose(update, -1, NOTHING, noisy).tolist() == [0] * (DIMENSION + 2)


def test_counts_beyond_the_cap_are_scaled_down_together() -> None:
    federation = make_federation(metrics=True, metrics_cap=40)
    upload = compose(torch.zeros(DIMENSION), 1, Measured(60, 80), federation)
    assert upload[-2:].tolist() == [30, 40]
    assert compose(torch.zeros(DIMENSION), 1, Measured(6, 8), federation)[-2:].tolist() == [6, 8]


shapes = st.tuples(st.integers(1, 40), st.integers(0, 12))
options = st.fixed_dictionaries(
    {
        "noise_multiplier": st.sampled_from([0.0, 0.5, 7.0, 60.0]),
        "weighting": st.sampled_from(["uniform", "examples"]),
        "metrics": st.booleans(),
    }
)
measurements = st.builds(
    lambda share, count: Measured(share * count, count), st.floats(0, 1), st.integers(0, 10**7)
)


@given(shapes, st.floats(1e-6, 1e6), options, st.integers(0, 10**7), measurements)
@settings(max_examples=150, deadline=None)
def test_the_integer_norm_of_a_whole_upload_never_exceeds_the_sensitivity(
    shape: tuple[int, int], size: float, chosen: dict[str, object], examples: int, measured: Measured
) -> None:
    parameters = Parameters.for_clients(64, min_group=16, **chosen)
    dimension = sum(shape)
    federation = Simulation(parameters, 64, initial=bytes(4 * dimension), weights=shape[0]).federation
    update = size * torch.randn(dimension, generator=torch.Generator().manual_seed(examples))
    upload = compose(update, examples, measured, federation)
    image = quantise(upload, federation.segments, federation.upload_dimension)
    assert sum(int(value) ** 2 for value in image.tolist()) <= parameters.scale**2


def test_the_models_part_of_the_sensitivity_stays_close_to_all_of_it() -> None:
    federation = make_federation(buffers=0, metrics=True)
    model, weight, metrics = federation.segments
    scale = federation.parameters.scale
    assert sum(segment.bound**2 for segment in federation.segments) <= scale**2
    assert model.bound > 0.96 * scale
    assert (weight.bound, metrics.bound) == (scale // 8, scale // 4)


values = st.lists(st.integers(-40000, 40000), min_size=DIMENSION + 1, max_size=DIMENSION + 1)
entries = st.dictionaries(
    st.tuples(st.integers(1, 9), st.integers(0, 3)), st.tuples(st.integers(3, 6), values), max_size=12
)


@given(entries, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_weighted_fold_is_the_reference_in_any_order_of_arrival(
    content: dict[tuple[int, int], tuple[int, list[int]]], random: "np.random.Generator"
) -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    rows: dict[int, list[tuple[list[int], int]]] = {}
    items = []
    for (epoch, cell), (members, opened) in sorted(content.items()):
        items.append(make_item(blobs, epoch, cell, members, opened))
        rows.setdefault(epoch, []).append((opened, members))
    random.shuffle(items)
    cache, ledger = FoldCache(limit=3), Ledger(federation.digest)
    model = compute_model(federation, ledger, blobs, cache)
    for item in items:
        ledger.add(item)
        model = compute_model(federation, ledger, blobs, cache)
    assert model == compute_model(federation, ledger, blobs)
    total = fold_reference.fold([rows[epoch] for epoch in sorted(rows)], CLIENTS, federation)
    start = np.frombuffer(INITIAL, dtype="<f4")
    for got, first, displacement in zip(np.frombuffer(model, dtype="<f4"), start, total, strict=True):
        exact = float(first) + float(displacement)
        assert abs(float(got) - exact) <= (len(rows) + 1) / FRACTION + abs(exact) * 2**-22


def test_a_full_row_moves_the_model_by_the_weighted_mean() -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    generator = torch.Generator().manual_seed(4)
    members = [(torch.randn(DIMENSION, generator=generator) / 10, int(2**i)) for i in range(CLIENTS)]
    ledger = Ledger(federation.digest)
    for cell in range(4):
        opened = honest_sum(federation, members[4 * cell : 4 * cell + 4])
        ledger.add(make_item(blobs, 1, cell, 4, opened.tolist()))
    moved = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4") - np.frombuffer(
        INITIAL, dtype="<f4"
    )
    weights = np.array([min(examples, 100) for _, examples in members], float)
    updates = np.stack([update.numpy() for update, _ in members])
    assert np.abs(moved - weights @ updates / weights.sum()).max() < 2e-4


def test_a_lone_first_entry_weighs_as_the_part_of_the_roster_that_it_is() -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    ledger = Ledger(federation.digest)
    update = torch.full((DIMENSION,), 0.1)
    opened = honest_sum(federation, [(update, 30)] * 4)
    ledger.add(make_item(blobs, 1, 0, 4, opened.tolist()))
    moved = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4") - np.frombuffer(
        INITIAL, dtype="<f4"
    )
    assert moved == pytest.approx(np.full(DIMENSION, 0.1 * 4 / CLIENTS), rel=2e-3)


@pytest.mark.parametrize("lie", [-4_000_000, -3 * 4096, 0, 1])
def test_a_weight_too_small_shrinks_its_group_and_blows_up_no_row(lie: int) -> None:
    """One member of the group takes all of its weight away and adds the largest update that there is."""
    federation, blobs = make_federation(), MemoryBlobs()
    ledger = Ledger(federation.digest)
    opened = honest_sum(federation, [(torch.full((DIMENSION,), 0.1), 30)] * 4).tolist()
    for epoch in range(1, 7):
        for cell in range(4):
            ledger.add(make_item(blobs, epoch, cell, 4, opened))
    before = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4")
    bound = federation.segments[0].bound
    for cell in range(4):
        ledger.add(make_item(blobs, 7, cell, 4, [10 * bound, *[0] * (DIMENSION - 1), lie]))
    moved = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4") - before
    # Four groups without weight: of the noise allowed for, and no more, over the usual mass.
    assert float(np.abs(moved).max()) < 0.2


huge = st.lists(st.integers(-(2**22), 2**22), min_size=DIMENSION + 3, max_size=DIMENSION + 3)
bad_rows = st.lists(st.tuples(st.integers(1, 8), huge), min_size=1, max_size=4)


@given(st.lists(bad_rows, min_size=1, max_size=7))
@settings(max_examples=100, deadline=None)
def test_no_row_moves_the_model_by_more_than_twice_the_clip_whatever_was_sent(
    rows: list[list[tuple[int, list[int]]]],
) -> None:
    federation = make_federation(clip=1.5, buffer_clip=0.5, metrics=True)
    masses: tuple[int, ...] = ()
    for row in rows:
        added = sum_row(
            ((torch.tensor(opened, dtype=torch.int32), count) for count, opened in row), federation
        )
        divisor = compute_divisor(added, CLIENTS, masses, federation)
        masses = (*masses, added.mass)
        assert 0 <= added.mass <= sum(count for count, _ in row) * federation.parameters.scale
        for segment in federation.model_segments:
            part = added.total[segment.start : segment.stop].to(torch.float64)
            norm = float(part.norm()) * segment.clip / segment.bound / divisor
            assert norm <= 2 * segment.clip * 1.001


def test_an_overstated_weight_counts_at_most_as_all_members_at_the_cap() -> None:
    federation = make_federation()
    assert federation.weight_segment is not None
    bound = federation.weight_segment.bound
    row = sum_row([(torch.tensor([0] * DIMENSION + [2**22], dtype=torch.int32), 4)], federation)
    noise = 7 * 4.5 * sqrt(4) + 1
    assert 4 * bound - 1 <= row.mass <= 4 * bound + noise
