"""scripts/byzantine_demo.py: who does what, what is judged, and the whole of it in real processes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from asyncfl.errors import ConfigurationError
from node.supervisor.drill import Drill

SCRIPT = Path(__file__).parents[2] / "scripts" / "byzantine_demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("byzantine_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_each_malicious_replica_has_its_attack_and_the_last_one_holds_for_the_others(
    demo: ModuleType,
) -> None:
    assert demo.cast_roles(["silent", "slow"], 2, 7).misbehaving == {
        "replica-1": "silent",
        "replica-5": "slow",
    }
    assert demo.cast_roles(["silent,flood"], 3, 10).misbehaving == dict.fromkeys(
        ("replica-1", "replica-5", "replica-8"), "silent,flood"
    )


def test_the_command_line_of_a_malicious_node_names_its_colluders() -> None:
    drill = Drill({"replica-1": "silent", "replica-5": "slow,flood"})
    assert drill.words("replica-0") == []
    assert drill.words("replica-5") == ["--misbehave", "slow,flood", "--colluder", "replica-1"]


@pytest.mark.parametrize(
    ("attacks", "malicious", "said"),
    [
        (["silent"], 3, "7 replicas tolerate 2 malicious ones, not 3"),
        (["silent", "slow", "flood"], 2, "--attack is given 3 times"),
        (["silent,quiet"], 2, "--attack quiet: there is no such attack"),
        (["ready-for-ever"], 2, "--attack ready-for-ever: there is no such attack of a replica"),
    ],
)
def test_what_cannot_be_played_is_refused(
    demo: ModuleType, attacks: list[str], malicious: int, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        demo.cast_roles(attacks, malicious, 7)


class Fixed:
    """A run that ended with this accuracy, with replica-1 malicious, and this evidence."""

    def __init__(self, accuracy: float | None, *failures: str, evidence: Sequence[Any] = ()) -> None:
        self.accuracy = accuracy
        self.record = SimpleNamespace(failures=list(failures), misbehaving={"replica-1": "wrong-sums"})
        self.evidence = lambda: list(evidence)


@pytest.mark.parametrize(
    ("accuracies", "failing"),
    [
        ([(0.95, 0.945)], False),
        ([(0.95, 0.99)], False),
        ([(0.95, 0.944)], True),
        ([(0.95, 0.94), (0.95, 0.95)], False),  # the mean counts
        ([(0.95, 0.93), (0.95, 0.95)], True),
    ],
)
def test_half_a_point_may_be_lost_and_no_more(
    demo: ModuleType, accuracies: list[tuple[float, float]], failing: bool
) -> None:
    pairs = [demo.Pair(0, Fixed(honest), Fixed(attacked)) for honest, attacked in accuracies]
    assert bool(demo.judge(pairs, 0.5)) is failing
    broken = [demo.Pair(0, Fixed(0.9), Fixed(None, "agreement: none"))]
    assert demo.judge(broken, 0.5) == ["seed 0, attacked: agreement: none"]


@pytest.mark.parametrize(
    ("culprit", "verified", "failing"),
    [("replica-1", True, False), ("replica-1", False, True), ("replica-0", True, True)],
)
def test_evidence_against_an_honest_node_is_a_failure(
    demo: ModuleType, culprit: str, verified: bool, failing: bool
) -> None:
    proof = {"kind": "wrong-sum", "culprit": culprit, "digest": "00", "verified": verified}
    pairs = [demo.Pair(0, Fixed(0.9), Fixed(0.9, evidence=[proof]))]
    assert bool(demo.judge(pairs, 0.5)) is failing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_seven_replicas_of_which_two_are_malicious_end_as_seven_honest_ones(tmp_path: Path) -> None:
    """Small: 8 epochs; one pair of runs says little about half a point, so that two are allowed here."""
    words = ["--epochs", "8", "--tolerance", "2", "--json", "demo.json", "run"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True, timeout=880, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["ok"]
    assert result["accuracy"] > 0.85
    assert result["honest_accuracy"] > 0.85
    assert result["misbehaving"].keys() == {"replica-1", "replica-5"}
    attacked = result["runs"][0]["attacked"]
    models = {node["model"] for node in attacked["nodes"].values() if node["misbehaving"] is None}
    assert len(models) == 1
    assert None not in models
    uploads = result["uploads"]
    assert 0 < uploads["opened"] == uploads["made"] - uploads["wasted"]
    assert "replica-5" in {proof["culprit"] for proof in result["evidence"]} <= result["misbehaving"].keys()
    assert all(proof["verified"] for proof in result["evidence"])
    assert "\x1b[" not in done.stderr
    for log in (tmp_path / "run" / "seed-0").glob("*/logs/*.log"):
        assert "Traceback" not in log.read_text(), log
