"""What befalls whom and when in a soak: drawn from a seed, before anything starts.

Several things go on side by side. Of the honest replicas no more are down, paused or cut off at once than `t` less
the liars among the replicas; only a partition `beyond` breaks that rule, for a while, and training must stall then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from chaos.weather import Fault, Weather


class Kind(StrEnum):
    KILL = "killed"
    """SIGKILL; started again when it is over."""
    RESTART = "restarted"
    """SIGTERM; started again when it is over."""
    PAUSE = "paused"
    """SIGSTOP, then SIGCONT."""
    WEATHER = "weather"
    """On all links of those named."""
    PART = "cut off"
    """Those named are cut off from everybody else, together."""
    BEYOND = "cut off beyond t"
    """The same with more than `t` replicas."""
    ATTACK = "attacks"
    """Started again with another attack."""
    ENROL = "enrolled"
    RETIRE = "retired"


@dataclass(frozen=True, slots=True)
class Misfortune:
    """Something that happens to `names` from `at` on, for `seconds`."""

    at: float
    seconds: float
    kind: Kind
    names: tuple[str, ...]
    weather: Weather | None = None
    detail: str = ""

    def __str__(self) -> str:
        what = f"{', '.join(self.names)} {self.kind}"
        return f"{what}: {self.detail}" if self.detail else what


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part. Names are those of processes."""

    honest: tuple[str, ...]
    """Replicas."""
    liars: tuple[str, ...]
    """Replicas that attack."""
    byzantine: int
    """`t`."""
    parties: tuple[str, ...]
    """Processes of honest clients."""
    malicious: tuple[str, ...]
    """Processes of clients that attack."""
    spared: tuple[str, ...]
    """Never killed or restarted, so that their one life is as long as the run."""
    joiners: tuple[str, ...] = ()
    """Clients that are enrolled on the way, and later retire."""
    replica_attacks: tuple[str, ...] = ()
    client_attacks: tuple[str, ...] = ()


FIRST_SECONDS: Final = 20.0
"""Nothing happens before everybody had the time to start."""
LAST_SECONDS: Final = 15.0
"""Nothing begins so shortly before the end."""
FAULTS: Final = (Fault.BLACK_HOLE, Fault.LOST_LISTENER, Fault.LOST_DIALLER, Fault.RESET, Fault.STUCK)


def draw(seed: int, seconds: float, cast: Cast) -> list[Misfortune]:
    """All that happens within `seconds`, in order of time. The same seed and cast give the same."""
    tracks = (_replicas, _links, _clients, _attacks, _members)
    found = [
        misfortune
        for number, track in enumerate(tracks)
        for misfortune in track(Random(f"{seed} {number}"), seconds, cast)
        if misfortune.at < seconds - LAST_SECONDS
    ]
    return sorted(found, key=lambda misfortune: (misfortune.at, misfortune.names))


def _replicas(random: Random, seconds: float, cast: Cast) -> list[Misfortune]:
    """One after the other, with calm between them."""
    found: list[Misfortune] = []
    at = FIRST_SECONDS
    bearable = cast.byzantine - len(cast.liars)
    while at < seconds:
        at += random.uniform(5.0, 20.0)
        what = random.random()
        if what < 0.06:
            count = cast.byzantine + 1
            names = tuple(random.sample(cast.honest, min(count, len(cast.honest))))
            found.append(Misfortune(at, random.uniform(10.0, 20.0), Kind.BEYOND, names))
        elif bearable:
            found.append(_one_replica(random, at, what, bearable, cast))
        else:
            continue
        at += found[-1].seconds
    return found


