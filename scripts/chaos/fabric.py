"""All links of a deployment: one for every party and every replica that it dials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Final

from chaos.link import Link
from chaos.weather import FAIR, Fault, Weather


class Fabric:
    """A link from each of `diallers` to each of `replicas` (name to address), but none from one to itself.

    A dialler is a process: a replica, or some clients together. What happens is drawn from `seed`.
    """

    def __init__(
        self, diallers: Iterable[str], replicas: Mapping[str, tuple[str, int]], *, seed: int
    ) -> None:
        self._replicas: Final = dict(replicas)
        self._seed: Final = seed
        self.links: dict[tuple[str, str], Link] = {}
        for dialler in diallers:
            self._add(dialler)

    async def start(self) -> None:
        for link in self.links.values():
            await link.start()

    async def close(self) -> None:
        for link in self.links.values():
            await link.close()

    async def add(self, dialler: str) -> None:
        """Links of a party that joins later."""
        for link in self._add(dialler):
            await link.start()

    def _add(self, dialler: str) -> list[Link]:
        made = []
        for name, address in self._replicas.items():
            if name != dialler:
                link = Link(address, Random(f"{self._seed} {dialler} {name}"))
                self.links[dialler, name] = link
                made.append(link)
        return made

    def urls(self, dialler: str) -> dict[str, str]:
        """For the deployment file of `dialler`: the replicas by name, as it shall dial them."""
        return {replica: link.url for (party, replica), link in self.links.items() if party == dialler}

    def between(self, some: Iterable[str], others: Iterable[str] | None = None) -> list[Link]:
        """The links that join a party of `some` with one of `others` (None: anybody), whoever dials."""
        mine = set(some)
        theirs = None if others is None else set(others)
        return [
            link
            for (dialler, replica), link in self.links.items()
            if (dialler in mine and (theirs is None or replica in theirs))
            or (replica in mine and (theirs is None or dialler in theirs))
        ]

    def set(self, weather: Weather, links: Sequence[Link] | None = None) -> None:
        """Weather of some links, or of all."""
        for link in self.links.values() if links is None else links:
            link.set(weather)

    def part(self, *sides: Iterable[str]) -> None:
        """Nothing passes between parties of different sides; within a side all is well.

        Whoever is on no side is cut off from everybody.
        """
        side = {name: number for number, names in enumerate(sides) for name in names}
        for (dialler, replica), link in self.links.items():
            together = dialler in side and side[dialler] == side.get(replica)
            link.set(FAIR if together else Weather(fault=Fault.STUCK))

    def heal(self) -> None:
        self.set(FAIR)
