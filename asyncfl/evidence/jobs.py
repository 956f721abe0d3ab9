"""Work on evidence that takes milliseconds, run off the event loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from asyncfl import masking
from asyncfl.effects import Blobs
from asyncfl.errors import InvalidEvidence, UnjudgedEvidence
from asyncfl.evidence.kinds import Answer, Evidence, WrongSum
from asyncfl.evidence.verify import verify
from asyncfl.federation import Federation


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a piece of evidence. `objection`: why it proves nothing; None where it holds."""

    objection: str | None
    judged: bool = True
    """False where it depends on a roster that is not held here."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Verify a piece of evidence."""

    evidence: Evidence
    federation: Federation

    def run(self, blobs: Blobs) -> Judgement:
        try:
            verify(self.federation, self.evidence)
        except UnjudgedEvidence as error:
            return Judgement(str(error), judged=False)
        except InvalidEvidence as error:
            return Judgement(str(error))
        return Judgement(None)


@dataclass(frozen=True, slots=True)
class CompareSums:
    """Find the share sums of one group that n-t others belie."""

    group: bytes
    answers: Mapping[int, Answer]
    distrusted: Collection[int]
    federation: Federation

    def run(self, blobs: Blobs) -> list[WrongSum]:
        totals = {j: answer.total for j, answer in self.answers.items()}
        agreeing, wrong = masking.find_wrong(totals, self.federation, distrusted=self.distrusted)
        others = tuple(self.answers[j] for j in agreeing)
        return [WrongSum(group=self.group, wrong=self.answers[j], others=others) for j in wrong]
