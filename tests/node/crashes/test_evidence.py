"""Evidence against a real replica that lies: nodes killed around the write of it, and read while they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncfl.effects import Table
from node.steps import When
from tests.node.crashes import points
from tests.node.crashes.deployment import Nodes
from tests.node.crashes.faults import Fault
from tests.node.crashes.test_every_point import OTHERS, PARTY, VICTIM, WANTED, finish

LIAR = "replica-3"


def asked(nodes: Nodes, command: str, *directory: str) -> dict[str, Any]:
    """What `asyncfl evidence` says of the nodes as they are."""
    where = nodes.files.root.joinpath(*directory)
    words = [sys.executable, "-m", "node.cli", "evidence", command, str(where), "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def convicts(nodes: Nodes, name: str) -> bool:
    """Whether a running node says that it holds evidence against the liar."""
    liar = nodes.files.deployment.replica(LIAR).key.hex()
    return liar in {piece["culprit"] for piece in nodes.status(name).get("evidence", ())}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_evidence_outlives_crashes_and_is_read_and_verified_while_nodes_run(tmp_path: Path) -> None:
    with Nodes(tmp_path, WANTED) as nodes:
        nodes.start(LIAR, lies=True)
        for names in (("replica-1",), ("replica-2",), OTHERS):
            nodes.start(*names)
        # What is not on disk yet is found, or told, once more; what is on disk stays.
        nodes.start(VICTIM, fault=Fault(points.EVIDENCE, When.BEFORE))
        nodes.start(*PARTY, fault=Fault(points.EVIDENCE, When.BEFORE))
        for names in ((VICTIM,), PARTY):
            nodes.expect_crash(names)
            assert not any(nodes.durable(name)[Table.EVIDENCE] for name in names)
        for names in ((VICTIM,), PARTY):
            nodes.crash(names, Fault(points.EVIDENCE, When.AFTER))
            assert any(nodes.durable(name)[Table.EVIDENCE] for name in names)
        held = {name: nodes.durable(name)[Table.EVIDENCE] for name in (VICTIM, *PARTY)}
        nodes.start(VICTIM)
        nodes.start(*PARTY)
        honest = [name for name in (*nodes.replicas, *PARTY, *OTHERS) if name != LIAR]
        nodes.until("everybody to know the liar", lambda: all(convicts(nodes, name) for name in honest))

        assert set(nodes.alive) == {*nodes.replicas, PARTY[0], OTHERS[0]}
        told = asked(nodes, "list")
        assert {piece["culprit"] for piece in told["evidence"]} == {LIAR}
        assert {piece["kind"] for piece in told["evidence"]} >= {"wrong-sum"}
        assert {name for piece in told["evidence"] for name in piece["held_by"]} == set(honest)
        for directory in ((), ("state", VICTIM)):
            verified = asked(nodes, "verify", *directory)
            assert verified["verified"]
            assert verified["problems"] == {}
            assert all(piece["verified"] for piece in verified["evidence"])
        digests = {piece["digest"] for piece in told["evidence"]}
        assert digests >= {digest.hex() for rows in held.values() for digest in rows}

        finish(nodes)
        assert asked(nodes, "verify")["verified"]
        assert all(held[name].items() <= nodes.durable(name)[Table.EVIDENCE].items() for name in held)
