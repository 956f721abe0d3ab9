"""`asyncfl init --parameter metrics=true`: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncfl.errors import ConfigurationError
from node.deployment_creation import NewDeployment, create_deployment


class Unmeasured:
    """A task without `evaluate_client`."""

    def __init__(self, clients: int, seed: int) -> None:
        import torch

        self.model = lambda: torch.nn.Linear(2, 2)
        self.train = self.evaluate = lambda *arguments: 0.0


def test_clients_of_a_built_in_task_keep_examples_only_with_metrics_on(tmp_path: Path) -> None:
    plain = create_deployment(tmp_path / "plain", NewDeployment(clients=4)).deployment
    assert plain.task.options == {}
    on = NewDeployment(clients=4, parameters={"metrics": True})
    assert create_deployment(tmp_path / "on", on).deployment.task.options == {"own_test": 0.2}
    chosen = NewDeployment(clients=4, parameters={"metrics": True}, task_options={"own_test": 0.5})
    assert create_deployment(tmp_path / "own", chosen).deployment.task.options == {"own_test": 0.5}


def test_a_task_that_cannot_measure_is_refused_with_metrics_on(tmp_path: Path) -> None:
    name = f"{__name__}:Unmeasured"
    create_deployment(tmp_path / "off", NewDeployment(clients=4, task=name))
    wanted = NewDeployment(clients=4, task=name, parameters={"metrics": True})
    with pytest.raises(ConfigurationError, match="no method evaluate_client"):
        create_deployment(tmp_path / "refused", wanted)
