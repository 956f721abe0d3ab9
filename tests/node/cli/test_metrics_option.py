"""`asyncfl init --parameter metrics=true`: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncfl.deployment import Deployment
from asyncfl.errors import ConfigurationError
from asyncfl.stopping import Stop
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


def test_stop_is_written_and_read_back_and_needs_metrics(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="metrics = true"):
        create_deployment(tmp_path / "no", NewDeployment(clients=4, stop={"accuracy": 0.9}))
    wanted = NewDeployment(clients=4, parameters={"metrics": True}, stop={"accuracy": 0.9, "rows": 3})
    made = create_deployment(tmp_path / "yes", wanted).deployment
    assert made.federation().stop == Stop(accuracy=0.9, rows=3)
    assert Deployment.parse(made.render()) == made
    again = Deployment.parse(made.render().replace("accuracy = 0.9", "accuracy = 0.95"))
    assert again.digest == made.digest, "[stop] can be edited"


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ({"rows": 3}, "accuracy or patience_rows is needed"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"accuracy": 0.5, "row": 3}, "row"),
    ],
)
def test_a_stop_that_ends_nothing_is_refused(tmp_path: Path, stop: dict[str, float], message: str) -> None:
    wanted = NewDeployment(clients=4, parameters={"metrics": True}, stop=stop)
    with pytest.raises(ConfigurationError, match=message):
        create_deployment(tmp_path / "x", wanted)
