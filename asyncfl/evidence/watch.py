"""Signed statements that one party has heard, kept for a while to find those that contradict each other.

What is forgotten here can no longer convict anybody; nothing else depends on it. So all tables are small, and who
says much drives out what it said itself, and nothing of others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from asyncfl.evidence.kinds import (
    Answer,
    Evidence,
    SignedGroup,
    TwoAttestations,
    TwoGroups,
    TwoModels,
    TwoSums,
    TwoVerdicts,
    UnlawfulGroup,
    Verdict,
    WrongAttestation,
    WrongModel,
)
from asyncfl.evidence.verify import do_groups_conflict, is_lawful
from asyncfl.federation import Federation
from asyncfl.messages import Attest, Certificate, LockContent, ModelVote, ShareBad, ShareOk, Vote

KEEP_EPOCHS: Final = 16
"""A signer's statements are remembered for about so many epochs of all clients, as uploads are."""
FEWEST_STATEMENTS: Final = 512
MOST_STATEMENTS: Final = 4096
"""Of one signer, however many clients there are: about 4 MB."""
KEEP_RESULTS: Final = 128
"""Sums, attestations and models of one replica that are remembered, to be compared with those of others."""

S = TypeVar("S")


class Heard(Generic[S]):
    """The first statement of each signer on each subject; of more than `limit`, a signer's oldest go."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_signer: dict[int, OrderedDict[Hashable, S]] = {}

    def first(self, signer: int, subject: Hashable, statement: S) -> S:
        """What this signer said first on the subject: `statement` itself if nothing is remembered."""
        known = self._by_signer.setdefault(signer, OrderedDict())
        if subject not in known and len(known) >= self.limit:
            known.popitem(last=False)
        return known.setdefault(subject, statement)

    def about(self, subject: Hashable) -> dict[int, S]:
        """What each signer said first on the subject, by ascending signer."""
        signers = sorted(self._by_signer)
        return {j: self._by_signer[j][subject] for j in signers if subject in self._by_signer[j]}


@dataclass(frozen=True, slots=True)
class Majority(Generic[S]):
    """n-t or more replicas that said the same, and those that said something else."""

    right: Mapping[int, S]
    wrong: Mapping[int, S]


def find_majority(said: Mapping[int, S], claims: Mapping[int, Hashable], quorum: int) -> Majority[S] | None:
    """The claim of at least `quorum`, if there is one and somebody contradicts it."""
    for claim in set(claims.values()):
        right = {j: said[j] for j in sorted(said) if claims[j] == claim}
        if quorum <= len(right) < len(said):
            return Majority(right, {j: said[j] for j in sorted(said) if j not in right})
    return None


def keep_statements(clients: int) -> int:
    """Statements of one signer that are remembered, by what they are about: an upload is in two of a kind."""
    return min(MOST_STATEMENTS, max(FEWEST_STATEMENTS, 2 * KEEP_EPOCHS * clients))


class Watch:
    """Give it statements whose signatures hold; it gives back the evidence that they make together."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        kept = keep_statements(len(federation.rosters[0].members))
        self._groups: Heard[SignedGroup] = Heard(kept)
        self._verdicts: Heard[Verdict] = Heard(kept)
        self._attestations: Heard[Attest] = Heard(KEEP_RESULTS)
        self._models: Heard[ModelVote] = Heard(KEEP_RESULTS)
        self._answers: Heard[Answer] = Heard(KEEP_RESULTS)

    def group(
        self, replica: int, content: LockContent, signature: bytes, *, asks: bool
    ) -> Iterator[Evidence]:
        """LOCK (`asks`) or LOCKED."""
        said = SignedGroup(content=content, asks=asks, signature=signature)
        if not is_lawful(self.federation, content):
            yield UnlawfulGroup(replica=replica, group=said)
        subjects: list[Hashable] = [content.id, *((m.client, m.epoch) for m in content.members)]
        for subject in subjects:
            known = self._groups.first(replica, subject, said)
            if known is not said and do_groups_conflict(known.content, content):
                first, second = sorted((known, said), key=lambda group: group.content.digest())
                yield TwoGroups(replica=replica, first=first, second=second)
                return

    def verdict(self, replica: int, message: ShareOk | ShareBad) -> Iterator[Evidence]:
        """SHARE_OK or SHARE_BAD."""
        said = Verdict(
            client=message.client, epoch=message.epoch, manifest=message.manifest,
            good=isinstance(message, ShareOk), signature=message.signature,
        )  # fmt: skip
        subjects: list[Hashable] = [(said.client, said.epoch, said.manifest)]
        if said.good:
            subjects.append((said.client, said.epoch))
        for subject in subjects:
            known = self._verdicts.first(replica, subject, said)
            if (known.manifest, known.good) != (said.manifest, said.good):
                first, second = sorted((known, said), key=lambda verdict: (verdict.manifest, verdict.good))
                yield TwoVerdicts(replica=replica, first=first, second=second)
                return

    def attestation(self, replica: int, message: Attest) -> Iterator[Evidence]:
        """ATTEST."""
        known = self._attestations.first(replica, message.id, message)
        if known.item != message.item:
            first, second = sorted((known, message), key=lambda attest: attest.item)
            yield TwoAttestations(replica=replica, first=first, second=second)
        said = self._attestations.about(message.id)
        claims = {j: attest.item for j, attest in said.items()}
        majority = find_majority(said, claims, self.federation.parameters.quorum)
        if majority is not None:
            votes = _votes(majority.right)
            item = next(iter(majority.right.values())).item
            for j, wrong in majority.wrong.items():
                yield WrongAttestation(replica=j, wrong=wrong, item=item, votes=votes)

    def model(self, replica: int, message: ModelVote) -> Iterator[Evidence]:
        """MODEL_VOTE, or a vote in the certificate of a TASK."""
        known = self._models.first(replica, message.version, message)
        if known.body() != message.body():
            first, second = sorted((known, message), key=ModelVote.body)
            yield TwoModels(replica=replica, first=first, second=second)
        said = self._models.about(message.version)
        claims = {j: vote.body() for j, vote in said.items()}
        majority = find_majority(said, claims, self.federation.parameters.quorum)
        if majority is not None:
            right = next(iter(majority.right.values()))
            certificate = Certificate(
                version=right.version, entries=right.entries, model=right.model,
                votes=_votes(majority.right), statement=right.statement,
            )  # fmt: skip
            for j, wrong in majority.wrong.items():
                yield WrongModel(replica=j, wrong=wrong, certificate=certificate)

    def answer(self, replica: int, group: bytes, total: bytes, signature: bytes) -> Iterator[Evidence]:
        """SHARE_SUM. Whether the answers to a group lie on one polynomial is for `CompareSums` to find out."""
        said = Answer(replica=replica, total=total, signature=signature)
        known = self._answers.first(replica, group, said)
        if known.total != total:
            first, second = sorted((known, said), key=lambda answer: answer.total)
            yield TwoSums(group=group, first=first, second=second)

    def answers(self, group: bytes) -> Mapping[int, Answer]:
        """The answers to a group that are remembered, by replica."""
        return self._answers.about(group)


def _votes(said: Mapping[int, Any]) -> tuple[Vote, ...]:
    return tuple(Vote(replica=j, signature=said[j].signature) for j in sorted(said))
