"""Whether a piece of evidence proves what it claims. Needs the deployment's public facts and the evidence, no more.

Pure, and the same answer everywhere. What takes the word of others, takes that of n-t replicas: with at most t liars,
n-2t of them are honest, and no honest party contradicts these. So nobody honest is ever convicted, not even by t
replicas and any number of clients that put their keys together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.errors import DealingError, InvalidEvidence, InvalidItem, UnjudgedEvidence
from asyncfl.evidence.kinds import (
    Answer,
    BadManifest,
    BadShare,
    Evidence,
    FalseProof,
    SignedGroup,
    TwoAttestations,
    TwoGroups,
    TwoModels,
    TwoSums,
    TwoUploads,
    TwoVerdicts,
    UnlawfulGroup,
    Verdict,
    WrongAttestation,
    WrongModel,
    WrongSum,
    accused,
)
from asyncfl.federation import Federation
from asyncfl.groups import check_assignment, check_members
from asyncfl.identity import verify as verify_signature
from asyncfl.messages import (
    Attest,
    Lock,
    LockContent,
    Locked,
    Manifest,
    ModelVote,
    ShareBad,
    ShareOk,
    ShareSum,
    Vote,
    share_ok_body,
    share_sum_body,
)
from asyncfl.rosters import Rosters


def find_culprit(federation: Federation, evidence: Evidence) -> bytes:
    """The public key of the party that the evidence is against. Raises `InvalidEvidence` if there is none such."""
    who = accused(evidence)
    if isinstance(who, int):
        if who >= federation.parameters.replicas:
            raise InvalidEvidence(f"there is no replica {who}")
        return federation.replica_keys[who]
    if not any(who in roster.position for roster in federation.rosters):
        # Anybody can make up a key, and let it contradict itself.
        raise UnjudgedEvidence(f"client {who.hex()[:12]} is in no roster that is held here")
    return who


def verify(federation: Federation, evidence: Evidence) -> None:
    """Raise `InvalidEvidence` unless the culprit's own signatures prove its fault; `UnjudgedEvidence` where that
    depends on a roster that `federation` lacks."""
    find_culprit(federation, evidence)
    _CHECKS[type(evidence)](federation, evidence)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise InvalidEvidence(otherwise)


def _require_signature(
    federation: Federation, replica: int, kind: str, body: bytes, signature: bytes
) -> None:
    known = replica < federation.parameters.replicas
    valid = known and verify_signature(
        federation.replica_keys[replica], kind, federation.digest, body, signature
    )
    _require(valid, f"replica {replica} did not sign this as {kind!r} in this deployment")


def _require_others(federation: Federation, replicas: Sequence[int], culprit: int) -> None:
    """That n-t distinct replicas, the culprit not among them, are said to agree."""
    quorum = federation.parameters.quorum
    _require(list(replicas) == sorted(set(replicas)), "those who agree are not distinct and in order")
    _require(culprit not in replicas, "the culprit is among those who agree")
    _require(
        len(replicas) >= quorum, f"{len(replicas)} replicas agree, {quorum} are needed to convict another"
    )


def _require_votes(
    federation: Federation, votes: Sequence[Vote], culprit: int, kind: str, body: bytes
) -> None:
    _require_others(federation, [vote.replica for vote in votes], culprit)
    for vote in votes:
        _require_signature(federation, vote.replica, kind, body, vote.signature)


# replicas


def _require_group(federation: Federation, replica: int, group: SignedGroup) -> None:
    kind = Lock.KIND if group.asks else Locked.KIND
    _require_signature(federation, replica, kind, group.content.digest(), group.signature)


def do_groups_conflict(one: LockContent, other: LockContent) -> bool:
    """Whether nobody may lock both: different groups that share their id or a member's (client, epoch)."""
    keys = {(member.client, member.epoch) for member in one.members}
    shared = one.id == other.id or any((m.client, m.epoch) in keys for m in other.members)
    return one != other and shared


