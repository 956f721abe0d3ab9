"""What a run gives: measured figures, judgement, JSON, report and picture."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from node.deployment_files import DeploymentDirectory
from node.supervisor.live import page, progress_line, sparkline
from node.supervisor.plan import Action
from node.supervisor.plot import draw
from node.supervisor.record import Record, Stage
from node.supervisor.report import clock, report, size
from node.supervisor.result import Requirements, judge, result_of
from node.supervisor.watch import ClientView, Phase

from .samples import MODEL, VERSION, record, replica, snapshot

DEMO = Requirements(accuracy=0.93, below_baseline=0.02)


def test_a_run_in_which_all_went_well_has_no_failures() -> None:
    assert judge(record(), DEMO) == []


def test_longest_stall_is_between_entries_while_clients_work() -> None:
    made = Record("x", epochs=3, stage=Stage.TRAINING)
    for seconds, entries in [(0, 0), (10, 1), (11, 2), (17, 3), (18, 4), (40, 5)]:
        made.observe(float(seconds), snapshot(replica(entries=entries)))
    made.trained = 20.0
    assert made.longest_stall == 6.0  # Not the start, nor what trickles in afterwards.
    made.trained = 30.0
    assert made.longest_stall == 12.0  # From the last entry until the clients were done.


def test_entries_after_a_kill_count_from_the_first_kill() -> None:
    made = record()
    assert made.entries_after_kill == 8
    made.events = []
    assert made.entries_after_kill is None


def test_no_entry_after_a_kill_is_a_failure_of_liveness() -> None:
    made = record()
    made.events = [replace(made.events[0], entries=12)]
    assert any("no group was opened after replica-2 was killed" in sentence for sentence in judge(made, DEMO))


def test_epochs_that_were_not_reached_are_a_failure_of_liveness() -> None:
    made = record()
    made.epochs = 5
    assert any("reached epoch 3, not 5" in sentence for sentence in judge(made, DEMO))


def test_epochs_that_training_did_not_need_are_none() -> None:
    made = record()
    made.epochs, made.finished = 5, "good enough"
    assert judge(made, DEMO) == []


def test_another_model_at_one_replica_is_a_failure_of_agreement() -> None:
    made = record()
    certified = replica().certified
    assert certified is not None
    odd = replica("replica-3", certified=replace(certified, model="cc" * 32))
    made.snapshot = snapshot(*made.snapshot.replicas[:3], odd)
    assert any(sentence.startswith("agreement") and "cccc" in sentence for sentence in judge(made, DEMO))


def test_a_replica_without_a_model_is_a_failure_of_agreement_unless_it_was_left_dead() -> None:
    made = record()
    made.snapshot = snapshot(*made.snapshot.replicas[:3], replica("replica-3", certified=None))
    assert any(sentence.startswith("agreement") for sentence in judge(made, DEMO))
    dead = replica("replica-3", Phase.KILLED, certified=None)
    made.snapshot = snapshot(*made.snapshot.replicas[:3], dead)
    assert judge(made, DEMO) == []


@pytest.mark.parametrize(
    ("accuracy", "baseline", "said"),
    [
        (0.92, 0.93, "below 0.93"),
        (0.94, 0.97, "3.00 points under"),
        (None, None, "not measured"),
        (0.94, 0.96, None),
        (0.93, None, None),
    ],
)
def test_accuracy_is_held_to_the_floor_and_to_the_baseline(
    accuracy: float | None, baseline: float | None, said: str | None
) -> None:
    made = record()
    made.accuracy, made.baseline = accuracy, baseline
    failures = judge(made, DEMO)
    if said is None:
        assert failures == []
    else:
        assert any(said in sentence for sentence in failures)


def test_result_has_every_documented_key_and_is_plain_json(made: DeploymentDirectory) -> None:
    ran = record()
    keys = [entry.key.hex() for entry in made.deployment.clients]
    ran.snapshot = snapshot(*(replica(f"replica-{i}", inclusion={keys[0]: 3, keys[1]: 2}) for i in range(4)))
    result = result_of(ran, made.deployment)
    assert json.loads(json.dumps(result)) == result
    assert result["accuracy"] == 0.95
    assert result["baseline_accuracy"] == 0.96
    assert (result["entries"], result["entries_after_kill"], result["epochs"]) == (12, 8, 3)
    assert result["uploads"] == {"sent": 5, "included": 5, "counted": 5}
    assert result["inclusion"] == {f"client-{i}": (3, 2, 0, 0, 0, 0)[i] for i in range(6)}
    assert result["model_digest"] == {f"replica-{i}": MODEL for i in range(4)}
    assert result["version"] == VERSION
    assert (result["killed"], result["restarted"]) == (["replica-2"], ["replica-2"])
    dimension = made.deployment.model.weights + made.deployment.model.buffers
    masked = made.deployment.parameters.upload_bytes(dimension)
    assert result["upload_bytes"] == {
        "masked": masked, "overhead": max(0, round(6000 / 5) - masked), "float32": 4 * dimension,
    }  # fmt: skip
    assert result["seconds"] == 12.0
    assert result["longest_stall_s"] == 1.0
    assert (result["ok"], result["failures"]) == (True, [])


def test_documentation_names_every_key_of_the_result(made: DeploymentDirectory) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "commands.md").read_text()
    for key in result_of(record(), made.deployment):
        assert f"`{key}`" in page, key


def test_a_result_of_a_run_that_got_nowhere_is_still_whole(made: DeploymentDirectory) -> None:
    nothing = Record("example", epochs=3)
    result = result_of(nothing, made.deployment)
    assert result["accuracy"] is None
    assert result["upload_bytes"]["overhead"] is None
    assert result["model_digest"] == {}


def test_report_says_what_happened_and_failures_first(made: DeploymentDirectory, tmp_path: Path) -> None:
    ran = record()
    text = report(ran, made.deployment, result_of(ran, made.deployment), tmp_path)
    assert text.startswith(f"{made.deployment.name}: passed\n")
    assert "0.9500" in text
    assert "replica-2 killed 0:05 (epoch 1), back 0:09 (epoch 2); 4 entries" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert "bit for bit" in text
    ran.failures = ["liveness: something"]
    text = report(ran, made.deployment, result_of(ran, made.deployment), tmp_path)
    assert text.splitlines()[:2] == [f"{made.deployment.name}: FAILED", "  failed     liveness: something"]


def test_updates_that_clients_could_not_send_are_told_with_their_reason(
    made: DeploymentDirectory, tmp_path: Path
) -> None:
    ran = record()
    reason = "the update holds NaN or infinities: training diverged; lower the learning rate"
    clients = tuple(
        ClientView(f"client-{i}", "resting", 3, over=True, refused=2, refused_epoch=2, refused_reason=reason)
        for i in range(4)
    )
    ran.snapshot = snapshot(*(replica(f"replica-{i}", epoch=0) for i in range(4)), clients=clients)
    told = f"4 of 4 clients: {reason}"
    assert f"liveness: the ledger reached epoch 0, not 3 ({told})" in judge(ran, Requirements())
    result = result_of(ran, made.deployment)
    assert result["refused_updates"] == {f"client-{i}": {"count": 2, "reason": reason} for i in range(4)}
    assert f"  refused    {told}\n" in report(ran, made.deployment, result, tmp_path)
    assert "0 of 4 clients done" in progress_line(ran)


def test_picture_is_drawn_for_any_run(tmp_path: Path) -> None:
    never = record()
    never.events, never.baseline = [], None
    for name, ran in {"whole": record(), "nothing": Record("x", epochs=1), "calm": never}.items():
        path = tmp_path / f"{name}.png"
        draw(ran, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def test_live_page_and_progress_line_show_states_and_figures() -> None:
    ran = record()
    ran.stage = Stage.TRAINING
    ran.snapshot = snapshot(
        replica("replica-0", stall="2 of 4 replicas can be reached"),
        replica("replica-1", Phase.KILLED),
        replica("replica-2", Phase.CATCHING_UP),
    )
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(page(ran, ["0:05  killed replica-1 (SIGKILL) at epoch 3"]))
    text = console.export_text()
    for shown in (
        "● killed",
        "● catching up",
        "2.5 MB",
        "1 at epoch 3",
        "1 done",
        "0.950",
        "can be reached",
        "SIGKILL",
    ):
        assert shown in text, shown
    line = progress_line(ran)
    assert "epoch 3 of 3" in line
    assert "replica-1 killed, replica-2 catching up" in line
    assert "2 of 4 replicas can be reached" in line
    ran.epochs = 2
    assert "epoch 3, beyond the 2 asked for" in progress_line(ran)


def test_units() -> None:
    assert (clock(0), clock(61.9), clock(3600)) == ("0:00", "1:01", "60:00")
    assert (size(0), size(999), size(1500), size(2.5e6), size(3e9)) == (
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3.0 GB",
    )
    assert sparkline([0.0, 0.5, 0.99, 1.0]) == "▁▂▇█"


def test_replicas_are_named_once_however_often_they_were_killed() -> None:
    made = record()
    made.events = [*made.events, *made.events]
    assert made.replicas_with(Action.KILL) == ["replica-2"]
