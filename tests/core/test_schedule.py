"""Schedules: what each epoch's settings are, and what a [training] section must not say."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asyncfl.messages import Settings
from asyncfl.schedule import Schedule

DECAYS = st.one_of(
    st.just({"decay": "constant"}),
    st.fixed_dictionaries(
        {
            "decay": st.sampled_from(["step", "exponential"]),
            "decay_epochs": st.integers(1, 60),
            "decay_factor": st.floats(0.01, 0.99),
        }
    ),
    st.fixed_dictionaries({"decay": st.just("cosine"), "decay_epochs": st.integers(1, 200)}),
)
SCHEDULES = st.builds(
    lambda decay, rate, warmup, floor: Schedule(
        learning_rate=rate, warmup_epochs=warmup, decay_floor=floor, **decay
    ),
    DECAYS,
    st.floats(1e-6, 10),
    st.integers(0, 30),
    st.floats(0, 1),
)


def rates(schedule: Schedule, epochs: int) -> list[float]:
    return [schedule.settings_at(epoch).learning_rate for epoch in range(1, epochs + 1)]


@settings(max_examples=150, deadline=None)
@given(SCHEDULES)
def test_the_learning_rate_rises_through_the_warm_up_and_never_rises_again(schedule: Schedule) -> None:
    found, warmup, base = rates(schedule, 100), schedule.warmup_epochs, schedule.learning_rate
    assert found == rates(schedule, 100), "a function of the epoch alone"
    assert all(0 < rate < base for rate in found[:warmup])
    assert all(earlier < later for earlier, later in pairwise(found[:warmup]))
    assert found[warmup] == pytest.approx(base)
    after = found[warmup:]
    assert all(later <= earlier for earlier, later in pairwise(after))
    assert all(schedule.decay_floor * base <= rate * (1 + 1e-12) for rate in after)


def test_each_kind_of_decay_has_its_published_values() -> None:
    step = Schedule(learning_rate=0.8, decay="step", decay_epochs=10, decay_factor=0.5)
    assert [rates(step, 31)[i] for i in (0, 9, 10, 20, 30)] == [0.8, 0.8, 0.4, 0.2, 0.1]
    falling = Schedule(learning_rate=1.0, decay="exponential", decay_epochs=10, decay_factor=0.5)
    assert rates(falling, 11)[5] == pytest.approx(math.sqrt(0.5))
    assert rates(falling, 11)[10] == pytest.approx(0.5)
    assert rates(falling, 1000)[-1] == 0.01, "the default floor"
    cosine = Schedule(learning_rate=2.0, decay="cosine", decay_epochs=20, decay_floor=0.1)
    found = rates(cosine, 40)
    assert found[0] == 2.0
    assert found[10] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert found[20:] == [pytest.approx(0.2)] * 20
    warm = Schedule(learning_rate=1.0, warmup_epochs=3, decay="step", decay_epochs=1, decay_factor=0.5)
    assert rates(warm, 6) == [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]


def test_changes_hold_from_their_epoch_on_and_keep_what_they_do_not_name() -> None:
    schedule = Schedule.model_validate(
        {
            "learning_rate": 0.4, "local_steps": 20, "seconds": 3.0,
            "decay": "step", "decay_epochs": 10, "decay_factor": 0.5,
            "changes": [
                {"epoch": 5, "local_steps": 10, "proximal": 0.1},
                {"epoch": 15, "learning_rate": 0.2, "local_steps": 5, "seconds": 0.0, "most_steps": 3},
            ],
        }
    )  # fmt: skip
    common = {"batch_size": 32}
    assert schedule.settings_at(4) == Settings(learning_rate=0.4, local_steps=20, seconds=3.0, **common)
    assert schedule.settings_at(5) == schedule.settings_at(10)
    assert schedule.settings_at(10) == Settings(
        learning_rate=0.4, local_steps=10, proximal=0.1, seconds=3.0, **common
    )
    assert schedule.settings_at(2**31 - 1) == Settings(
        learning_rate=0.002, local_steps=5, proximal=0.1, most_steps=3, **common
    )
    assert schedule.settings_at(15).learning_rate == pytest.approx(0.1), "decay goes on across changes"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"decay": "step"}, 'decay = "step" takes decay_epochs and decay_factor; given: none'),
        ({"decay": "cosine", "decay_epochs": 3, "decay_factor": 0.5}, 'decay = "cosine" takes decay_epochs'),
        ({"decay_epochs": 3}, 'decay = "constant" takes neither'),
        ({"decay": "linear"}, "'constant', 'step', 'exponential' or 'cosine'"),
        ({"changes": [{"epoch": 5}, {"epoch": 5}]}, "in the order of their epochs, each epoch once"),
        ({"changes": [{"epoch": 9}, {"epoch": 5}]}, "in the order of their epochs, each epoch once"),
        ({"changes": [{"epoch": 1}]}, "greater than or equal to 2"),
        ({"changes": [{"epoch": 3, "decay": "step"}]}, "Extra inputs are not permitted"),
        ({"learning_rate": math.nan}, "finite number"),
        ({"proximal": -0.1}, "greater than or equal to 0"),
        ({"seconds": math.inf}, "finite number"),
        ({"decay": "step", "decay_epochs": 3, "decay_factor": 1.5}, "less than 1"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schedule.model_validate({"learning_rate": 0.1} | section)
