"""Joins hosts in network namespaces, and treats packets as a bad network does: loss, delay, reordering, copies.

Packets, not streams: the kernels at both ends see gaps, retransmit, back off and give up as on a real network.
Where the kernel has `netem` it could do the same; many do not, so this is done here, in user space, alike everywhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

PACKET_BYTES: Final = 65536
BURST: Final = 64
"""Packets of one host that are taken in one go."""
_DESTINATION: Final = slice(16, 20)
"""Of an IPv4 header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Air:
    """What befalls every packet, independently. Probabilities in [0, 1]; times one way, in seconds."""

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more for each packet on its own, so that packets overtake each other."""
    copies: float = 0.0
    """Probability that a packet arrives twice."""


def missing() -> str | None:
    """What this system lacks to make hosts; None when it can."""
    try:
        done = subprocess.run(
            [*_UNSHARE, sys.executable, "-P", "-c", _PROBE],
            env=_environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return "there is no program `unshare` (util-linux)"
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"network namespaces with a TUN interface cannot be made here: {reason}"
    return None


def command(switch: Path, address: str, program: Sequence[str]) -> list[str]:
    """The command line that runs `program` on a host of its own. Its process is the host's only one."""
    return [
        *_UNSHARE,
        sys.executable,
        str(Path(__file__).with_name("host.py")),
        str(switch),
        address,
        *program,
    ]


_UNSHARE: Final = ("unshare", "--user", "--map-root-user", "--net", "--")
_PROBE: Final = "from chaos.host import make_interface; make_interface('10.77.255.1')"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


class Switch:
    """Listens for hosts on a Unix socket at `path`. Unknown destinations are dropped."""

    def __init__(self, path: Path, *, seed: int) -> None:
        self.path: Final = path
        self.air = Air()
        self.carried = 0
        self.lost = 0
        self._random: Final = Random(seed)
        self._ends: dict[bytes, int] = {}
        self._apart: set[frozenset[bytes]] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    async def start(self) -> None:
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._welcome)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._listener.close()
        for end in self._ends.values():
            loop.remove_reader(end)
            os.close(end)
        self._ends.clear()
        self.path.unlink()

    def part(self, some: Iterable[str], others: Iterable[str]) -> None:
        """From now on no packet passes between addresses of the two."""
        theirs = [socket.inet_aton(address) for address in others]
        self._apart |= {frozenset({socket.inet_aton(address), other}) for address in some for other in theirs}

    def heal(self) -> None:
        self._apart.clear()

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(5.0)
            address, ends, _, _ = socket.recv_fds(connection, 4, 1)
            loop = asyncio.get_running_loop()
            if (old := self._ends.pop(address, None)) is not None:
                loop.remove_reader(old)
                os.close(old)
            os.set_blocking(ends[0], False)
            self._ends[address] = ends[0]
            loop.add_reader(ends[0], self._take, address, ends[0])
            connection.sendall(b".")

    def _take(self, source: bytes, end: int) -> None:
        loop, air = asyncio.get_running_loop(), self.air
        for _ in range(BURST):
            try:
                packet = os.read(end, PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                loop.remove_reader(end)  # the host is gone
                return
            destination = packet[_DESTINATION]
            if packet[0] >> 4 != 4 or destination not in self._ends:
                continue  # IPv6 neighbours, multicast
            for _ in range(2 if self._random.random() < air.copies else 1):
                if self._random.random() < air.loss or frozenset({source, destination}) in self._apart:
                    self.lost += 1
                    continue
                late = air.delay_s + self._random.uniform(0.0, air.jitter_s)
                if late:
                    loop.call_later(late, self._give, destination, packet)
                else:
                    self._give(destination, packet)

    def _give(self, destination: bytes, packet: bytes) -> None:
        end = self._ends.get(destination)
        if end is not None:
            with suppress(OSError):  # it is gone, or its queue is full: lost, as packets are
                os.write(end, packet)
                self.carried += 1
