"""What a piece of evidence says, for people."""

from __future__ import annotations

from asyncfl.evidence.kinds import (
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
    WrongAttestation,
    WrongModel,
    WrongSum,
)
from asyncfl.messages import GroupId, Manifest


def describe(evidence: Evidence) -> str:
    """One sentence without subject: what the culprit did."""
    match evidence:
        case TwoGroups(first=first, second=second):
            one, other = (f"{_did(group)} {_place(group.content.id)}" for group in (first, second))
            return f"{one} and {other}, which contradict each other"
        case UnlawfulGroup(group=group):
            members = len(group.content.members)
            return f"{_did(group)} {_place(group.content.id)}, of {members} members, which may not be opened"
        case TwoVerdicts(first=first, second=second):
            what = "two uploads" if first.good and second.good else "a share both good and bad"
            return f"vouched for {what} of client {first.client.hex()[:12]}, epoch {first.epoch}"
        case TwoSums(group=group):
            return f"gave two sums of its shares of group {group.hex()[:12]}"
        case WrongSum(group=group, others=others):
            return f"gave a sum of its shares of group {group.hex()[:12]} that {len(others)} others belie"
        case TwoAttestations(first=attest):
            return f"attested two sums of {_place(attest.id)}"
        case WrongAttestation(wrong=attest, votes=votes):
            return f"attested another sum of {_place(attest.id)} than {len(votes)} others"
        case TwoModels(first=vote):
            return f"signed two models of version {vote.version.hex()[:12]}"
        case WrongModel(wrong=vote, certificate=right):
            return f"signed another model of version {vote.version.hex()[:12]} than {len(right.votes)} others"
        case TwoUploads(first=manifest):
            return f"signed two uploads of epoch {manifest.core.epoch}"
        case BadManifest(manifest=manifest):
            return f"signed {_upload(manifest)} whose manifest breaks the rules by itself (fields, or cell)"
        case FalseProof(manifest=manifest):
            return f"signed {_upload(manifest)} with a dealing proof that its check blocks belie"
        case BadShare(manifest=manifest, replica=replica):
            return f"dealt replica {replica} a share, in {_upload(manifest)}, that is on no polynomial of its"


def _did(group: SignedGroup) -> str:
    return "asked to lock" if group.asks else "locked"


def _place(group: GroupId) -> str:
    return f"group {group.epoch}/{group.cell}/{group.coordinator}/{group.part}"


def _upload(manifest: Manifest) -> str:
    return f"an upload of epoch {manifest.core.epoch}"
