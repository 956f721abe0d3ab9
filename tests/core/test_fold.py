"""The model is a pure function of the set: exact, whatever came when, whatever is cached."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl import fold
from asyncfl.digest import content_digest
from asyncfl.federation import Federation
from asyncfl.fold import (
    FRACTION,
    FoldCache,
    FoldJob,
)
from asyncfl.ledger import Ledger
from asyncfl.masking import encode_sum
from asyncfl.messages import GroupId, Item, Member
from asyncfl.parameters import Parameters
from asyncfl.rows import compute_expected, compute_norm_limit, squared_norm
from asyncfl.simulation import Simulation
from asyncfl.simulation.network import MemoryBlobs
from tests.spec import fold_reference

DIMENSION = 7
INITIAL = np.linspace(-1, 1, DIMENSION, dtype="<f4").tobytes()


def make_federation(**options: object) -> Federation:
    parameters = Parameters.for_clients(16, **{"preset": "tiny", **options})
    return Simulation(parameters, 16, initial=INITIAL, weights=5).federation


def make_entry(blobs: MemoryBlobs, epoch: int, cell: int, members: int, values: list[int]) -> Item:
    opened = blobs.write(encode_sum(torch.tensor(values, dtype=torch.int32)))
    clients = [bytes([cell, number]) * 16 for number in range(members)]
    return Item(
        id=GroupId(epoch=epoch, cell=cell, coordinator=cell % 4, part=0),
        members=tuple(Member(client=client, epoch=epoch, manifest=bytes(32)) for client in sorted(clients)),
        opened=opened,
    )


def compute_model(
    federation: Federation, ledger: Ledger, blobs: MemoryBlobs, cache: FoldCache | None = None
) -> bytes:
    folded = FoldJob(federation, INITIAL, ledger.head, 16, cache or FoldCache()).run(blobs)
    assert folded.size == 4 * DIMENSION
    return blobs.read(folded.model)


values = st.lists(st.integers(-40000, 40000), min_size=DIMENSION, max_size=DIMENSION)
entries = st.dictionaries(
    st.tuples(st.integers(1, 9), st.integers(0, 3)), st.tuples(st.integers(3, 6), values), max_size=12
)


@given(entries)
@settings(max_examples=60)
def test_the_fold_is_the_reference_to_rounding(content: dict[tuple[int, int], tuple[int, list[int]]]) -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    ledger = Ledger(federation.digest)
    rows: dict[int, list[tuple[list[int], int]]] = {}
    for (epoch, cell), (members, opened) in sorted(content.items()):
        ledger.add(make_entry(blobs, epoch, cell, members, opened))
        rows.setdefault(epoch, []).append((opened, members))
    total = fold_reference.fold([rows[epoch] for epoch in sorted(rows)], 16, federation)
    model = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4")
    start = np.frombuffer(INITIAL, dtype="<f4")
    for got, first, displacement in zip(model, start, total, strict=True):
        exact = float(first) + float(displacement)
        assert abs(float(got) - exact) <= (len(rows) + 1) / FRACTION + abs(exact) * 2**-23


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@given(entries, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_bits_do_not_depend_on_arrival_or_on_the_cache(
    optimizer: str, content: dict[tuple[int, int], tuple[int, list[int]]], random: "np.random.Generator"
) -> None:
    federation, blobs = make_federation(server_optimizer=optimizer), MemoryBlobs()
    items = [make_entry(blobs, e, c, members, opened) for (e, c), (members, opened) in content.items()]
    random.shuffle(items)
    cache, ledger = FoldCache(limit=3), Ledger(federation.digest)
    model = compute_model(federation, ledger, blobs, cache)
    for item in items:
        ledger.add(item)
        model = compute_model(federation, ledger, blobs, cache)
    assert model == compute_model(federation, ledger, blobs)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_late_entry_is_folded_in_where_it_belongs(optimizer: str) -> None:
    federation, blobs = make_federation(server_optimizer=optimizer), MemoryBlobs()
    items = [make_entry(blobs, epoch, 0, 4, [epoch * 1000] * DIMENSION) for epoch in (1, 2, 3)]
    models = set()
    for order in permutations(items):
        ledger, cache = Ledger(federation.digest), FoldCache()
        for item in order:
            ledger.add(item)
            last = compute_model(federation, ledger, blobs, cache)
        models.add(last)
    assert len(models) == 1


def test_a_payload_far_beyond_the_clip_moves_the_model_no_further_than_the_clip() -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    ledger = Ledger(federation.digest)
    ledger.add(make_entry(blobs, 1, 0, 3, [4_000_000] * DIMENSION))
    model = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4")
    moved = model - np.frombuffer(INITIAL, dtype="<f4")
    for segment in federation.segments:
        part = moved[segment.start : segment.stop].astype(float)
        limit = compute_norm_limit(federation.parameters, segment, 3) * segment.clip / segment.bound / 16
        assert 0.9 * limit < float(np.linalg.norm(part)) <= limit * 1.001


def test_a_lone_first_entry_does_not_weigh_as_a_whole_row() -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    ledger = Ledger(federation.digest)
    bound = federation.segments[0].bound
    ledger.add(make_entry(blobs, 1, 0, 4, [bound, 0, 0, 0, 0, 0, 0]))
    moved = np.frombuffer(compute_model(federation, ledger, blobs), dtype="<f4")[0] + 1
    assert moved == pytest.approx(1 / 16, rel=1e-6)


@pytest.mark.parametrize(
    ("previous", "expected"), [([], 16), ([4], 4), ([4, 8], 8), ([1, 9, 5], 5), ([99, 1, 2, 3, 4, 5], 3)]
)
def test_expected_members_are_the_median_of_the_last_five_rows(previous: list[int], expected: int) -> None:
    assert compute_expected(previous, 16) == expected


@given(st.lists(st.integers(-(2**26), 2**26), min_size=1, max_size=3000))
@settings(max_examples=30)
def test_norms_are_exact(values: list[int]) -> None:
    assert squared_norm(torch.tensor(values)) == sum(value * value for value in values)


def test_the_models_digest_is_that_of_its_canonical_bytes() -> None:
    federation, blobs = make_federation(), MemoryBlobs()
    ledger = Ledger(federation.digest)
    assert content_digest(compute_model(federation, ledger, blobs)) == federation.initial_model


def test_versions_that_others_invent_do_not_drive_own_states_out_of_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation, blobs, folded = make_federation(), MemoryBlobs(), []
    ledger = Ledger(federation.digest)
    for epoch in range(1, 31):
        for cell in range(2):
            ledger.add(make_entry(blobs, epoch, cell, 4, [epoch, cell, 1, 0, 0, 0, 0]))
    fold_row = fold.fold_row
    monkeypatch.setattr(fold, "fold_row", lambda *given: folded.append(given[2]) or fold_row(*given))
    cache = FoldCache()
    compute_model(federation, ledger, blobs, cache)
    first, *others = ledger.rows()
    fork = ledger.extended(ledger.start, [first.model_copy(update={"items": first.items[1:]}), *others])
    assert fork is not None
    for _ in range(2):
        FoldJob(federation, INITIAL, fork, 16, cache, own=False).run(blobs)
    folded.clear()
    ledger.add(make_entry(blobs, 28, 2, 4, [1] * 7))
    assert compute_model(federation, ledger, blobs, cache) == compute_model(federation, ledger, blobs)
    assert folded[:3] == [28, 29, 30]
