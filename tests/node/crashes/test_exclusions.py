"""The operator takes an entry out of the model, and puts it back, while a replica is killed around the write of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asyncfl.effects import Table
from node.privacy_events import read_table
from node.steps import When
from tests.node.crashes import points
from tests.node.crashes.deployment import Nodes
from tests.node.crashes.faults import Fault
from tests.node.crashes.test_every_point import OTHERS, PARTY, VICTIM, WANTED, finish

TOLD = "replica-3"


def an_entry(nodes: Nodes) -> str:
    """The digest of an entry that a running replica holds."""
    owner = nodes.files.deployment.digest + nodes.files.identity(TOLD).public
    return min(read_table(nodes.files.state(TOLD) / "state.sqlite", owner, Table.ITEMS)).hex()


def roll_back(nodes: Nodes, *words: str) -> None:
    arguments = [sys.executable, "-m", "node.cli", "rollback", str(nodes.files.root), *words]
    arguments += ["--yes", "--wait", "240"]  # Of a slow machine's replicas too.
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)
    # The victim may be dead by the time that it is asked whether it has the statement.
    assert done.returncode in (0, 1), done.stdout + done.stderr


def statements(nodes: Nodes, name: str) -> list[int]:
    """Numbers of the exclusions on the disk of a node that does not run."""
    return [int.from_bytes(key[:4], "big") for key in sorted(nodes.durable(name)[Table.EXCLUSIONS])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_exclusion_outlives_crashes_and_is_never_spoken_of_before_it_is_on_disk(tmp_path: Path) -> None:
    with Nodes(tmp_path, WANTED) as nodes:
        for names in (("replica-1",), ("replica-2",), (TOLD,), PARTY, OTHERS):
            nodes.start(*names)
        nodes.start(VICTIM, fault=Fault(points.EXCLUSIONS, When.BEFORE))
        nodes.until("the first entries", lambda: nodes.status(TOLD).get("entries", 0) >= 2)
        roll_back(nodes, "--exclude-entry", an_entry(nodes), "--reason", "poison")
        nodes.expect_crash((VICTIM,))
        assert statements(nodes, VICTIM) == []
        # It hears of the statement from the others, dies with it on its disk, and then computes under it.
        nodes.crash((VICTIM,), Fault(points.EXCLUSIONS, When.AFTER))
        assert statements(nodes, VICTIM) == [1]
        nodes.start(VICTIM, fault=Fault(points.EXCLUSIONS, When.AFTER))
        nodes.until("all nodes to be up", nodes.all_up)
        roll_back(nodes, "--undo")
        nodes.expect_crash((VICTIM,))
        assert statements(nodes, VICTIM) == [1, 2]
        nodes.start(VICTIM)
        finish(nodes)
        assert [statements(nodes, name) for name in nodes.replicas] == [[1, 2]] * len(nodes.replicas)
        spoken = {promise.signer for promise in nodes.promises() if promise.what == "exclusion"}
        assert spoken == {nodes.files.identity(name).public.hex() for name in nodes.replicas}
