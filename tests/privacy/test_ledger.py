"""The client's durable events: what they cost, what is left, and what is refused."""

from __future__ import annotations

from math import inf

import pytest

from asyncfl.errors import UnsupportedEvent
from asyncfl.parameters import Parameters
from asyncfl.privacy.accountant import Mechanism, epsilon
from asyncfl.privacy.calibration import Budget
from asyncfl.privacy.ledger import PrivacyLedger, UploadEvent, decode_event
from asyncfl.wire import pack

DIMENSION = 4810


def parameters(multiplier: float = 10.0) -> Parameters:
    return Parameters.for_clients(96, cell_size=24, min_group=16, noise_multiplier=multiplier)


def rows(*epochs: int, multiplier: float = 10.0, group: int = 16) -> dict[bytes, bytes]:
    return {epoch.to_bytes(8, "big"): pack((epoch, multiplier, group)) for epoch in epochs}


def test_epsilon_is_that_of_as_many_uploads_as_there_are_events() -> None:
    ledger = PrivacyLedger.read(rows(1, 2, 5, 300), parameters(), DIMENSION)
    assert [event.epoch for event in ledger.events] == [1, 2, 5, 300]
    assert ledger.spent(1e-5) == epsilon(Mechanism.of(parameters(), DIMENSION), 4, 1e-5)


def test_an_empty_ledger_has_spent_nothing() -> None:
    for multiplier in (0.0, 10.0):
        assert PrivacyLedger.read({}, parameters(multiplier), DIMENSION).spent(1e-5) == 0.0


def test_uploads_without_noise_cost_everything() -> None:
    ledger = PrivacyLedger.read(rows(1, multiplier=0.0), parameters(0.0), DIMENSION)
    assert ledger.spent(1e-5) == inf
    assert ledger.left(Budget(8.0, 1e-5)) == 0.0
    assert ledger.uploads_left(Budget(8.0, 1e-5)) == 0


def test_a_budget_is_used_up_upload_by_upload() -> None:
    budget = Budget(2.0, 1e-5)
    fresh = PrivacyLedger.read({}, parameters(), DIMENSION)
    most = fresh.uploads_left(budget)
    assert most > 5
    full = PrivacyLedger.read(rows(*range(1, most + 1)), parameters(), DIMENSION)
    assert full.spent(1e-5) <= 2.0 < full.after(most + 1, 1e-5)
    assert full.uploads_left(budget) == 0
    assert 0 <= full.left(budget) < 2.0
    beyond = PrivacyLedger.read(rows(*range(1, most + 9)), parameters(), DIMENSION)
    assert beyond.uploads_left(budget) == 0
    assert beyond.left(budget) == 0.0


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        pack((1, 10.0)),
        pack((1, 10.0, 16, 0)),
        pack((1, 10, 16)),
        pack((1, float("nan"), 16)),
        pack((1, inf, 16)),
        pack((1, -1.0, 16)),
        pack((1, 10.0, 0)),
        pack((1, 10.0, 16.0)),
        pack((2, 10.0, 16)),
        pack((-1, 10.0, 16)),
        pack((True, 10.0, 16)),
        pack(("upload", 10.0, 16)),
    ],
)
def test_an_event_of_unknown_form_is_refused(value: bytes) -> None:
    with pytest.raises(UnsupportedEvent, match="not guessed"):
        decode_event((1).to_bytes(8, "big"), value)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(UnsupportedEvent):
        decode_event(b"\x01", pack((1, 10.0, 16)))


@pytest.mark.parametrize(("multiplier", "group"), [(9.0, 16), (10.0, 17)])
def test_an_event_of_another_deployment_is_refused(multiplier: float, group: int) -> None:
    mixed = {**rows(1), **rows(2, multiplier=multiplier, group=group)}
    with pytest.raises(UnsupportedEvent, match="epoch 2"):
        PrivacyLedger.read(mixed, parameters(), DIMENSION)


def test_what_the_client_writes_is_what_is_read() -> None:
    value = pack((7, parameters().noise_multiplier, parameters().min_group))
    assert decode_event((7).to_bytes(8, "big"), value) == UploadEvent(7, 10.0, 16)
