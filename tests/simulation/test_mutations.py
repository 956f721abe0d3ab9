"""The simulator's worth: every deliberate defect is caught, and the same runs without it are clean."""

import pytest

from asyncfl.adversary import ATTACKERS
from asyncfl.simulation.trial import run
from tests.simulation.mutations import BY_NAME, MUTATIONS, Mutation, applied

DRAIN = 40.0
"""Virtual seconds that late uploads are given before losses are counted."""
LOSS = 0.75
"""A defect that only costs uploads shows when at most this part of the uploads of the control is opened."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_defect_is_caught(mutation: Mutation) -> None:
    for seed in range(1, mutation.seeds + 1):
        scenario = mutation.scenario(seed)
        with applied(mutation):
            outcome = run(scenario, drain=0.0 if mutation.found else DRAIN)
        if outcome.kind is not None:
            assert outcome.kind in mutation.found, (outcome.violations[:2], outcome.stalled)
            return
        if not mutation.found and outcome.included <= LOSS * run(scenario, drain=DRAIN).included:
            return
    pytest.fail(f"{mutation.name} passed {mutation.seeds} runs unnoticed")


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.found], ids=lambda mutation: mutation.name)
def test_the_same_run_without_the_defect_is_clean(mutation: Mutation) -> None:
    outcome = run(mutation.scenario(1))
    assert outcome.kind is None, (outcome.violations[:2], outcome.stalled)


def test_attackers_name_defects_that_exist() -> None:
    named = {name for attacker in ATTACKERS.values() for name in attacker.without}
    assert named <= BY_NAME.keys()
    assert len(MUTATIONS) >= 17