def _one_replica(random: Random, at: float, what: float, bearable: int, cast: Cast) -> Misfortune:
    names = tuple(random.sample(cast.honest, random.randint(1, bearable)))
    mortal = tuple(name for name in cast.honest if name not in cast.spared)
    if what < 0.4:
        victims = tuple(random.sample(mortal, min(len(names), len(mortal))))
        return Misfortune(at, random.uniform(2.0, 12.0), Kind.KILL, victims)
    if what < 0.46:
        return Misfortune(at, random.uniform(1.0, 5.0), Kind.RESTART, (random.choice(mortal),))
    if what < 0.6:
        return Misfortune(at, random.uniform(2.0, 15.0), Kind.PAUSE, names)
    if what < 0.75:
        return Misfortune(at, random.uniform(8.0, 25.0), Kind.PART, names)
    fault = random.choice(FAULTS)
    return Misfortune(at, random.uniform(5.0, 20.0), Kind.WEATHER, names, Weather(fault=fault), str(fault))


def _links(random: Random, seconds: float, cast: Cast) -> list[Misfortune]:
    """Bad links of somebody, which training must bear."""
    found: list[Misfortune] = []
    at = FIRST_SECONDS
    while at < seconds:
        at += random.uniform(10.0, 30.0)
        weather, detail = _bad_weather(random)
        name = random.choice(cast.honest + cast.parties)
        found.append(Misfortune(at, random.uniform(8.0, 25.0), Kind.WEATHER, (name,), weather, detail))
    return found


def _bad_weather(random: Random) -> tuple[Weather, str]:
    kinds: list[tuple[Weather, str]] = []
    delay, jitter = random.uniform(0.02, 0.3), random.uniform(0.0, 0.3)
    kinds.append((Weather(delay_s=delay, jitter_s=jitter), f"{1000 * delay:.0f} ms + {1000 * jitter:.0f} ms"))
    rate = random.choice((50_000, 200_000, 1_000_000))
    kinds.append((Weather(bytes_per_s=rate), f"{rate // 1000} kB/s"))
    share = random.choice((0.001, 0.01, 0.1))
    kinds.append((Weather(corrupt=share), f"{share:.1%} of pieces corrupted"))
    most = random.choice((20_000, 200_000, 2_000_000))
    kinds.append((Weather(reset_after=(1, most)), f"resets within {most // 1000} kB"))
    return random.choice(kinds)


def _clients(random: Random, seconds: float, cast: Cast) -> list[Misfortune]:
    found: list[Misfortune] = []
    at = FIRST_SECONDS
    mortal = [name for name in cast.parties if name not in cast.spared]
    while at < seconds and mortal:
        at += random.uniform(10.0, 40.0)
        kind = random.choice((Kind.KILL, Kind.KILL, Kind.PAUSE))
        names = mortal if kind is Kind.KILL else list(cast.parties)
        found.append(Misfortune(at, random.uniform(1.0, 10.0), kind, (random.choice(names),)))
        at += found[-1].seconds
    return found


def _attacks(random: Random, seconds: float, cast: Cast) -> list[Misfortune]:
    """Every attacker begins with one attack and goes on to others."""
    found: list[Misfortune] = []
    for names, attacks in ((cast.liars, cast.replica_attacks), (cast.malicious, cast.client_attacks)):
        for name in names:
            at = 0.0
            while at < seconds:
                found.append(Misfortune(at, 0.0, Kind.ATTACK, (name,), detail=random.choice(attacks)))
                at += random.uniform(60.0, 150.0)
    return found


def _members(random: Random, seconds: float, cast: Cast) -> list[Misfortune]:
    """Each joiner comes at a time of its own and goes after a while."""
    found: list[Misfortune] = []
    step = (seconds - FIRST_SECONDS) / (len(cast.joiners) + 1)
    for number, name in enumerate(cast.joiners):
        comes = FIRST_SECONDS + step * (number + random.uniform(0.1, 0.4))
        goes = comes + step * random.uniform(0.8, 1.2)
        found.append(Misfortune(comes, 0.0, Kind.ENROL, (name,)))
        found.append(Misfortune(goes, 0.0, Kind.RETIRE, (name,)))
    return found
