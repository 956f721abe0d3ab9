"""Who gets the next TASK when a coordinator may not have one with everybody at once.

Weighted sampling without replacement among the clients that wait, by the keys of Efraimidis and Spirakis (2006):
the largest `u^(1/w)` first, `w = weight * exp(beta * deficit)`. `u` is a keyed digest of client, epoch and draw:
neither clients nor other replicas can foresee or choose the order, and a simulation repeats itself.

All of it is local judgement of an honest coordinator; no safety rests on it (protocol section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

from asyncfl.digest import digest
from asyncfl.parameters import Parameters


def compute_deficit(own: float, mean: float, window: int) -> float:
    """How much less often than the mean a client is in the model, clipped to +-window."""
    return max(-float(window), min(float(window), mean - own))


def compute_uniform(secret: bytes, client: bytes, epoch: int, draw: int) -> float:
    """A number in (0, 1) that only who knows `secret` can tell."""
    words = digest("asyncfl/1/draw", secret, client, epoch.to_bytes(8, "little"), draw.to_bytes(8, "little"))
    return ((int.from_bytes(words[:8], "little") >> 11) + 0.5) / 2**53


def compute_order(
    deficits: Mapping[bytes, float],
    uniforms: Mapping[bytes, float],
    beta: float,
    weights: Mapping[bytes, float],
) -> list[bytes]:
    """Clients in the order of one draw. P(first) is `weight * exp(beta * deficit)` over the sum of all.

    Keys are compared as `log(-log u) - beta * deficit - log(weight)`: the same order, and nothing can overflow.
    """
    return sorted(
        deficits,
        key=lambda client: log(-log(uniforms[client])) - beta * deficits[client] - log(weights[client]),
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A client that could be given the TASK of `epoch` now."""

    client: bytes
    epoch: int
    deficit: float
    live: bool
    """False while it is left out for having been overdue: it comes after all others."""
    weight: float = 1.0
    """Above 0; less for clients whose groups were suspect (`asyncfl.reputation`)."""


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A TASK that was given and has brought no upload yet."""

    epoch: int
    expires: float


class Scheduler:
    """The TASKs that one coordinator has outstanding, and the choice of the next ones.

    `secret`: 32 or more bytes that nobody else knows.
    """

    def __init__(self, parameters: Parameters, secret: bytes) -> None:
        self.limit = parameters.concurrency
        self.beta = parameters.beta
        self.outstanding: dict[bytes, Outstanding] = {}
        self._secret = secret
        self._draws = 0

    @property
    def is_limited(self) -> bool:
        return self.limit > 0

    def give(self, client: bytes, epoch: int, expires: float) -> None:
        """A TASK went out; a repetition keeps the time at which the first expires."""
        known = self.outstanding.get(client)
        if known is None or known.epoch != epoch:
            self.outstanding[client] = Outstanding(epoch, expires)

    def release(self, client: bytes) -> None:
        """The client has turned elsewhere, or is gone."""
        self.outstanding.pop(client, None)

    def has_task(self, client: bytes, epoch: int) -> bool:
        known = self.outstanding.get(client)
        return known is not None and known.epoch == epoch

    def has_places(self, is_live: Callable[[bytes], bool]) -> bool:
        """Whether a live client could be given a TASK now."""
        return self.limit > sum(map(is_live, self.outstanding))

    def expire(self, now: float, is_over: Callable[[bytes, int], bool]) -> None:
        """Forget TASKs that have brought their upload (`is_over(client, epoch)`) or taken too long."""
        for client, task in list(self.outstanding.items()):
            if now > task.expires or is_over(client, task.epoch):
                del self.outstanding[client]

    def choose(self, candidates: list[Candidate], is_live: Callable[[bytes], bool]) -> list[Candidate]:
        """Who gets a TASK now.

        A client that is left out is served only while no other waits, and its TASK takes no place from a live
        one: else a few clients that take TASKs and never train would use up all places.
        """
        live = [candidate for candidate in candidates if candidate.live]
        taken = sum(map(is_live, self.outstanding)) if live else len(self.outstanding)
        places = self.limit - taken
        if places <= 0 or not candidates:
            return []
        waiting = {candidate.client: candidate for candidate in live or candidates}
        self._draws += 1
        uniforms = {
            c.client: compute_uniform(self._secret, c.client, c.epoch, self._draws) for c in waiting.values()
        }
        deficits = {c.client: c.deficit for c in waiting.values()}
        weights = {c.client: c.weight for c in waiting.values()}
        order = compute_order(deficits, uniforms, self.beta, weights)
        return [waiting[client] for client in order[:places]]