def _two_groups(federation: Federation, evidence: TwoGroups) -> None:
    first, second = evidence.first, evidence.second
    _require(first.content.digest() < second.content.digest(), "the groups are the same, or not in order")
    _require(do_groups_conflict(first.content, second.content), "the groups share neither id nor member")
    _require_group(federation, evidence.replica, first)
    _require_group(federation, evidence.replica, second)


def is_lawful(federation: Federation, content: LockContent) -> bool:
    """Whether a group shows by its id and members alone no reason why it must not be opened."""
    try:
        check_members(content, federation.parameters)
    except InvalidItem:
        return False
    return len(content.members) >= federation.parameters.min_group


def _unlawful_group(federation: Federation, evidence: UnlawfulGroup) -> None:
    _require(not is_lawful(federation, evidence.group.content), "nothing is wrong with this group by itself")
    _require_group(federation, evidence.replica, evidence.group)


def _two_verdicts(federation: Federation, evidence: TwoVerdicts) -> None:
    first, second = evidence.first, evidence.second
    _require((first.client, first.epoch) == (second.client, second.epoch), "verdicts on two uploads")
    _require((first.manifest, first.good) < (second.manifest, second.good), "verdicts not in order")
    both_good = first.good and second.good and first.manifest != second.manifest
    _require(both_good or first.manifest == second.manifest, "the verdicts do not contradict each other")
    for verdict in (first, second):
        _require_verdict(federation, evidence.replica, verdict)


def _require_verdict(federation: Federation, replica: int, verdict: Verdict) -> None:
    kind = ShareOk.KIND if verdict.good else ShareBad.KIND
    body = share_ok_body(verdict.client, verdict.epoch, verdict.manifest)
    _require_signature(federation, replica, kind, body, verdict.signature)


def _require_answer(federation: Federation, group: bytes, answer: Answer) -> None:
    body = share_sum_body(group, answer.total)
    _require_signature(federation, answer.replica, ShareSum.KIND, body, answer.signature)


def _two_sums(federation: Federation, evidence: TwoSums) -> None:
    first, second = evidence.first, evidence.second
    _require(first.replica == second.replica, "two replicas' answers")
    _require(first.total < second.total, "the sums are the same, or not in order")
    _require_answer(federation, evidence.group, first)
    _require_answer(federation, evidence.group, second)


def _wrong_sum(federation: Federation, evidence: WrongSum) -> None:
    wrong, others = evidence.wrong, evidence.others
    replicas = [answer.replica for answer in others]
    _require_others(federation, replicas, wrong.replica)
    for answer in (wrong, *others):
        _require_answer(federation, evidence.group, answer)
    given = {answer.replica: answer.total for answer in (*others, wrong)}
    elements = masking.read_answers(given, federation)
    _require(set(replicas) <= set(elements), "an answer of those who agree is malformed")
    parameters = federation.parameters
    agreeing = masking.find_agreeing(elements, replicas[: parameters.threshold], parameters.modulus)
    _require(set(replicas) <= set(agreeing), "those who agree are not on one polynomial")
    _require(wrong.replica not in agreeing, "the answer is on the others' polynomial")


def _require_attestation(federation: Federation, replica: int, attest: Attest) -> None:
    _require_signature(federation, replica, Attest.KIND, attest.body(), attest.signature)


def _two_attestations(federation: Federation, evidence: TwoAttestations) -> None:
    first, second = evidence.first, evidence.second
    _require(first.id == second.id, "attestations of two groups")
    _require(first.item < second.item, "the items are the same, or not in order")
    _require_attestation(federation, evidence.replica, first)
    _require_attestation(federation, evidence.replica, second)


def _wrong_attestation(federation: Federation, evidence: WrongAttestation) -> None:
    _require(evidence.wrong.item != evidence.item, "the attestation is the others' own")
    _require_attestation(federation, evidence.replica, evidence.wrong)
    _require_votes(federation, evidence.votes, evidence.replica, Attest.KIND, evidence.body())


