"""One run of a whole deployment: start, train, drain, evaluate. Views only look on.

Every wait here has a deadline, and says in `record.waiting_for` what it waits for.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from node.deployment_files import DeploymentDirectory
from node.supervisor.children import ENDINGS, Child, Children, ended
from node.supervisor.drill import Drill
from node.supervisor.evaluation import Evaluator
from node.supervisor.lock import exclusive
from node.supervisor.plan import Action, Plan
from node.supervisor.record import AccuracyPoint, Event, Record, Stage
from node.supervisor.watch import Phase, ReplicaView, Snapshot, client_view, read_status, replica_view

POLL_SECONDS: Final = 0.2
SETTLED_SECONDS: Final = 1.5
"""Statuses are written twice a second: agreement has to be seen for longer than that."""
STEADY_SECONDS: Final = 3.0
"""How long a replica that was up may lag before it counts as catching up."""
REVIVE_SECONDS: Final = 5.0
"""After a process was killed from outside."""
MAX_DEATHS: Final = 3
"""A process that is killed from outside more often ends the run: something is wrong with it, or with the machine."""
LATE_UPLOAD_SECONDS: Final = 20.0
"""How long the drain waits at most for uploads that ride on top of later groups or expire."""
LATE_PATIENCES: Final = 3.0
"""The same in units of the replicas' patience: once all clients are done, what finds no group by then finds none."""


