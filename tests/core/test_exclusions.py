"""What the operator takes out of the model: numbered statements, and what the fold is left with."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.errors import InvalidItem
from asyncfl.exclusions import Exclusion, Exclusions, put_exclusion
from asyncfl.ledger import Ledger
from asyncfl.messages import Epochs, Item
from tests.core.builders import make_simulation
from tests.core.test_ledger import DEPLOYMENT, make_item

SIMULATION = make_simulation(8)
FEDERATION = SIMULATION.federation
sign = SIMULATION.sign_exclusion
ITEMS = [make_item(epoch, cell, clients=(cell, 10 + cell)) for epoch in (1, 2, 3, 5, 8) for cell in range(4)]

exclusions = st.builds(
    Exclusion,
    number=st.just(1),
    name=st.just(b"n" * 32),
    entries=st.frozensets(st.sampled_from([item.digest() for item in ITEMS])),
    clients=st.frozensets(st.sampled_from([bytes([client]) * 32 for client in range(14)])),
    spans=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=2).map(tuple),
)


def fill(items: list[Item]) -> Ledger:
    ledger = Ledger(DEPLOYMENT)
    for item in items:
        ledger.add(item)
    return ledger


@given(st.permutations(ITEMS), exclusions, st.integers(0, len(ITEMS)))
def test_what_counts_is_the_ledger_without_the_excluded(
    items: list[Item], exclusion: Exclusion, before: int
) -> None:
    """Whether the statement comes before the entries that it names, after them, or in between."""
    ledger = fill(items[:before])
    ledger.exclude(exclusion)
    for item in items[before:]:
        ledger.add(item)
    counting = fill([item for item in ITEMS if not exclusion.excludes(item.digest(), item)])
    assert ledger.counted_head.chain == counting.version
    assert ledger.counted_head.entries == counting.entries
    assert ledger.counted_head.memberships == counting.head.memberships
    assert ledger.version == fill(ITEMS).version, "entries stay in the ledger"
    assert ledger.entries == len(ITEMS)
    ledger.exclude(Exclusion())
    assert ledger.counted_head is ledger.head


@given(exclusions, st.integers(0, len(ITEMS)), st.integers(0, 9))
def test_what_counts_of_another_s_version(exclusion: Exclusion, held: int, changed: int) -> None:
    """A version that only somebody else holds: it shares a past with this ledger, and differs from some row on."""
    ledger = fill(ITEMS)
    ledger.exclude(exclusion)
    other = fill([item for item in ITEMS if item.id.epoch < changed or item.digest()[0] % 2])
    head = ledger.extended(ledger.start, other.rows())
    assert head is not None
    counting = [item for item in other.items.values() if not exclusion.excludes(item.digest(), item)]
    assert ledger.counted(head).chain == fill(counting).version
    assert ledger.counted(ledger.head) is ledger.counted_head


def test_the_past_that_nothing_is_excluded_from_is_shared() -> None:
    ledger = fill(ITEMS)
    ledger.exclude(Exclusion(1, b"n" * 32, spans=((5, 5),)))
    counted, whole = list(ledger.counted_head.back()), list(ledger.head.back())
    assert [link.epoch for link in counted] == [8, 3, 2, 1]
    assert all(mine is theirs for mine, theirs in zip(counted[1:], whole[2:], strict=True))


def test_a_version_names_the_statement() -> None:
    chain = b"c" * 32
    one, two = sign(1, clients=[0]), sign(2, clients=[0])
    versions = {Exclusion().version(chain), *(Exclusion.of(each).version(chain) for each in (one, two))}
    assert len(versions) == 3
    assert chain in versions


# statements


def test_the_last_statement_replaces_those_before() -> None:
    held = Exclusions(FEDERATION)
    first, second = sign(1, clients=[3], reason="poison"), sign(2, spans=[(2, 4)])
    assert held.add(first)
    assert held.in_force == Exclusion.of(first)
    assert held.add(second)
    assert not held.add(second)
    assert not held.add(first), "a replayed one changes nothing"
    assert held.in_force == Exclusion.of(second)
    assert held.statements(0) == (first, second)
    assert held.statements(1) == (second,)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1)])
def test_of_two_with_one_number_all_replicas_go_by_the_same(order: tuple[int, ...]) -> None:
    both = [sign(1, clients=[1]), sign(1, clients=[2])]
    held = Exclusions(FEDERATION)
    for index in order:
        held.add(both[index])
    smaller, larger = sorted(both, key=lambda statement: statement.body())
    assert held.in_force == Exclusion.of(smaller)
    assert held.doubles == {1: larger}
    again = Exclusions(FEDERATION)
    again.load(dict((put.key, put.value) for put in map(put_exclusion, both)))
    assert (again.held, again.doubles, again.in_force) == (held.held, held.doubles, held.in_force)
    later = sign(2)
    assert held.add(later)
    assert held.in_force == Exclusion.of(later)


def test_many_with_one_number_are_not_all_kept() -> None:
    held = Exclusions(FEDERATION)
    for client in range(8):
        held.add(sign(1, clients=[client]))
    assert len(held.doubles) == len(held.held) == 1


def test_what_is_refused() -> None:
    held = Exclusions(FEDERATION)
    statement = sign(1, clients=[0, 1], spans=[(1, 2), (4, 5)])
    stranger = Exclusions(replace(FEDERATION, digest=b"another" * 4 + b"four"))
    with pytest.raises(InvalidItem, match="did not sign"):
        stranger.add(statement)
    with pytest.raises(InvalidItem, match="did not sign"):
        held.add(statement.model_copy(update={"reason": "changed"}))
    with pytest.raises(InvalidItem, match="before exclusion 1 is held"):
        held.add(sign(2))
    unsorted = tuple(reversed(statement.clients))
    for wrong in (
        {"clients": unsorted},
        {"clients": (unsorted[0],) * 2},
        {"spans": (Epochs(first=3, last=2),)},
        {"spans": (Epochs(first=1, last=2), Epochs(first=3, last=4))},
    ):
        changed = statement.model_copy(update=wrong)
        signature = SIMULATION.operator_id.sign("exclusion", FEDERATION.digest, changed.body())
        with pytest.raises(InvalidItem, match="do not ascend"):
            held.add(changed.model_copy(update={"signature": signature}))
    assert not held.held
    assert held.in_force == Exclusion()
