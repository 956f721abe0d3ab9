"""Rosters after the first: what the operator adds is read back and leaves the rest alone; anything else is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl import deployment_rosters
from asyncfl.deployment import Deployment
from asyncfl.deployment_rosters import check_room
from asyncfl.errors import ConfigurationError
from asyncfl.identity import verify
from asyncfl.parameters import Parameters

from .builders import EXAMPLE, OPERATOR, key, make, refusal

FIRST = tuple(f"client-{i}" for i in range(6))


def joined(deployment: Deployment, *names: str, at: int, without: tuple[str, ...] = ()) -> Deployment:
    return deployment.next_roster(
        OPERATOR,
        start_epoch=at,
        members=[name for name in (*deployment.members, *names) if name not in without],
        enrolled={name: key(name) for name in names if name not in deployment.names.values()},
    )


TWICE = joined(joined(EXAMPLE, "late-0", "late-1", at=20), at=31, without=("client-2", "late-0"))
TEXT = TWICE.render()


def changed(old: str, new: str) -> str:
    assert old in TEXT, f"{old!r} is not in the example"
    head, _, tail = TEXT.rpartition(old)
    return head + new + tail


def test_a_file_without_later_rosters_does_not_mention_them() -> None:
    assert "[[rosters]]" not in EXAMPLE.render()
    assert "rosters" not in EXAMPLE.render()
    assert EXAMPLE.members == FIRST


def test_later_rosters_leave_the_first_and_the_deployment_as_they_were() -> None:
    assert TWICE.digest == EXAMPLE.digest
    rosters = TWICE.federation().rosters
    assert rosters[0] == EXAMPLE.federation().rosters[0]
    assert [(roster.number, roster.start_epoch) for roster in rosters] == [(0, 1), (1, 20), (2, 31)]
    assert rosters[1].members == tuple(sorted(map(key, (*FIRST, "late-0", "late-1"))))
    assert rosters[2].members == tuple(sorted({*rosters[1].members} - {key("client-2"), key("late-0")}))
    assert TWICE.clients[: len(FIRST)] == EXAMPLE.clients
    assert [client.start_epoch for client in TWICE.clients[len(FIRST) :]] == [20, 20]


def test_every_roster_carries_the_operators_signature() -> None:
    for roster in TWICE.federation().rosters:
        assert verify(OPERATOR.public, "roster", TWICE.digest, roster.digest, roster.signature)


def test_a_retired_client_that_returns_keeps_its_key_and_first_epoch() -> None:
    back = joined(TWICE, "client-2", "late-0", at=40)
    assert set(back.members) == {*FIRST, "late-0", "late-1"}
    assert back.clients == TWICE.clients
    assert Deployment.parse(back.render()) == back


def test_data_of_the_first_clients_stays_where_it_is_and_later_clients_share_it() -> None:
    parts = {client.name: TWICE.client_index(client.name) for client in TWICE.clients}
    assert parts == {**{f"client-{i}": i for i in range(6)}, "late-0": 0, "late-1": 1}
    assert TWICE.first_clients == EXAMPLE.first_clients


@st.composite
def histories(draw: st.DrawFn) -> Deployment:
    """Up to five rosters; each step lets some join, return and leave, never fewer than a cell."""
    deployment = EXAMPLE
    epoch, fresh = 1, 0
    for _ in range(draw(st.integers(0, 5))):
        epoch += draw(st.integers(1, 50))
        away = sorted(
            set(deployment.names.values()) - set(deployment.members) - {f"replica-{i}" for i in range(4)}
        )
        new = [f"new-{fresh + i}" for i in range(draw(st.integers(0, 2)))]
        fresh += len(new)
        back = [name for name in away if draw(st.booleans())]
        leaving = draw(st.sets(st.sampled_from(deployment.members), max_size=len(deployment.members) - 3))
        deployment = joined(deployment, *back, *new, at=epoch, without=tuple(leaving))
    return deployment


@settings(max_examples=40, deadline=None)
@given(histories())
def test_what_is_written_is_read_back(deployment: Deployment) -> None:
    again = Deployment.parse(deployment.render())
    assert again == deployment
    assert again.federation() == deployment.federation()
    assert again.federation().rosters[0] == EXAMPLE.federation().rosters[0]
    assert all(0 <= again.client_index(client.name) < 6 for client in again.clients)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_single_changed_character_slips_through_unnoticed(data: st.DataObject) -> None:
    place = data.draw(st.integers(TEXT.index("late-0") - 100, len(TEXT) - 1))
    character = data.draw(st.characters(codec="ascii"))
    try:
        parsed = Deployment.parse(TEXT[:place] + character + TEXT[place + 1 :])
    except ConfigurationError:
        return
    assert parsed.federation().rosters == TWICE.federation().rosters


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("number = 2", "number = 3", "rosters[1].number: rosters are numbered 1, 2, 3"),
        ("number = 2", "number = 1", "rosters[1].number"),
        ("number = 2", "number = 0", "rosters[1].number"),
        ("start_epoch = 31", "start_epoch = 20", "rosters[1].start_epoch: roster 2 starts at epoch 20"),
        ("start_epoch = 31", "start_epoch = 32", "rosters[1].signature: the operator did not sign"),
        ('"client-5",\n', '"client-5",\n    "client-9",\n', "rosters[1].members: client-9 is none of"),
        ('"client-5",\n', '"client-5",\n    "client-4",\n', "rosters[1].members: client-4 is listed twice"),
        ('    "client-5",\n', "", "rosters[1].signature"),
        ('"client-5"', '"client-2"', "rosters[1].signature"),
        ("members = [", "member = [", "did you mean 'members'"),
    ],
)  # fmt: skip
def test_a_bad_later_roster_is_refused_with_its_place(old: str, new: str, expected: str) -> None:
    assert expected in refusal(changed(old, new))


def test_a_roster_of_another_deployment_is_refused() -> None:
    other = joined(make(nonce=bytes(16)), "late-0", "late-1", at=20)
    stolen = other.rosters[0].signature.hex()
    assert "rosters[0].signature" in refusal(TEXT.replace(TWICE.rosters[0].signature.hex(), stolen))


def test_a_roster_too_small_for_a_cell_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigurationError, match="cell_size is 3, but only 2 clients are members"):
        joined(EXAMPLE, at=5, without=FIRST[:4])


def test_a_roster_cannot_start_before_the_one_that_it_follows() -> None:
    with pytest.raises(ConfigurationError, match="not after the one before it"):
        joined(TWICE, "late-2", at=31)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("start_epoch = 20\nsignature", "start_epoch = 21\nsignature", 1),
        lambda text: text[: text.index("[[rosters]]")],
    ],
    ids=["another epoch than its roster's", "no roster at all"],
)
def test_a_later_client_starts_with_its_first_roster(edit: Callable[[str], str]) -> None:
    assert "clients[6].start_epoch: late-0 starts at epoch" in refusal(edit(TEXT))


def test_a_later_client_cannot_be_smuggled_into_the_first_roster() -> None:
    text = TEXT.replace("start_epoch = 20\nsignature", "start_epoch = 1\nsignature", 1)
    assert "clients[6].signature: the operator did not enrol late-0" in refusal(text)


def test_more_groups_than_an_epoch_of_the_ledger_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six clients in groups of two; a seventh and an eighth make a fourth group, also when others have retired."""
    monkeypatch.setattr(deployment_rosters, "MAX_ROW_ITEMS", 3)
    seven = joined(EXAMPLE, "late-0", at=20, without=("client-2", "client-4"))
    with pytest.raises(
        ConfigurationError, match=r"8 clients.* up to 4 groups of min_group 2 .* holds 3; .* cell_size: 4"
    ):
        joined(seven, "late-1", at=31)
    monkeypatch.setattr(deployment_rosters, "MAX_ROW_ITEMS", 2)
    assert "larger cell_size: 4, with min_group 3, would do" in refusal(EXAMPLE.render())


def test_what_would_do_does() -> None:
    parameters = Parameters.for_clients(12300, cell_size=3)
    with pytest.raises(
        ConfigurationError, match=r"up to 6150 groups of .* larger cell_size: 6, with min_group 4, would do"
    ):
        check_room("deployment.toml", 12300, 12300, parameters)
    check_room("deployment.toml", 12300, 12300, Parameters.for_clients(12300, cell_size=6))
    with pytest.raises(ConfigurationError, match="at most 16384"):
        check_room("deployment.toml", 16385, 16385, Parameters.for_clients(16385))
