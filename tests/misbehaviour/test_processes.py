"""Real processes of which some misbehave: they are loud about it, and the others go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from node.deployment_creation import NewDeployment, create_deployment
from node.supervisor.drill import Drill
from node.supervisor.plan import ScriptedPlan
from node.supervisor.record import Record
from node.supervisor.result import Requirements, judge
from node.supervisor.run import Run, RunOptions

EXTRA = Path(__file__).parents[2] / "misbehaviour"
EPOCHS = 3


class Blind:
    """A view that nobody looks at."""

    def update(self, record: Record) -> None: ...

    def say(self, record: Record, text: str) -> None: ...


@pytest.fixture(autouse=True)
def _children_have_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXTRA), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.timeout(300)
def test_a_malicious_replica_and_a_malicious_client_stop_nobody_and_say_what_they_are(tmp_path: Path) -> None:
    files = create_deployment(
        tmp_path / "run", NewDeployment(clients=8, training={"local_steps": 4}, allow_misbehaviour=True)
    )
    drill = Drill({"replica-2": "drop-updates,wrong-sums", "client-5": "flood-of-uploads"})
    options = RunOptions(
        epochs=EPOCHS, client_processes=1, plan=ScriptedPlan([], []), baseline=False, drill=drill
    )
    record = Run(files, options, Blind()).execute(tmp_path / "model.safetensors")
    assert record.failures + judge(record, Requirements()) == []
    assert record.snapshot.epoch >= EPOCHS
    assert [client.name for client in record.snapshot.clients] == [f"client-{i}" for i in range(8) if i != 5]

    for name, label in (("replica-2", "drop-updates, wrong-sums"), ("client-5", "flood-of-uploads")):
        assert json.loads(files.status_file(name).read_text())["misbehaving"] == label
        log = files.log_file(name).read_text()
        assert "MISBEHAVIOUR" in log.splitlines()[0]
        assert "this_process_misbehaves_on_purpose" in log
        started = next(line for line in log.splitlines() if " started " in line)
        assert f"misbehaving='{label}'" in started
    for name in ("replica-0", "replica-1", "replica-3", "clients-0"):
        log = files.log_file(name).read_text()
        assert "Traceback" not in log
        assert "drill" in log
    for name in ("replica-0", "client-0"):
        assert "misbehaving" not in json.loads(files.status_file(name).read_text())
