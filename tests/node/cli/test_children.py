"""However the supervisor ends, none of its processes outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from asyncfl.errors import ConfigurationError, StorageError
from node.supervisor.children import Child, ChildFailed, Children, ended
from node.supervisor.lock import exclusive
from node.supervisor.run import shares

WAITS = "import time\nprint('here', flush=True)\ntime.sleep(600)"
ENDS_WITH_PARENT = f"from node.parent import end_with_parent\nend_with_parent(grace=1.0)\n{WAITS}"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{ENDS_WITH_PARENT}"


def child(name: str, code: str, folder: Path) -> Child:
    return Child(name, [sys.executable, "-c", code], folder / f"{name}.log")


def gone(pid: int) -> bool:
    """No such process, or one that is dead and only waits to be reaped by whoever adopted it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def spoke(*children: Child) -> bool:
    return all("here" in each.last_words() for each in children)


@pytest.mark.parametrize("code", [WAITS, STUBBORN], ids=["polite", "ignores SIGTERM"])
def test_stop_leaves_nobody(tmp_path: Path, code: str) -> None:
    every = [child(f"child-{i}", code, tmp_path) for i in range(3)]
    children = Children(every)
    children.start()
    assert eventually(lambda: spoke(*every))
    children.stop(seconds=0.3)
    assert not any(each.running for each in every)
    assert all(each.pid is not None and gone(each.pid) for each in every)


def test_an_error_in_the_supervisor_leaves_nobody(tmp_path: Path) -> None:
    one = child("one", WAITS, tmp_path)

    def run() -> None:
        with Children([one]) as children:
            children.start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert not one.running


def test_a_second_interrupt_while_stopping_still_leaves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = child("one", STUBBORN, tmp_path)
    children = Children([one])
    children.start()
    assert eventually(lambda: spoke(one))

    def interrupted(self: Child, seconds: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Child, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        children.stop()
    assert not one.running


@pytest.mark.parametrize("code", [ENDS_WITH_PARENT, STUBBORN], ids=["polite", "ignores SIGTERM"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_supervisor_that_is_killed_leaves_no_orphan(
    tmp_path: Path, code: str, number: signal.Signals
) -> None:
    supervisor = f"""
import json, sys, time
from pathlib import Path
from node.supervisor.children import Child, Children
command = [sys.executable, "-c", {code!r}]
every = [Child(f"child-{{i}}", command, Path({str(tmp_path)!r}) / f"{{i}}.log") for i in range(2)]
with Children(every) as children:
    children.start()
    while not all("here" in each.last_words() for each in every):
        time.sleep(0.02)
    print(json.dumps([each.pid for each in every]), flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        assert not any(gone(pid) for pid in pids)
        process.send_signal(number)
    assert eventually(lambda: all(gone(pid) for pid in pids))


def test_kill_is_sigkill_and_the_child_can_be_started_again(tmp_path: Path) -> None:
    one = child("one", WAITS, tmp_path)
    with Children([one]) as children:
        children.start()
        first = one.pid
        one.kill()
        assert one.returncode == -signal.SIGKILL
        one.start()
        assert one.running
        assert one.pid != first
        assert children["one"] is one


def test_children_are_out_of_reach_of_the_terminals_ctrl_c(tmp_path: Path) -> None:
    one = child("one", WAITS, tmp_path)
    with Children([one]) as children:
        children.start()
        assert one.pid is not None
        assert os.getpgid(one.pid) != os.getpgid(0)


def test_a_process_that_ends_by_itself_is_explained_by_its_last_words(tmp_path: Path) -> None:
    endings = {
        2: (ConfigurationError, "one: port 7000 is in use"),
        3: (StorageError, "one: port 7000 is in use"),
        1: (ChildFailed, "ended by itself with status 1"),
    }
    for code, (kind, said) in endings.items():
        one = child("one", f"print('error: port 7000 is in use'); raise SystemExit({code})", tmp_path)
        one.start()
        assert one.wait(10)
        error = ended(one)
        assert type(error) is kind
        assert said in str(error)
        one.kill()


def test_a_log_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot start one"):
        Child("one", [sys.executable], tmp_path / "file" / "one.log").start()


def test_one_supervisor_at_a_time_runs_a_deployment(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path),
        pytest.raises(ConfigurationError, match=f"run by process {os.getpid()}"),
        exclusive(tmp_path),
    ):
        pytest.fail("two at a time")
    with exclusive(tmp_path):
        pass


@pytest.mark.parametrize(("clients", "processes"), [(16, 4), (16, 16), (5, 2), (3, 8), (1, 1)])
def test_clients_are_shared_out_evenly_and_none_is_lost(clients: int, processes: int) -> None:
    names = [f"client-{i}" for i in range(clients)]
    parts = shares(names, processes)
    assert [name for part in parts for name in part] == names
    assert len(parts) == min(clients, processes)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
