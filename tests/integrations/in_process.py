"""Flower's own simulation runtime, with clients that run in a thread of this process in place of Ray's actors.

Messages, their checks, the store between server and clients, and both apps are Flower's. Ray takes seconds to start,
and gives up where cores are busy: it waits 15 s for a process that it starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.simulation import run_simulation

RAY = "flwr.server.superlink.fleet.vce.backend.raybackend"


class InProcess(Backend):
    def __init__(self, backend_config: Any) -> None:
        self._busy = False

    def build(self, app_fn: Callable[[], Any]) -> None:
        self._app = app_fn()

    @property
    def num_workers(self) -> int:
        return 1

    def is_worker_idle(self) -> bool:
        return True

    def process_message(self, message: Any, context: Any) -> tuple[Any, Any]:
        return self._app(message=message, context=context), context

    def terminate(self) -> None:
        pass


def simulate(monkeypatch: pytest.MonkeyPatch, server_app: Any, client_app: Any, clients: int) -> None:
    """Run both apps to the end. Raises what the server's raises."""
    stand_in = ModuleType(RAY)
    vars(stand_in)["RayBackend"] = InProcess
    monkeypatch.setitem(sys.modules, RAY, stand_in)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    run_simulation(server_app, client_app, num_supernodes=clients, backend_name="in-process")