class View(Protocol):
    """Looks on: called after every poll, and with a sentence whenever something happens."""

    def update(self, record: Record) -> None: ...

    def say(self, record: Record, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`epochs`: every client takes part up to this one. Deadlines in seconds."""

    epochs: int
    client_processes: int
    plan: Plan
    baseline: bool = True
    stall_seconds: float = 120.0
    """Training is given up when nothing at all has moved for so long."""
    drain_seconds: float = 120.0
    drill: Drill = field(default_factory=Drill)
    """Who misbehaves: is run, and not waited for."""


class Run:
    """Carries out one run in `directory`; `record` is filled as it goes."""

    def __init__(self, directory: DeploymentDirectory, options: RunOptions, view: View) -> None:
        self._directory: Final = directory
        self._options: Final = options
        self._view: Final = view
        self._drill: Final = options.drill
        self.record: Final = Record(
            directory.deployment.name, options.epochs, misbehaving=dict(options.drill.misbehaving)
        )
        deployment = directory.deployment
        self._replicas: Final = {
            entry.name: Child(
                entry.name,
                [*node_command(directory, "aggregator", [entry.name]), *self._drill.words(entry.name)],
                directory.log_file(entry.name),
            )
            for entry in deployment.replicas
        }
        self._hosts: Final[dict[str, Child]] = {}
        """By client; clients that misbehave are not among them."""
        behaving = [name for name in directory.clients_here() if name not in self._drill.misbehaving]
        until = ["--epochs", str(options.epochs)]
        for index, names in enumerate(shares(behaving, options.client_processes)):
            command = [*node_command(directory, "client", names), *until]
            child = Child(f"clients-{index}", command, directory.log_file(f"clients-{index}"))
            self._hosts.update(dict.fromkeys(names, child))
        self._hostile: Final = [
            Child(
                name,
                [*node_command(directory, "client", [name]), *until, *self._drill.words(name)],
                directory.log_file(name),
            )
            for name in directory.clients_here()
            if name in self._drill.misbehaving
        ]
        self._evaluator: Final = Evaluator(directory)
        self._killed: Final[set[str]] = set()
        self._revive_at: Final[dict[str, float]] = {}
        self._deaths: Final[Counter[str]] = Counter()
        self._last_up: Final[dict[str, float]] = {}
        self._started = 0.0
        self._moved = 0.0
        self._progress: tuple[int, ...] = ()

    def execute(self, model_file: Path) -> Record:
        """Run to the end; the final model goes to `model_file`. Failed checks are in `record.failures`.

        Raises `ConfigurationError` when the deployment is being run already, `ChildFailed` when a process
        ends by itself, `KeyboardInterrupt` on Ctrl-C and SIGTERM; no process is left in any case.
        """
        processes = [*self._nodes(), self._evaluator]
        with exclusive(self._directory.root), interruptible(), Children(processes) as children:
            self._started = time.monotonic()
            children.start()
            self._say(
                f"started {len(self._replicas)} replicas and {len(self._hosts)} clients in "
                f"{len(processes) - 1} processes"
            )
            if self._train() and self._drain():
                self._evaluate(model_file)
            self._enter(Stage.DONE)
        return self.record

    def _nodes(self) -> list[Child]:
        """All processes that run nodes."""
        return [*self._replicas.values(), *dict.fromkeys(self._hosts.values()), *self._hostile]

    # stages

    def _train(self) -> bool:
        """Until every client has sent its last upload. Whether it came to that."""
        while True:
            self._poll()
            snapshot = self.record.snapshot
            if self.record.stage is Stage.STARTING and snapshot.sent > self.record.sent_before:
                self._enter(Stage.TRAINING)
            self._act()
            if snapshot.over == len(snapshot.clients):
                self.record.trained = self.record.seconds
                self.record.finished = self._explain_finish(snapshot)
                if self.record.finished is not None:
                    self._say(f"training is over: {self.record.finished}")
                return self._finish_plan()
            quiet = self.record.seconds - self._moved
            self.record.waiting_for = self._explain_training()
            if quiet > self._options.stall_seconds and not self._options.plan.waits():
                self._fail(f"nothing moved for {quiet:.0f} s; waiting for {self.record.waiting_for}")
                return False
            time.sleep(POLL_SECONDS)

    def _explain_finish(self, snapshot: Snapshot) -> str | None:
        """Why training is over before `epochs`, where that is as planned: by [stop], or by spent budgets."""
        spent = [client for client in snapshot.clients if client.state == "left"]
        early = [client for client in snapshot.clients if client.epoch <= self.record.epochs]
        if snapshot.finished is None and spent and all(client.state == "left" for client in early):
            return f"{len(spent)} of {len(snapshot.clients)} clients have spent their privacy budget (asyncfl privacy)"
        return snapshot.finished

    def _finish_plan(self) -> bool:
        for step in self._options.plan.rest():
            if step.action is Action.RESTART and step.replica in self._killed:
                self._restart(step.replica)
            elif step.action is Action.KILL:
                self._fail(
                    f"{step.replica} was to be killed at {step.at}, but all clients were done before that"
                )
                break
        return True

    def _drain(self) -> bool:
        """Until the running replicas hold the same ledger and certified model, with nothing left to open."""
        self._enter(Stage.DRAINING)
        began = time.monotonic()
        agreed_since: float | None = None
        while True:
            self._poll()
            now = time.monotonic()
            snapshot = self.record.snapshot
            if (
                self.record.finished is not None
                and snapshot.over < len(snapshot.clients)
                and not snapshot.finished
            ):
                # What was on its way when training was over has shown that it was not.
                self.record.finished = None
                self._say("the clients go on: training is not over")
                self._enter(Stage.TRAINING)
                return self._train() and self._drain()
            patience = max(
                (replica.patience for replica in snapshot.replicas if replica.running), default=0.0
            )
            late = now - began < min(LATE_UPLOAD_SECONDS, LATE_PATIENCES * patience)
            waiting = explain_drain(snapshot, late=late)
            self.record.waiting_for = waiting
            if waiting is not None:
                agreed_since = None
            elif agreed_since is None:
                agreed_since = now
            elif now - agreed_since >= SETTLED_SECONDS:
                self.record.final = snapshot.certified
                self.record.finished = self._explain_finish(snapshot)
                return True
            if now - began > self._options.drain_seconds:
                self._fail(f"the replicas did not settle within {now - began:.0f} s: waiting for {waiting}")
                return False
            time.sleep(POLL_SECONDS)

    def _evaluate(self, model_file: Path) -> None:
        self._enter(Stage.EVALUATING)
        record, final = self.record, self.record.final
        assert final is not None
        record.waiting_for = "the accuracy of the final model"
        self._view.update(record)
        record.accuracy = self._evaluator.accuracy(final)
        record.accuracies.append(AccuracyPoint(record.seconds, final.entries, record.accuracy))
        metadata = {"asyncfl.version": final.version, "asyncfl.entries": str(final.entries)}
        self._evaluator.save(final, model_file, metadata)
        if self._options.baseline:
            rounds = max(1, round(record.snapshot.included / len(self._directory.deployment.first_clients)))

            def progress(number: int, of: int) -> None:
                record.waiting_for = f"the FedAvg baseline, round {number} of {of}"
                self._view.update(record)

            record.baseline = self._evaluator.baseline(rounds, progress)
        record.waiting_for = None

    # what is done on the way

    def _poll(self) -> None:
        self._notice_endings()
        snapshot = self._read()
        seconds = time.monotonic() - self._started
        grew = self.record.observe(seconds, snapshot)
        progress = (snapshot.sent, snapshot.over, sum(client.epoch for client in snapshot.clients))
        if grew or progress != self._progress:
            self._progress, self._moved = progress, seconds
        for model, accuracy in self._evaluator.collect():
            self.record.accuracies.append(AccuracyPoint(seconds, model.entries, accuracy))
        self._evaluator.offer(snapshot.certified)
        self._view.update(self.record)

    def _read(self) -> Snapshot:
        replicas = []
        for name, child in self._replicas.items():
            down = Phase.MISBEHAVING if name in self._drill.misbehaving else None
            down = Phase.KILLED if name in self._killed else down
            view = replica_view(name, read_status(self._directory, name), pid=child.pid, down=down)
            replicas.append(self._steady(view))
        clients = [
            client_view(name, read_status(self._directory, name), pid=host.pid)
            for name, host in self._hosts.items()
        ]
        return Snapshot(tuple(replicas), tuple(clients))

    def _steady(self, view: ReplicaView) -> ReplicaView:
        """A replica that is an entry behind for a moment is up; one that just started is not."""
        now = time.monotonic()
        if view.phase is Phase.UP:
            self._last_up[view.name] = now
        elif view.phase is not Phase.CATCHING_UP:
            self._last_up.pop(view.name, None)
        elif now - self._last_up.get(view.name, -STEADY_SECONDS) < STEADY_SECONDS:
            return replace(view, phase=Phase.UP)
        return view

    def _notice_endings(self) -> None:
        """A process killed from outside is started again after a while; one that ended by itself ends the run.

        One that misbehaves may end when it likes, unless it was started wrongly.
        """
        now = time.monotonic()
        for child in self._nodes():
            if child.name in self._killed:
                if now >= self._revive_at.get(child.name, inf):
                    del self._revive_at[child.name]
                    self._restart(child.name)
            elif child.returncode is None:
                continue
            elif child.name in self._drill.misbehaving and child.returncode not in ENDINGS:
                self._killed.add(child.name)
                self._say(f"{child.name}, which misbehaves, has ended (status {child.returncode})")
            else:
                self._deaths[child.name] += 1
                if child.returncode >= 0 or self._deaths[child.name] > MAX_DEATHS:
                    raise ended(child)
                self._killed.add(child.name)
                self._revive_at[child.name] = now + REVIVE_SECONDS
                if child.name in self._replicas:
                    self._note(Action.KILL, child.name)
                cause = signal.Signals(-child.returncode).name
                self._say(
                    f"{child.name} was killed from outside ({cause}): started again in {REVIVE_SECONDS:g} s"
                )

    def _act(self) -> None:
        for step in self._options.plan.due(self.record.snapshot, self.record.seconds):
            if step.action is Action.KILL:
                self._kill(step.replica)
            elif step.replica in self._killed:
                self._restart(step.replica)

    def _kill(self, name: str) -> None:
        self._replicas[name].kill()
        self._killed.add(name)
        self._note(Action.KILL, name)
        self._say(f"killed {name} (SIGKILL) at epoch {self.record.snapshot.epoch}")

    def _restart(self, name: str) -> None:
        self._killed.discard(name)
        self._revive_at.pop(name, None)
        replica = self._replicas.get(name)
        if replica is not None:
            replica.start()
            self._note(Action.RESTART, name)
        else:
            next(host for host in self._nodes() if host.name == name).start()
        self._say(f"started {name} again at epoch {self.record.snapshot.epoch}")

    def _note(self, action: Action, name: str) -> None:
        snapshot = self.record.snapshot
        seconds = time.monotonic() - self._started
        self.record.events.append(Event(seconds, action, name, snapshot.entries, snapshot.epoch))
        self.record.observe(seconds, self._read())
        self._moved = seconds

    def _explain_training(self) -> str:
        snapshot = self.record.snapshot
        starting = [replica.name for replica in snapshot.replicas if replica.phase is Phase.STARTING]
        if self.record.stage is Stage.STARTING and starting:
            return f"{', '.join(starting)} to start"
        behind = [client for client in snapshot.clients if not client.over]
        slowest = min(behind, key=lambda client: client.epoch)
        reason = f", for {slowest.waiting_for}" if slowest.waiting_for else ""
        told = f"{len(behind)} clients ({slowest.name}, at epoch {slowest.epoch}{reason})"
        if self.record.stage is Stage.STARTING or not snapshot.stalls:
            return told
        return f"{told}: {snapshot.stalls[0]}"

    def _fail(self, sentence: str) -> None:
        self.record.failures.append(sentence)
        self._say(sentence)

    def _enter(self, stage: Stage) -> None:
        self.record.stage = stage
        self.record.waiting_for = None
        if stage is not Stage.DONE:
            self._say(f"{stage} …")
        self._view.update(self.record)

    def _say(self, text: str) -> None:
        self._view.say(self.record, text)


def explain_drain(snapshot: Snapshot, *, late: bool) -> str | None:
    """What a drain still waits for; None when the running replicas agree. `late`: also on late uploads."""
    running = [replica for replica in snapshot.replicas if replica.running]
    if not running:
        return "a replica to run"
    for replica in running:
        if replica.phase is not Phase.UP:
            return (
                f"{replica.name} to be up ({replica.phase}, {replica.entries} of {snapshot.entries} entries)"
            )
    for replica in running:
        if replica.groups_open:
            return f"{replica.name} to finish {replica.groups_open} open groups"
    if len({replica.version for replica in running}) > 1:
        counts = ", ".join(f"{replica.name} {replica.entries}" for replica in running)
        return f"the replicas to hold the same entries ({counts})"
    for replica in running:
        if replica.certified is None or replica.certified.version != replica.version:
            return f"{replica.name} to have a certified model of its {replica.entries} entries"
    if late and any(replica.uploads_waiting for replica in running):
        count = max(replica.uploads_waiting for replica in running)
        return f"{count} {'upload' if count == 1 else 'uploads'} that may still ride on a later group"
    return None


def node_command(directory: DeploymentDirectory, role: str, names: Sequence[str]) -> list[str]:
    """The command line of a node's process that ends with the supervisor."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "node.cli",
        "node",
        "--role",
        role,
        "--deployment",
        str(directory.root),
    ]
    for name in names:
        command += ["--name", name]
    return [*command, "--exit-with-parent"]


def shares(names: Sequence[str], count: int) -> list[Sequence[str]]:
    """`names` in at most `count` runs whose lengths differ by at most one."""
    count = max(1, min(count, len(names)))
    bounds = [len(names) * index // count for index in range(count + 1)]
    return [names[start:stop] for start, stop in pairwise(bounds)]


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does. Only a main thread may say so; others leave it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    kept = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
