"""All links of a deployment: one for every party and every replica that it dials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from chaos.link import Link
from chaos.weather import FAIR, Fault, Weather


@dataclass(frozen=True, eq=False)
class Spell:
    """Weather on some links for a while."""

    weather: Weather
    links: frozenset[Link]


class Fabric:
    """A link from each of `diallers` to each of `replicas` (name to address), but none from one to itself.

    A dialler is a process: a replica, or some clients together. What happens is drawn from `seed`.
    """

    def __init__(
        self, diallers: Iterable[str], replicas: Mapping[str, tuple[str, int]], *, seed: int
    ) -> None:
        self._replicas: Final = dict(replicas)
        self._seed: Final = seed
        self._spells: list[Spell] = []
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

    def across(self, *sides: Iterable[str]) -> list[Link]:
        """The links between parties of different sides, and all of whoever is on none."""
        side = {name: number for number, names in enumerate(sides) for name in names}
        return [
            link
            for (dialler, replica), link in self.links.items()
            if dialler not in side or side[dialler] != side.get(replica)
        ]

    def befall(self, weather: Weather, links: Iterable[Link] | None = None) -> Spell:
        """Weather on some links, or all, until its spell is lifted. Of several on a link the last one counts."""
        spell = Spell(weather, frozenset(self.links.values() if links is None else links))
        self._spells.append(spell)
        self._apply(spell.links)
        return spell

    def lift(self, spell: Spell) -> None:
        """Other spells on the same links count again."""
        self._spells.remove(spell)
        self._apply(spell.links)

    def part(self, *sides: Iterable[str]) -> Spell:
        """Nothing passes between parties of different sides; within a side all is well."""
        return self.befall(Weather(fault=Fault.STUCK), self.across(*sides))

    def heal(self) -> None:
        """Lift every spell."""
        self._spells.clear()
        self._apply(self.links.values())

    def _apply(self, links: Iterable[Link]) -> None:
        for link in links:
            weather = next((spell.weather for spell in reversed(self._spells) if link in spell.links), FAIR)
            if link.weather != weather:
                link.set(weather)
