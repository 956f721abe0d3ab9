"""Plays a plan of misfortunes on a deployment, and measures all of its processes meanwhile."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.deployment import ChaoticDeployment
from chaos.gauges import Disk, Life, read, read_disk
from chaos.plan import Cast, Kind, Misfortune
from chaos.weather import Fault, Weather

SAMPLE_SECONDS: Final = 3.0
DISK_SECONDS: Final = 15.0
ENROL_SECONDS: Final = 60.0
"""For the operator's command, which asks replicas of which some may be away."""
LINGER_SECONDS: Final = 30.0
"""From a client's retirement to the end of its process."""


@dataclass
class Story:
    """What happened. `seconds` count from the start."""

    began: float
    lives: list[Life] = field(default_factory=list)
    disks: dict[str, list[Disk]] = field(default_factory=lambda: defaultdict(list))
    events: list[tuple[float, str]] = field(default_factory=list)
    happened: list[tuple[float, float, Misfortune]] = field(default_factory=list)
    """(began, ended, what)"""
    entries: list[tuple[float, int]] = field(default_factory=list)
    stalls: dict[str, float] = field(default_factory=dict)
    """What replicas said of why nothing moves, and when first."""
    deaths: list[str] = field(default_factory=list)
    """Processes that ended though nobody ended them."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        self.events.append((self.seconds, text))


class Stage:
    """To be used from the event loop that carries the links."""

    def __init__(self, deployment: ChaoticDeployment, cast: Cast) -> None:
        self.deployment: Final = deployment
        self.cast: Final = cast
        self.story: Final = Story(time.monotonic())
        self._down: set[str] = set()
        self._lives: dict[str, Life] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- processes -------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        child = self.deployment.children[name]
        child.start()
        assert child.pid is not None
        role = "replica" if name in self.deployment.replicas else "clients"
        self._lives[name] = Life(name, role, child.pid)
        self.story.lives.append(self._lives[name])
        self._down.discard(name)

    def kill(self, name: str) -> None:
        self._down.add(name)
        self.deployment.children[name].kill()

    async def end(self, name: str) -> None:
        """SIGTERM, and wait."""
        self._down.add(name)
        child = self.deployment.children[name]
        child.ask_to_stop()
        if not await asyncio.to_thread(child.wait, 30.0):
            self.story.deaths.append(f"{name} did not stop within 30 s of SIGTERM")
        child.kill()

    def is_up(self, name: str) -> bool:
        return name not in self._down

    def start_all(self) -> None:
        for name in self.deployment.children:
            if not self.deployment.children[name].running:
                self.start(name)

    # --- the plan --------------------------------------------------------------------------------

    async def play(self, plan: Sequence[Misfortune], seconds: float, show: Callable[[], None]) -> None:
        """Until `seconds` from the start; what lasts longer is ended then."""
        watching = asyncio.create_task(self._watch(show), name="watch")
        try:
            for misfortune in plan:
                await asyncio.sleep(max(0.0, misfortune.at - self.story.seconds))
                task = asyncio.create_task(self._befall(misfortune), name=str(misfortune))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(max(0.0, seconds - self.story.seconds))
            while self._tasks:
                await asyncio.wait(self._tasks, timeout=1.0)
        finally:
            for task in (watching, *self._tasks):
                task.cancel()
            results = await asyncio.gather(watching, *self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _befall(self, misfortune: Misfortune) -> None:
        names = [name for name in misfortune.names if self._can_suffer(misfortune.kind, name)]
        if not names:
            return
        began = self.story.seconds
        self.story.say(str(misfortune))
        await self._ACTS[misfortune.kind](self, misfortune, names)
        self.story.happened.append((began, self.story.seconds, misfortune))

    def _can_suffer(self, kind: Kind, name: str) -> bool:
        if kind in {Kind.KILL, Kind.RESTART, Kind.PAUSE}:
            return self.is_up(name)
        return True

    async def _kill(self, misfortune: Misfortune, names: list[str]) -> None:
        for name in names:
            self.kill(name)
        await asyncio.sleep(misfortune.seconds)
        for name in names:
            self.start(name)

    async def _restart(self, misfortune: Misfortune, names: list[str]) -> None:
        for name in names:
            await self.end(name)
        await asyncio.sleep(misfortune.seconds)
        for name in names:
            self.start(name)

    async def _pause(self, misfortune: Misfortune, names: list[str]) -> None:
        self._down.update(names)  # a paused process is not killed by another misfortune
        for name in names:
            self.deployment.signal(name, signal.SIGSTOP)
        await asyncio.sleep(misfortune.seconds)
        for name in names:
            self.deployment.signal(name, signal.SIGCONT)
            self._down.discard(name)

    async def _weather(self, misfortune: Misfortune, names: list[str]) -> None:
        assert misfortune.weather is not None
        fabric = self.deployment.fabric
        spell = fabric.befall(misfortune.weather, fabric.between(names))
        await asyncio.sleep(misfortune.seconds)
        fabric.lift(spell)

    async def _part(self, misfortune: Misfortune, names: list[str]) -> None:
        fabric = self.deployment.fabric
        others = [name for name in self.deployment.children if name not in names]
        spell = fabric.befall(Weather(fault=Fault.STUCK), fabric.across(names, others))
        await asyncio.sleep(misfortune.seconds)
        fabric.lift(spell)

    async def _attack(self, misfortune: Misfortune, names: list[str]) -> None:
        for name in names:
            if self.deployment.children[name].running:
                self.kill(name)
            self.deployment.command(name, "--misbehave", misfortune.detail)
            self.start(name)

    async def _enrol(self, misfortune: Misfortune, names: list[str]) -> None:
        for name in names:
            if await self._operator("enroll", name):
                await self.deployment.join(f"{name}-alone", [name])
                self.start(f"{name}-alone")

    async def _retire(self, misfortune: Misfortune, names: list[str]) -> None:
        for name in names:
            if f"{name}-alone" in self.deployment.children and await self._operator("retire", name):
                await asyncio.sleep(LINGER_SECONDS)
                await self.end(f"{name}-alone")

    async def _operator(self, command: str, name: str) -> bool:
        """Whether `asyncfl enroll` or `asyncfl retire` succeeded; tried again where replicas were away."""
        for _ in range(3):
            done = await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "node.cli",
                    command,
                    str(self.deployment.operator.root),
                    name,
                    "--yes",
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=ENROL_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return True
            self.story.say(f"{command} {name}: {done.stderr.strip()[-300:]}")
            await asyncio.sleep(5.0)
        return False

    _ACTS: Final[dict[Kind, Any]] = {
        Kind.KILL: _kill,
        Kind.RESTART: _restart,
        Kind.PAUSE: _pause,
        Kind.WEATHER: _weather,
        Kind.PART: _part,
        Kind.BEYOND: _part,
        Kind.ATTACK: _attack,
        Kind.ENROL: _enrol,
        Kind.RETIRE: _retire,
    }

    # --- measuring -------------------------------------------------------------------------------

    async def _watch(self, show: Callable[[], None]) -> None:
        disk_at = 0.0
        while True:
            self.measure(disk=self.story.seconds >= disk_at)
            if self.story.seconds >= disk_at:
                disk_at = self.story.seconds + DISK_SECONDS
            show()
            await asyncio.sleep(SAMPLE_SECONDS)

    def measure(self, *, disk: bool) -> None:
        """One sample of every process."""
        story, now = self.story, self.story.seconds
        highest = 0
        for name, child in self.deployment.children.items():
            status = self.deployment.status(name) if name in self.deployment.replicas else {}
            entries = int(status.get("entries", 0))
            if name in self.cast.honest and status.get("pid") == child.pid and child.running:
                highest = max(highest, entries)
                if stall := status.get("stall"):
                    story.stalls.setdefault(stall, now)
            if child.running:
                sample = read(self._lives[name].pid, now, entries)
                if sample is not None:
                    self._lives[name].samples.append(sample)
            elif self.is_up(name) and child.returncode is not None:
                self._down.add(name)
                story.say(f"{name} ended by itself with {child.returncode}")
                if name not in self.cast.liars + self.cast.malicious:
                    story.deaths.append(story.events[-1][1])
            if disk:
                for each in self.deployment.parties.get(name, (name,)):
                    state = self.deployment.files(each).state(each)
                    story.disks[each].append(read_disk(state, now, entries))
        story.entries.append((now, max(highest, story.entries[-1][1] if story.entries else 0)))

    def waiting_for(self) -> str | None:
        """What the honest replicas still lack to agree; None when they have one certified model of all entries."""
        told = {name: self.deployment.status(name) for name in self.cast.honest}
        for name, status in told.items():
            if status.get("pid") != self.deployment.children[name].pid or status.get("state") != "up":
                return f"{name} to be up ({status.get('state', 'no word')})"
        versions = {status["version"] for status in told.values()}
        if len(versions) > 1:
            return "the same ledger everywhere: " + ", ".join(
                f"{name} {status['entries']}" for name, status in told.items()
            )
        for name, status in told.items():
            if (status.get("certified") or {}).get("version") not in versions:
                return f"{name} to have a certified model of its {status['entries']} entries"
        if len({status["certified"]["model"] for status in told.values()}) > 1:
            return "the same model everywhere"
        return None
