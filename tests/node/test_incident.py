"""The how-to page on a poisoned model, command by command, with real processes and a client that really poisons."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "incident.md"
POISONER = "client-11"
NONE = {"statement": 0, "entries": 0, "epoch": 0}


def page_commands() -> list[list[str]]:
    """The words of every command on the page, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("asyncfl ")]


class Machine:
    """Where the page's commands run."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.stack = stack
        self.nodes: list[subprocess.Popen[str]] = []
        extra = str(ROOT / "misbehaviour")
        self.environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{extra}", "COLUMNS": "120"}
        self.program = [sys.executable, "-P", "-m", "node.cli"]

    def start(self, words: list[str]) -> None:
        log = self.stack.enter_context((self.root / f"{len(self.nodes)}.log").open("w+"))
        node = subprocess.Popen(
            [*self.program, *words], cwd=self.root, stdout=log, stderr=log, text=True, env=self.environment
        )
        self.nodes.append(node)
        self.stack.callback(self._stop, node)

    def _stop(self, node: subprocess.Popen[str]) -> None:
        node.send_signal(signal.SIGINT)
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()

    def run(self, words: list[str], *more: str) -> str:
        done = subprocess.run(
            [*self.program, *words, *more], cwd=self.root, env=self.environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def told(self, *words: str) -> dict[str, Any]:
        value = json.loads(self.run([*words, "--json", "-"]))
        assert isinstance(value, dict)
        return value

    def until(self, what: str, condition: Callable[[], bool], seconds: float = 600.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for number, node in enumerate(self.nodes):
                assert node.poll() is None, (self.root / f"{number}.log").read_text()
            assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
            time.sleep(1.0)

    def newest(self) -> dict[str, Any]:
        """The certified version under the latest exclusion, with most entries; empty before there is one."""
        if not any((self.root / "run" / "state").glob("replica-*/state.sqlite")):
            return NONE
        versions = self.told("model", "list", "run")["versions"]
        return max(versions, key=lambda each: (each["statement"], each["entries"]), default=NONE)

    def everywhere(self, statement: int) -> int:
        """Entries of the furthest version under an exclusion whose certificate all replicas hold."""
        versions = self.told("model", "list", "run")["versions"]
        held = [each for each in versions if each["statement"] == statement and len(each["held_by"]) == 4]
        return max((each["entries"] for each in held), default=0)

    def accuracy(self, *, statement: int) -> float:
        """On held-out data, of the newest model, which must be under this exclusion by now."""
        facts: dict[str, Any] = {}

        def found() -> bool:
            facts.update(json.loads(self.run(["evaluate", "run", "--json"])))
            return facts["exclusion"] == statement

        self.until(f"an accuracy under exclusion {statement}", found)
        return float(facts["accuracy"])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path, stack)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_page_leads_from_alarm_to_a_clean_model(machine: Machine) -> None:
    commands = page_commands()
    names = [words[0] for words in commands]
    assert names == [
        "init", *["node"] * 6, "model", "audit", "rollback", "retire", "model", "audit", "rollback", "rollback",
    ]  # fmt: skip
    init, *nodes = commands[:7]
    listed, audited, exclude, retire, listed_again, audited_again, undo, history = commands[7:]
    machine.run(init)
    for words in nodes:
        machine.start(words)

    machine.until("entries of four epochs", lambda: (machine.newest()["epoch"] or 0) >= 4)
    machine.run(listed)
    assert "verified" in machine.run(audited)
    clients = machine.told("audit", "run")["clients"]
    suspicion = {name: said["suspicion"] for name, said in clients.items()}
    assert max(suspicion, key=lambda name: suspicion[name]["mean"]) == POISONER, suspicion
    assert suspicion[POISONER]["weight"] == min(each["weight"] for each in suspicion.values()) < 0.5, (
        suspicion
    )
    accuracies = [machine.accuracy(statement=0)]

    said = json.loads(machine.run(exclude, "--yes", "--json"))
    assert said["have_it"] >= said["needed"]
    cost = said["cost"]
    assert cost["uploads_of_the_named"] >= clients[POISONER]["counts"] > 0
    assert cost["entries"] == cost["counted_before"] > cost["leaves_out"] > 0
    machine.run(retire, "--yes")
    machine.until("a model without the poisoner", lambda: machine.newest()["statement"] == 1)
    accuracies.append(machine.accuracy(statement=1))
    clean = machine.newest()["entries"]
    machine.until("training to go on at all replicas", lambda: machine.everywhere(1) >= clean + 12)
    accuracies.append(machine.accuracy(statement=1))
    machine.run(listed_again)
    assert f"leaves out {POISONER} (labels flipped): in force" in machine.run(audited_again)
    facts = machine.told("audit", "run")
    assert facts["verified"], facts["problems"]
    assert facts["clients"][POISONER]["counts"] == 0 < len(facts["clients"][POISONER]["epochs"])
    for entry in facts["entries"]:
        assert entry["counts"] != (POISONER in {member["client"] for member in entry["members"]}), entry
    assert [replica["exclusion"] for replica in facts["replicas"].values()] == [1] * 4
    assert all(each["recomputed"] for each in facts["versions"])
    shown = machine.told("model", "show", "run", "newest")
    assert shown["statement"] == 1
    assert shown["clients"][POISONER]["counts"] == 0
    # Measured in two runs: 0.964 and 0.961 with the poisoner, 0.953 and 0.950 just without it, 0.958 and 0.961 sixty
    # entries later; 0.003 is one test example.
    poisoned, without, later = accuracies
    assert poisoned > 0.9, "the median holds one of twelve off"
    assert without > poisoned - 0.05
    assert later > 0.93

    machine.run(undo, "--yes")
    assert "taken back by exclusion 2" in machine.run(history)
    machine.until("everything to count again", lambda: machine.newest()["statement"] == 2)
    assert machine.accuracy(statement=2) > 0.9
    facts = machine.told("audit", "run")
    assert facts["verified"], facts["problems"]
    assert [each["number"] for each in facts["exclusions"]] == [1, 2]
    assert facts["clients"][POISONER]["counts"] == len(facts["clients"][POISONER]["epochs"])
