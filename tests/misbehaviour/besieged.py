"""Honest nodes of a deployment with real sockets, in one process, and room for two hostile ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from asyncfl_misbehaviour.hostile_network import HostileNetwork
from asyncfl_misbehaviour.misconduct import Misconduct
from node.deployment_creation import NewDeployment, create_deployment
from tests.node.test_join_and_leave_in_one_process import FAST, House

REPLICA, CLIENT = "replica-3", "client-7"
"""The hostile ones: nobody else runs them."""


class Besieged(House):
    """A deployment one of whose replicas and one of whose clients is hostile; its honest nodes say what goes wrong."""

    patience = 240.0  # Processes start meanwhile, on machines with other work.
    said: list[Any]

    def assault(self, name: str, node: str) -> HostileNetwork:
        """Let `node` begin, in this process."""
        identity = self.files.identity(node)
        role = "replica" if node == REPLICA else "client"
        listen = self.files.deployment.replica(node).address if node == REPLICA else None
        network = Misconduct.of(name, role).network(self.files, identity, listen)
        assert isinstance(network, HostileNetwork)
        self.on_loop(network.start())
        return network

    def on_loop(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    @property
    def epoch(self) -> int:
        return max(self.status(f"replica-{index}").get("epoch", 0) for index in range(3))

    def errors(self, since: int) -> list[Any]:
        """What honest nodes logged as an error, after their first `since` lines; that they convict is none."""
        return [
            line
            for line in self.said[since:]
            if line["log_level"] in {"error", "critical"} and line["event"] != "evidence"
        ]


@contextmanager
def besieged(root: Path) -> Iterator[Besieged]:
    """Three of four replicas and seven of eight clients train, until the block ends."""
    with capture_logs() as said:
        made = Besieged(
            create_deployment(root, NewDeployment(clients=8, training=FAST, allow_misbehaviour=True))
        )
        made.said = said
        for name in [f"replica-{index}" for index in range(3)] + [f"client-{index}" for index in range(7)]:
            made.start(name)
        try:
            made.until("training", lambda: made.epoch >= 1)
            yield made
        finally:
            made.close()
