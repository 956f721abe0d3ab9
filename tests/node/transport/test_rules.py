"""Every rule of the transport is needed: without it the attack that it stops does harm, and with it it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS
from tests.defects import defects
from tests.node.transport.rules import RULES, Rule

each_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.defect for rule in RULES])


@each_rule
async def test_with_its_rule_an_attack_does_little_harm(net: Any, rule: Rule) -> None:
    assert await rule.attack(net) <= rule.bound, rule.harm


@pytest.fixture
def broken(rule: Rule) -> Iterator[Rule]:
    """The code without it. No coroutine: reading source files blocks an event loop."""
    with defects(rule.edits):
        yield rule


@each_rule
async def test_without_its_rule_it_succeeds(net: Any, broken: Rule) -> None:
    assert await broken.attack(net) > broken.bound, broken.harm


def test_every_assault_has_a_rule_without_which_it_succeeds() -> None:
    assert {rule.drill for rule in RULES} - {""} == TRANSPORT_ATTACKS.keys()
    assert len({rule.defect for rule in RULES}) == len(RULES)


def test_the_threat_model_lists_every_rule() -> None:
    page = (Path(__file__).parents[3] / "docs" / "threat-model.md").read_text()
    assert not [rule.defect for rule in RULES if f"`{rule.defect}`" not in page]
