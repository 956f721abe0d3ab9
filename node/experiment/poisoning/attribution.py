"""What the reputation makes of the clients, epoch by epoch: who counts less than half, and is it the right ones?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from torch import Tensor

from asyncfl.reputation import Reputation, score_groups

HALF: Final = 0.5
"""A client that weighs less is called suspect."""
MOST: Final = 0.9
"""Malicious clients count as found once so many of them are suspect."""
SEPARATED: Final = 0.95
"""And as separated once so many pairs of a malicious and an honest client are in the right order, and stay so."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """After one epoch: which shares of the malicious, the honest, and honest holders of a rare class are suspect.

    `separation`: the probability that a malicious client is more suspect than an honest one (0.5: as by chance).
    """

    found: float
    wrong: float
    wrong_rare: float | None
    separation: float


@dataclass
class Attribution:
    """The reputation of a run, from what it opened. `rare`: clients that hold a rare class."""

    clients: int
    malicious: Collection[int]
    rare: Collection[int]
    reputation: Reputation[int] = field(default_factory=Reputation[int])
    epochs: list[Suspects] = field(default_factory=list)

    def weights(self, groups: Sequence[Sequence[int]]) -> list[float]:
        """What each group counts, by the epochs before."""
        return [self.reputation.group_weight(group) for group in groups]

    def learn(self, groups: Sequence[Sequence[int]], means: Tensor) -> None:
        """One epoch more. `means` [groups, d] as they were opened."""
        scores = score_groups(means, [len(group) for group in groups])
        self.reputation = self.reputation.after(zip(groups, scores, strict=True))
        if self.malicious:
            self.epochs.append(self._suspects())

    def _suspects(self) -> Suspects:
        suspect = {client: self.reputation.weight(client) < HALF for client in range(self.clients)}
        honest = [client for client in range(self.clients) if client not in self.malicious]
        rare = [client for client in honest if client in self.rare]
        means = {client: self.reputation.suspicion(client)[0] for client in range(self.clients)}
        pairs = [(means[bad], means[good]) for bad in self.malicious for good in honest]
        won = sum(1.0 if bad > good else 0.5 * (bad == good) for bad, good in pairs)
        return Suspects(
            _share(suspect, self.malicious),
            _share(suspect, honest),
            _share(suspect, rare) if rare else None,
            won / len(pairs),
        )

    def facts(self, late: float) -> dict[str, Any] | None:
        """Plain values; shares of the wrongly suspect are means over the epochs from the part `late` on.

        None without malicious clients.
        """
        if not self.epochs:
            return None
        after = self.epochs[int(late * len(self.epochs)) :]
        rare = [each.wrong_rare for each in after if each.wrong_rare is not None]
        found_at = next((n for n, each in enumerate(self.epochs, 1) if each.found >= MOST), None)
        apart = len(self.epochs)
        while apart and self.epochs[apart - 1].separation >= SEPARATED:
            apart -= 1
        return {
            "separated_at": apart + 1 if apart < len(self.epochs) else None,
            "found_at": found_at,
            "found": sum(each.found for each in after) / len(after),
            "wrong": sum(each.wrong for each in after) / len(after),
            "wrong_rare": sum(rare) / len(rare) if rare else None,
            "separation": after[-1].separation,
            "epochs": [asdict(each) for each in self.epochs],
        }


def _share(suspect: dict[int, bool], clients: Collection[int]) -> float:
    return sum(suspect[client] for client in clients) / len(clients)
