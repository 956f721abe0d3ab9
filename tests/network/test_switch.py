"""Hosts in network namespaces of their own, over a switch that loses packets: TCP mends what the air breaks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chaos.switch import Air, Switch, command, missing

LACKING = missing()
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
SERVE = """
import socket
with socket.create_server(("10.77.0.1", 7000)) as server:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
"""
DIAL = """
import os, socket, sys, time
for _ in range(600):
    try:
        connection = socket.create_connection(("10.77.0.1", 7000), timeout=60)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
data = os.urandom(1000) * 300
back = b""
with connection:
    for start in range(0, len(data), 30000):
        connection.sendall(data[start:start + 30000])
        while len(back) < min(start + 30000, len(data)):
            back += connection.recv(65536)
sys.exit(back != data)
"""


@pytest.fixture
async def switch(tmp_path: Path) -> AsyncIterator[Switch]:
    made = Switch(tmp_path / "switch", seed=1)
    await made.start()
    yield made
    await made.close()


def start(switch: Switch, address: str, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(switch.path, address, [sys.executable, "-S", "-c", program]))


@pytest.mark.parametrize(
    "air",
    [Air(), Air(loss=0.05, delay_s=0.005), Air(jitter_s=0.01, copies=0.1)],
    ids=["clear", "loss", "reordering"],
)
async def test_bytes_arrive_whole_over_any_air(switch: Switch, air: Air) -> None:
    switch.air = air
    server = start(switch, "10.77.0.1", SERVE)
    dialler = start(switch, "10.77.0.2", DIAL)
    try:
        async with asyncio.timeout(90):
            while dialler.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert dialler.returncode == 0
        assert switch.carried > 400
        assert (switch.lost > 0) == (air.loss > 0)
        async with asyncio.timeout(30):
            while server.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert server.returncode == 0
    finally:
        for process in (server, dialler):
            process.kill()
            process.wait()
