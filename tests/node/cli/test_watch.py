"""What the supervisor takes from the nodes' statuses, and what it waits for at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from node.deployment_files import DeploymentDirectory
from node.supervisor.own_accuracy import describe_own_accuracy
from node.supervisor.run import explain_drain
from node.supervisor.watch import Certified, Phase, Proof, client_view, read_status, replica_view

from .samples import MODEL, VERSION, replica, snapshot

STATUS: dict[str, Any] = {
    "pid": 42,
    "state": "up",
    "entries": 7,
    "epoch": 2,
    "version": VERSION,
    "certified": {"version": VERSION, "entries": 7, "model": MODEL},
    "inclusion": {"01" * 32: 2},
    "accuracy": {"1": {"correct": 30.0, "count": 40.0, "noise": 0.5}},
    "uploads": {"stored": 3, "waiting": 1},
    "groups_open": 2,
    "connected": 3,
    "connected_clients": 16,
    "stall": "why",
}


def test_a_status_is_read_as_it_is_written() -> None:
    view = replica_view("replica-0", STATUS, pid=42, down=None)
    assert view.phase is Phase.UP
    assert view.answers
    assert (view.entries, view.epoch, view.uploads_waiting, view.groups_open) == (7, 2, 1, 2)
    assert view.certified == Certified(VERSION, 7, MODEL)
    assert view.stall == "why"
    assert view.own_accuracy == STATUS["accuracy"]


def test_the_newest_model_is_under_the_latest_exclusion_whoever_has_more_entries() -> None:
    """A replica that is down has not heard of the exclusion, and keeps the model that it had."""
    poisoned, clean = Certified("aa" * 32, 13, MODEL), Certified("bb" * 32, 12, MODEL, statement=1)
    told = {"version": "bb" * 32, "entries": 12, "model": MODEL, "statement": 1}
    assert Certified.of({"certified": told}) == clean
    seen = snapshot(replica("replica-0", certified=poisoned), replica("replica-1", certified=clean))
    assert seen.certified == clean


@pytest.mark.parametrize(
    ("status", "down", "phase"),
    [
        ({}, None, Phase.STARTING),
        ({**STATUS, "pid": 41}, None, Phase.STARTING),
        ({**STATUS, "state": "starting"}, None, Phase.STARTING),
        ({**STATUS, "state": "catching_up"}, None, Phase.CATCHING_UP),
        (STATUS, Phase.KILLED, Phase.KILLED),
        ({**STATUS, "certified": None}, None, Phase.UP),
    ],
)
def test_a_status_of_an_earlier_life_is_not_taken_for_this_one(
    status: dict[str, Any], down: Phase | None, phase: Phase
) -> None:
    assert replica_view("replica-0", status, pid=42, down=down).phase is phase


def test_a_client_is_not_done_because_it_was_in_an_earlier_run() -> None:
    status = {"pid": 42, "state": "resting", "done": True, "epoch": 21, "sent": 20}
    assert client_view("client-0", status, pid=42).done
    view = client_view("client-0", status, pid=43)
    assert not view.done
    assert view.sent == 20
    assert view.waiting_for == "its process to start"


def test_a_client_whose_last_update_was_refused_is_over_but_not_done() -> None:
    refused = {"count": 2, "epoch": 2, "reason": "training diverged"}
    status = {"pid": 42, "state": "resting", "done": True, "epoch": 3, "refused": refused}
    view = client_view("client-0", status, pid=42)
    assert (view.over, view.done, view.refused) == (True, False, 2)
    assert client_view("client-0", {**status, "epoch": 5}, pid=42).done
    assert not client_view("client-0", status, pid=43).refused
    clients = (view, client_view("client-1", {"pid": 42, "done": True, "epoch": 3}, pid=42))
    seen = snapshot(clients=clients)
    assert (seen.over, seen.done) == (2, 1)
    assert seen.refusals == ["1 of 2 clients: training diverged"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_a_status_that_is_absent_or_broken_counts_as_none(
    copied: DeploymentDirectory, content: bytes | None
) -> None:
    path = copied.status_file("replica-0")
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    assert read_status(copied, "replica-0") == {}
    path.write_text(json.dumps(STATUS))
    assert read_status(copied, "replica-0") == STATUS


def test_a_status_that_another_deployment_left_in_the_directory_counts_as_none(
    copied: DeploymentDirectory,
) -> None:
    path = copied.status_file("replica-0")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**STATUS, "deployment": "00" * 32}))
    assert read_status(copied, "replica-0") == {}
    ours = {**STATUS, "deployment": copied.deployment.digest.hex()}
    path.write_text(json.dumps(ours))
    assert read_status(copied, "replica-0") == ours


def test_figures_are_those_of_the_replica_that_is_furthest() -> None:
    view = snapshot(
        replica("replica-0", entries=5, epoch=2, inclusion={"01" * 32: 1}),
        replica("replica-1", Phase.KILLED, entries=9, epoch=4, inclusion={"01" * 32: 6}, stall="old"),
        replica("replica-2", entries=9, epoch=3, stall="why"),
        replica("replica-3", stall="why"),
    )
    assert (view.entries, view.epoch, view.included) == (12, 4, 5)
    assert view.stalls == ["why"]
    assert (view.sent, view.done) == (5, 1)
    assert view.client_epochs == [(3, 1)]


def test_what_a_misbehaving_replica_says_counts_for_nothing() -> None:
    lie = Proof("two-sums", "01" * 32, "02" * 32)
    liar = replica(
        "replica-3", Phase.MISBEHAVING, entries=99, epoch=9, inclusion={"01" * 32: 50}, stall="lies",
        version="cc", certified=Certified("cc", 99, "dd" * 32), groups_open=4, finished="lies", evidence=(lie,),
    )  # fmt: skip
    proof = Proof("wrong-sum", "03" * 32, "04" * 32)
    honest = [replica(f"replica-{i}", evidence=(proof,)) for i in range(3)]
    view = snapshot(*honest, liar)
    assert (view.entries, view.epoch, view.included) == (12, 3, 5)
    assert view.certified == Certified(VERSION, 12, MODEL)
    assert view.finished is None
    assert view.stalls == []
    assert view.evidence == (proof,)
    assert explain_drain(view, late=True) is None


def test_a_drain_is_over_when_the_running_replicas_agree_on_a_certified_model() -> None:
    everybody = snapshot()
    assert explain_drain(everybody, late=True) is None
    killed = snapshot(replica("replica-0"), replica("replica-1", Phase.KILLED, version="old", certified=None))
    assert explain_drain(killed, late=True) is None


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (
            replica("replica-1", Phase.CATCHING_UP, entries=3),
            "replica-1 to be up (catching up, 3 of 12 entries)",
        ),
        (replica("replica-1", Phase.STARTING), "replica-1 to be up"),
        (replica("replica-1", groups_open=2), "replica-1 to finish 2 open groups"),
        (
            replica("replica-1", version="cc", entries=11),
            "to hold the same entries (replica-0 12, replica-1 11)",
        ),
        (replica("replica-1", certified=None), "replica-1 to have a certified model"),
        (replica("replica-1", certified=Certified("cc", 11, MODEL)), "replica-1 to have a certified model"),
        (replica("replica-1", uploads_waiting=3), "3 uploads that may still ride"),
    ],
)
def test_a_drain_says_what_it_waits_for(odd: Any, said: str) -> None:
    waiting = explain_drain(snapshot(replica("replica-0"), odd), late=True)
    assert waiting is not None
    assert said in waiting


def test_late_uploads_are_not_waited_for_for_ever() -> None:
    view = snapshot(replica("replica-0", uploads_waiting=3))
    assert explain_drain(view, late=True) is not None
    assert explain_drain(view, late=False) is None


def test_a_drain_without_any_replica_says_so() -> None:
    dead = tuple(replace(replica(f"replica-{i}"), phase=Phase.KILLED) for i in range(4))
    assert explain_drain(snapshot(*dead), late=True) == "a replica to run"


def test_the_accuracy_on_clients_own_data_is_told_with_its_noise() -> None:
    rows = {str(epoch): {"correct": 80.0, "count": 100.0, "noise": 1.0} for epoch in range(1, 12)}
    told = describe_own_accuracy(rows)
    assert told == "0.8000 ± 0.0057 in rows 7 to 11, on 500 of the clients' own examples"
    assert describe_own_accuracy({}) is None
    drowned = describe_own_accuracy({"3": {"correct": 4.0, "count": 5.0, "noise": 40.0}})
    assert drowned == "hidden by the noise in row 3"


def test_what_an_exclusion_leaves_out_is_not_counted_in_the_model() -> None:
    status = {**STATUS, "counted": {"entries": 5, "uploads": 1}}
    view = replica_view("replica-0", status, pid=42, down=None)
    seen = snapshot(view)
    assert (seen.included, seen.counted) == (2, 1)
    assert snapshot(replica_view("replica-0", STATUS, pid=42, down=None)).counted == 2, "it does not tell"
