"""What replicas say of the front, of rosters and of their patience, so that at most t liars change nothing.

Only the client moves itself, and only exactly to the (t+1)-th largest front in n-t answers: whoever could
choose a client's epoch could choose its cell (protocol section 4, step 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncfl.inclusion import PATIENCE_AT_FIRST, PATIENCE_CEILING, PATIENCE_FLOOR
from asyncfl.messages import Front
from asyncfl.parameters import Parameters


@dataclass
class Fronts:
    """The last signed FRONT of each replica."""

    parameters: Parameters
    latest: dict[int, Front] = field(default_factory=dict)

    def hear(self, replica: int, front: Front) -> None:
        """Fronts, rosters and statements never fall at an honest replica; an older one that comes late is ignored."""
        known = self.latest.get(replica)
        if known is None or (
            front.front >= known.front and front.roster >= known.roster and front.statement >= known.statement
        ):
            self.latest[replica] = front

    @property
    def is_enough(self) -> bool:
        return len(self.latest) >= self.parameters.quorum

    @property
    def front(self) -> int | None:
        """The (t+1)-th largest front of at least n-t answers: at least one honest replica is that far."""
        if not self.is_enough:
            return None
        ranked = sorted((answer.front for answer in self.latest.values()), reverse=True)
        return ranked[self.parameters.byzantine]

    @property
    def roster(self) -> int | None:
        """The highest roster number that n-t replicas report or exceed; None before so many have answered."""
        if not self.is_enough:
            return None
        ranked = sorted((answer.roster for answer in self.latest.values()), reverse=True)
        return ranked[self.parameters.quorum - 1]

    @property
    def statement(self) -> int:
        """The (t+1)-th largest number of an exclusion that n-t replicas report: at least one honest one holds it."""
        if not self.is_enough:
            return 0
        ranked = sorted((answer.statement for answer in self.latest.values()), reverse=True)
        return ranked[self.parameters.byzantine]

    @property
    def finished(self) -> bool:
        """Whether t+1 of at least n-t answers say that training is over: t liars can neither end nor prolong it."""
        said = sum(answer.finished for answer in self.latest.values())
        return self.is_enough and said > self.parameters.byzantine

    @property
    def patience(self) -> float:
        """Seconds: the (t+1)-th largest patience of n-t answers, within the limits of an honest replica's."""
        if not self.is_enough:
            return PATIENCE_AT_FIRST
        ranked = sorted((answer.patience for answer in self.latest.values()), reverse=True)
        seconds = ranked[self.parameters.byzantine] / 1000
        return min(PATIENCE_CEILING, max(PATIENCE_FLOOR, seconds))

    @property
    def shortest_patience(self) -> float:
        """Seconds within which every replica wants a sign of life; a liar can only make them more frequent."""
        answers = [answer.patience for answer in self.latest.values()]
        return max(PATIENCE_FLOOR, min(answers) / 1000) if answers else PATIENCE_FLOOR
