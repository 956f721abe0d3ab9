"""What the client reputation makes of an experiment with malicious clients, and the map of many such runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from asyncfl.group_rules import clean_probability
from node.experiment.poisoning.attribution import Attribution
from node.experiment.poisoning.cells import run_cells
from node.experiment.poisoning.course import run_cell
from node.experiment.poisoning.map_plot import draw_map, field, is_map
from node.experiment.poisoning.report import markdown
from tests.experiment.poisoned import NOWHERE, cell, small


def test_the_reputation_of_a_run_finds_who_sends_noise_and_weighs_their_groups_down() -> None:
    experiment = small(clients=16, epochs=12, attacks=["gaussian-noise"], rules=["mean", "mean+reputation"])
    facts = {}
    for rule in experiment.rules:
        chosen = cell(experiment, attack="gaussian-noise", malicious=0.125, group=2, rule=rule)
        facts[rule] = run_cell(experiment, chosen, NOWHERE, "cpu")
    found = facts["mean"]["attribution"]
    assert len(found["epochs"]) == 12
    assert found["separation"] == 1.0
    assert 1 <= found["separated_at"] <= 12
    assert all(each["separation"] >= 0.95 for each in found["epochs"][found["separated_at"] - 1 :])
    assert found["wrong"] <= 0.1
    assert found["wrong_rare"] is None
    assert facts["mean+reputation"]["accuracy"] > facts["mean"]["accuracy"]


def test_shares_of_suspects_are_of_the_malicious_the_honest_and_the_rare() -> None:
    one = Attribution(10, malicious=(0, 1), rare=(1, 5))
    means = torch.zeros(10, 4)
    means[0], means[1], means[5] = 9.0, 9.0, 9.0
    means += torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    groups = [(client,) for client in range(10)]
    for _ in range(12):
        one.learn(groups, means)
    facts = one.facts(0.75)
    assert facts is not None
    assert (facts["found"], facts["wrong"], facts["wrong_rare"]) == (1.0, 0.125, 1.0)
    assert facts["separation"] == pytest.approx(1 - 0.125 * facts_of_ties(one))
    assert facts["found_at"] is not None
    assert one.weights(groups)[2] == 1.0
    assert one.weights(groups)[0] < 0.5
    assert Attribution(4, (), ()).facts(0.75) is None


def facts_of_ties(one: Attribution) -> float:
    """Of the two malicious clients, the share that is less suspect than honest client 5; ties count half."""
    other = one.reputation.suspicion(5)[0]
    means = [one.reputation.suspicion(client)[0] for client in (0, 1)]
    return sum(1.0 if mean < other else 0.5 * (mean == other) for mean in means) / 2


def test_a_map_has_a_panel_of_every_rule_and_of_the_suspects_and_a_table(tmp_path: Path) -> None:
    experiment = small(groups=[1, 2, 4], malicious=[0.125, 0.25], epochs=2, rules=["mean"])
    result = run_cells(experiment, tmp_path, None, lambda *_: None)
    assert is_map(result)
    accuracy = field(result, "sign-flip", "mean", lambda each: each["accuracy"])
    assert accuracy.shape == (2, 3)
    assert accuracy[1, 2] == next(
        each["accuracy"] for each in result["cells"] if (each["malicious"], each["group"]) == (0.25, 4)
    )
    assert np.isnan(field(result, "mimic", "mean", lambda each: each["accuracy"])).all()
    (picture,) = draw_map(result, tmp_path)
    assert picture.stat().st_size > 1000
    page = markdown(result)
    assert "| suspects (rule `mean`) | malicious | group | clean groups, % |" in page
    assert f"| sign-flip | 25 % | 4 | {100 * clean_probability(8, 4, 0.25):.1f} |" in page
    assert not is_map({"experiment": small().model_dump(), "cells": []})
