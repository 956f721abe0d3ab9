"""Real processes killed with SIGKILL at every step towards the disk, before it and after it, and started again.

Whatever is on disk then holds what others had heard; the deployment goes on to its end, and all disks agree.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from asyncfl.effects import Table
from node.deployment_creation import NewDeployment
from node.steps import When
from tests.node.crashes import points
from tests.node.crashes.deployment import Nodes
from tests.node.crashes.faults import Fault

VICTIM = "replica-0"
PARTY = ("client-0", "client-1")
"""Two clients of one process, which die together."""
OTHERS = ("client-2", "client-3")
WANTED = NewDeployment(clients=4, training={"local_steps": 1})
SPREAD_OF_REPLICA = (
    ("put locks", When.AFTER),
    ("sync folder received blob", When.BEFORE),
    ("put items", When.BEFORE),
)
SPREAD_OF_CLIENTS = (
    ("put privacy", When.BEFORE),
    ("put meta pending-upload", When.AFTER),
)
AFTERWARDS = 2
"""Entries that must still come after the last crash."""


def test_the_points_that_are_tried_are_those_of_the_code() -> None:
    """A new kind of row must be added to the lists in `points.py`, and is killed at from then on.

    What comes on occasion only has a test of its own, which names it before and after the write.
    """
    for role, tried in ((points.REPLICA, points.REPLICA_ROWS), (points.CLIENT, points.CLIENT_ROWS)):
        known = {*map(points.table_of, tried), *map(points.table_of, points.ON_OCCASION)}
        found = points.rows_of(role)
        assert found <= known, role
        assert set(map(points.table_of, tried)) <= found, role
    written = {point.split()[1] for role in (points.REPLICA, points.CLIENT) for point in points.rows_of(role)}
    assert written == set(Table), "a table that nobody writes"
    faults = {
        fault for source in Path(__file__).parent.glob("test_*.py") for fault in points.faults_of(source)
    }
    assert faults == {(point, when) for point in points.ON_OCCASION for when in When}


def crash_everywhere(nodes: Nodes, names: tuple[str, ...], where: Iterable[str], *, number: int = 1) -> None:
    """Kill the process of `names` before and after each point, one life after the other; it runs at the end."""
    steps = str(nodes.root / f"{names[0]}.steps")
    for point in where:
        for when in When:
            nodes.crash(names, Fault(point, when, number, steps=steps))
    nodes.start(*names)
    assert nodes.steps(names[0]) <= points.KNOWN


def finish(nodes: Nodes) -> None:
    """Training goes on, everybody agrees, and the disks show it."""
    before = max(nodes.status(name).get("entries", 0) for name in nodes.replicas)
    nodes.until("all nodes to be up", nodes.all_up)
    nodes.until("further entries", lambda: nodes.status(VICTIM).get("entries", 0) >= before + AFTERWARDS)
    # Clients first: then nothing new comes, and the replicas can agree.
    for name in [name for name in nodes.alive if name not in nodes.replicas]:
        nodes.ask_to_stop(name)
        assert nodes.wait_end(name) == 0
    nodes.until_settled()
    nodes.stop_all()
    nodes.check_disks()


def start_but(nodes: Nodes, *victims: str) -> None:
    for names in [(name,) for name in nodes.replicas] + [PARTY, OTHERS]:
        if names[0] not in victims:
            nodes.start(*names)


@pytest.mark.timeout(600)
def test_a_replica_and_clients_killed_at_points_of_every_sort(tmp_path: Path) -> None:
    """A spread; the next tests, with `make soak`, leave nothing out."""
    with Nodes(tmp_path, WANTED) as nodes:
        start_but(nodes, VICTIM)
        for point, when in SPREAD_OF_REPLICA:
            nodes.crash((VICTIM,), Fault(point, when))
        nodes.start(VICTIM)
        nodes.kill(PARTY[0])
        for point, when in SPREAD_OF_CLIENTS:
            nodes.crash(PARTY, Fault(point, when))
        nodes.start(*PARTY)
        finish(nodes)
        assert nodes.crashes == len(SPREAD_OF_REPLICA) + len(SPREAD_OF_CLIENTS) + 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [1, 3])
def test_a_replica_killed_at_every_point(tmp_path: Path, number: int) -> None:
    with Nodes(tmp_path, WANTED) as nodes:
        start_but(nodes, VICTIM)
        for point in points.CREATION:
            for when in When:
                nodes.crash((VICTIM,), Fault(point, when))
                nodes.forget_unused_state(VICTIM)
        crash_everywhere(nodes, (VICTIM,), [*points.REPLICA_ROWS, *points.FILES], number=number)
        finish(nodes)
        assert nodes.crashes == 2 * len([*points.CREATION, *points.REPLICA_ROWS, *points.FILES])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [1, 3])
def test_clients_killed_at_every_point(tmp_path: Path, number: int) -> None:
    with Nodes(tmp_path, WANTED) as nodes:
        start_but(nodes, PARTY[0])
        for point in points.CREATION:
            for when in When:
                nodes.crash(PARTY, Fault(point, when))
                for name in PARTY:
                    nodes.forget_unused_state(name)
        crash_everywhere(nodes, PARTY, [*points.CLIENT_ROWS, *points.FILES], number=number)
        finish(nodes)
        assert nodes.crashes == 2 * len([*points.CREATION, *points.CLIENT_ROWS, *points.FILES])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nodes_killed_when_the_operator_enrols_and_retires(tmp_path: Path) -> None:
    """The statement comes over the network to who runs, and with the deployment file to who starts."""
    with Nodes(tmp_path, WANTED) as nodes:
        start_but(nodes, VICTIM, PARTY[0])
        nodes.start(VICTIM, fault=Fault(points.ROSTERS, When.BEFORE))
        nodes.start(*PARTY, fault=Fault(points.ROSTERS, When.AFTER))
        nodes.until("the first entries", lambda: nodes.status("replica-3").get("entries", 0) >= 2)
        change_rosters(nodes, "enroll", "client-4")
        nodes.expect_crash((VICTIM,))
        nodes.expect_crash(PARTY)
        nodes.start("client-4")
        nodes.crash((VICTIM,), Fault(points.ROSTERS, When.AFTER))
        nodes.start(*PARTY)
        nodes.start(VICTIM, fault=Fault(points.ROSTERS, When.AFTER))
        change_rosters(nodes, "retire", "client-3")
        nodes.expect_crash((VICTIM,))
        nodes.start(VICTIM)
        nodes.until("client-3 to retire", lambda: nodes.status("client-3").get("state") == "retired")
        finish(nodes)
        assert len(nodes.durable(VICTIM)[Table.ROSTERS]) == len(nodes.durable(PARTY[0])[Table.ROSTERS]) == 2


def change_rosters(nodes: Nodes, *words: str) -> None:
    command, name = words
    arguments = [
        sys.executable,
        "-m",
        "node.cli",
        command,
        str(nodes.files.root),
        name,
        "--yes",
        "--margin",
        "1",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    # The victim may be dead by the time that it is asked whether it has the statement.
    assert done.returncode in (0, 1), done.stderr
    nodes.reload()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("when", list(When))
def test_a_replica_killed_when_a_client_has_spent_its_budget(tmp_path: Path, when: When) -> None:
    wanted = NewDeployment(
        clients=4,
        epsilon=200.0,
        epochs=4,
        training={"local_steps": 1},
        parameters={"allow_small_private_groups": True},
    )
    with Nodes(tmp_path, wanted) as nodes:
        start_but(nodes, VICTIM)
        nodes.crash((VICTIM,), Fault(points.LEAVES, when))
        nodes.start(VICTIM)
        everybody = (*PARTY, *OTHERS)
        nodes.until(
            "all budgets to be spent", lambda: all(nodes.status(n).get("state") == "left" for n in everybody)
        )
        nodes.until(
            "the victim to know who has left",
            lambda: all(len(nodes.left(name)) == len(everybody) for name in nodes.replicas),
        )
        nodes.until_settled()
        nodes.stop_all()
        nodes.check_disks()
        assert all(len(nodes.durable(name)[Table.PRIVACY]) == 4 for name in everybody)
