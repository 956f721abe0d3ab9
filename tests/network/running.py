"""A deployment of real processes over a network that misbehaves, and what a test asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from chaos import remains
from chaos.deployment import ChaoticDeployment, HostedDeployment, Processes
from chaos.fabric import Fabric
from chaos.switch import Air

from node.deployment_creation import NewDeployment

CLIENTS = 6


class Running:
    """Replicas `replica-0` … and processes of clients, all up."""

    def __init__(self, deployment: Processes) -> None:
        self.deployment = deployment
        self.replicas = list(deployment.replicas)

    def entries(self, name: str | None = None) -> int:
        """In the ledger of one replica, or of the one that is furthest."""
        names = self.replicas if name is None else [name]
        return max(int(self.deployment.status(each).get("entries", 0)) for each in names)

    def connected(self, name: str) -> int:
        """Other replicas to which a replica has a channel."""
        return int(self.deployment.status(name).get("connected", -1))

    def agree(self) -> bool:
        """Whether all replicas certified the same model of the same entries, and have no others."""
        told = [self.deployment.status(name) for name in self.replicas]
        certified = [status.get("certified") or {} for status in told]
        return (
            len({status.get("version") for status in told}) == 1
            and all(each.get("version") == told[0].get("version") for each in certified)
            and len({each.get("model") for each in certified}) == 1
        )

    async def until(self, what: str, condition: Callable[[], bool], seconds: float = 60.0) -> float:
        """Wait for a condition; how many seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            self.require_life()
            assert loop.time() - began < seconds, f"waited {seconds:g} s for {what}\n{self.words()}"
            await asyncio.sleep(0.1)
        return loop.time() - began

    async def grow(self, by: int, seconds: float = 60.0) -> float:
        """Wait for more entries."""
        goal = self.entries() + by
        return await self.until(f"{by} more entries", lambda: self.entries() >= goal, seconds)

    async def rest(self) -> float:
        """End the clients, and wait for the replicas to agree."""
        for party in self.deployment.parties:
            child = self.deployment.children[party]
            child.ask_to_stop()
            assert await asyncio.to_thread(child.wait, 30.0)
        return await self.until("the replicas to agree", self.agree)

    def require_life(self) -> None:
        for name, child in self.deployment.children.items():
            assert child.returncode in {None, 0}, (
                f"{name} ended with {child.returncode}\n{child.last_words(40)}"
            )

    def words(self) -> str:
        """The last of what every process said, and how the replicas are."""
        told = [f"{name}: {self.deployment.status(name)}"[:900] for name in self.replicas]
        logs = [f"{name}: {child.last_words(12)}" for name, child in self.deployment.children.items()]
        return "\n".join(told + logs)


@asynccontextmanager
async def running(
    root: Path, *, parties: int = 2, clients: int = CLIENTS, seed: int = 1
) -> AsyncIterator[tuple[Running, Fabric]]:
    """n = 4, t = 1, training digits over proxies."""
    deployment = ChaoticDeployment(root, _wanted(clients, seed), _parties(clients, parties), seed=seed)
    async with _alive(deployment, root) as made:
        yield made, deployment.fabric
        deployment.fabric.heal()


@asynccontextmanager
async def hosted(root: Path, *, seed: int = 1) -> AsyncIterator[tuple[Running, HostedDeployment]]:
    """The same, every process on a host of its own."""
    deployment = HostedDeployment(root, _wanted(CLIENTS, seed), _parties(CLIENTS, 2), seed=seed)
    async with _alive(deployment, root) as made:
        yield made, deployment
        deployment.switch.air = Air()
        deployment.switch.heal()


def _wanted(clients: int, seed: int) -> NewDeployment:
    return NewDeployment(clients=clients, seed=seed, training={"local_steps": 4})


def _parties(clients: int, parties: int) -> dict[str, list[str]]:
    names = [f"client-{index}" for index in range(clients)]
    return {f"party-{number}": names[number::parties] for number in range(parties)}


@asynccontextmanager
async def _alive(deployment: ChaoticDeployment | HostedDeployment, root: Path) -> AsyncIterator[Running]:
    """From the first entries on; at the end everybody stops as asked, and no log tells of a bug."""
    await deployment.prepare()
    try:
        deployment.start()
        made = Running(deployment)
        await made.until("the first entries", lambda: made.entries() >= 2, 120.0)
        yield made
        made.require_life()
        await asyncio.to_thread(deployment.stop, 60.0)
        assert {child.returncode for child in deployment.children.values()} == {0}
        complaints = [
            line for name in deployment.children for line in remains.complaints(deployment.log(name), name)
        ]
        assert not complaints
    finally:
        await asyncio.to_thread(deployment.stop)
        await deployment.close()
    assert remains.processes(root) == []
    assert remains.files(root) == []