def _require_model(federation: Federation, replica: int, vote: ModelVote) -> None:
    _require_signature(federation, replica, ModelVote.KIND, vote.body(), vote.signature)


def _two_models(federation: Federation, evidence: TwoModels) -> None:
    first, second = evidence.first, evidence.second
    _require(first.version == second.version, "models of two versions")
    _require(first.body() < second.body(), "the models are the same, or not in order")
    _require_model(federation, evidence.replica, first)
    _require_model(federation, evidence.replica, second)


def _wrong_model(federation: Federation, evidence: WrongModel) -> None:
    wrong, right = evidence.wrong, evidence.certificate
    _require(wrong.version == right.version, "models of two versions")
    _require(wrong.body() != right.body(), "the model is the others' own")
    _require_model(federation, evidence.replica, wrong)
    _require_votes(federation, right.votes, evidence.replica, ModelVote.KIND, right.body())


# clients


def _require_signed(federation: Federation, manifest: Manifest) -> None:
    signed = verify_signature(
        manifest.core.client, Manifest.KIND, federation.digest, manifest.body(), manifest.signature
    )
    _require(signed, "the client did not sign this manifest in this deployment")


def _two_uploads(federation: Federation, evidence: TwoUploads) -> None:
    first, second = evidence.first, evidence.second
    same = (first.core.client, first.core.epoch) == (second.core.client, second.core.epoch)
    _require(same, "uploads of two clients or epochs")
    _require(first.digest() < second.digest(), "the uploads are the same, or not in order")
    _require_signed(federation, first)
    _require_signed(federation, second)


def _bad_manifest(federation: Federation, evidence: BadManifest) -> None:
    manifest, rosters = evidence.manifest, Rosters(federation)
    _require_signed(federation, manifest)
    try:
        masking.check_manifest(manifest, federation)
    except InvalidItem:
        return
    named = rosters.get(manifest.core.roster)
    if named is None or named.digest != manifest.core.roster_digest:
        raise UnjudgedEvidence(f"the upload names roster {manifest.core.roster}, which is not held here")
    try:
        check_assignment(manifest, federation, rosters, Assignment(federation))
    except InvalidItem:
        return
    raise InvalidEvidence("nothing is wrong with this manifest by itself")


def _require_manifest(federation: Federation, manifest: Manifest) -> None:
    _require_signed(federation, manifest)
    try:
        masking.check_manifest(manifest, federation)
    except InvalidItem as error:
        raise InvalidEvidence(str(error)) from None


def _false_proof(federation: Federation, evidence: FalseProof) -> None:
    _require_manifest(federation, evidence.manifest)
    try:
        masking.verify_check_blocks(evidence.manifest, evidence.checks, federation)
    except DealingError:
        return
    except InvalidItem as error:
        raise InvalidEvidence(str(error)) from None
    raise InvalidEvidence("the dealing proof holds")


def _bad_share(federation: Federation, evidence: BadShare) -> None:
    _require(evidence.replica < federation.parameters.replicas, "there is no such replica")
    _require_manifest(federation, evidence.manifest)
    try:
        masking.verify_share(evidence.manifest, evidence.replica, evidence.salted, federation)
    except DealingError:
        return
    except InvalidItem as error:
        raise InvalidEvidence(str(error)) from None
    raise InvalidEvidence("the share is as it should be")


_CHECKS: Final[dict[type[Any], Callable[[Federation, Any], None]]] = {
    TwoGroups: _two_groups,
    UnlawfulGroup: _unlawful_group,
    TwoVerdicts: _two_verdicts,
    TwoSums: _two_sums,
    WrongSum: _wrong_sum,
    TwoAttestations: _two_attestations,
    WrongAttestation: _wrong_attestation,
    TwoModels: _two_models,
    WrongModel: _wrong_model,
    TwoUploads: _two_uploads,
    BadManifest: _bad_manifest,
    FalseProof: _false_proof,
    BadShare: _bad_share,
}
