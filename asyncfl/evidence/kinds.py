"""What a piece of evidence is: one frozen type for each way in which a signer's own signatures convict it.

All are statements that an honest party never makes, whatever it was told and however often it crashed: what they
contradict is on its disk before it signs (docs/decisions/0021-what-is-evidence.md says why for each). Where two
statements contradict each other, the smaller encoding comes first, and votes ascend: one lie has one encoding.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, cast

from annotated_types import Len

from asyncfl.digest import digest
from asyncfl.errors import MalformedMessage
from asyncfl.messages import (
    MAX_EVIDENCE_BYTES,
    Attest,
    Certificate,
    Coefficients,
    LockContent,
    Manifest,
    ModelVote,
    Votes,
    attest_body,
)
from asyncfl.wire import Digest, Epoch, Many, PublicKey, ReplicaIndex, Signature, Wire, pack, unpack


class SignedGroup(Wire):
    """A group under a replica's LOCK (`asks`) or LOCKED signature."""

    content: LockContent
    asks: bool
    signature: Signature


class Verdict(Wire):
    """SHARE_OK (`good`) or SHARE_BAD."""

    client: PublicKey
    epoch: Epoch
    manifest: Digest
    good: bool
    signature: Signature


class Answer(Wire):
    """A replica's signed sum of shares of a group that the context names."""

    replica: ReplicaIndex
    total: Coefficients
    signature: Signature


class TwoGroups(Wire):
    """A replica asked for, or signed, locks on two groups that share their id or a (client, epoch)."""

    NAME: ClassVar = "two-groups"

    replica: ReplicaIndex
    first: SignedGroup
    second: SignedGroup


class UnlawfulGroup(Wire):
    """A replica asked for, or signed, a lock on a group that shows by itself that it may not be opened."""

    NAME: ClassVar = "unlawful-group"

    replica: ReplicaIndex
    group: SignedGroup


class TwoVerdicts(Wire):
    """A replica vouched for two uploads of one (client, epoch), or called one share both good and bad."""

    NAME: ClassVar = "two-verdicts"

    replica: ReplicaIndex
    first: Verdict
    second: Verdict


class TwoSums(Wire):
    """A replica gave two sums of its shares of one group."""

    NAME: ClassVar = "two-sums"

    group: Digest
    first: Answer
    second: Answer


class WrongSum(Wire):
    """A replica's sum of shares is off the polynomial on which those of n-t others lie."""

    NAME: ClassVar = "wrong-sum"

    group: Digest
    wrong: Answer
    others: Annotated[Many[Answer], Len(1, 16)]


class TwoAttestations(Wire):
    """A replica attested two sums of one group."""

    NAME: ClassVar = "two-attestations"

    replica: ReplicaIndex
    first: Attest
    second: Attest


class WrongAttestation(Wire):
    """A replica attested another sum of a group than n-t others."""

    NAME: ClassVar = "wrong-attestation"

    replica: ReplicaIndex
    wrong: Attest
    item: Digest
    votes: Votes
    """The others', on `item`."""

    def body(self) -> bytes:
        """What the others signed."""
        return attest_body(self.wrong.id, self.item)


class TwoModels(Wire):
    """A replica signed two models of one version."""

    NAME: ClassVar = "two-models"

    replica: ReplicaIndex
    first: ModelVote
    second: ModelVote


class WrongModel(Wire):
    """A replica signed another model of a version than n-t others."""

    NAME: ClassVar = "wrong-model"

    replica: ReplicaIndex
    wrong: ModelVote
    certificate: Certificate


class TwoUploads(Wire):
    """A client signed two uploads of one epoch."""

    NAME: ClassVar = "two-uploads"

    first: Manifest
    second: Manifest


class BadManifest(Wire):
    """A client signed a manifest that does not fit the deployment, or claims a cell that is not its own."""

    NAME: ClassVar = "bad-manifest"

    manifest: Manifest


class FalseProof(Wire):
    """A client signed a dealing proof that its own check blocks belie."""

    NAME: ClassVar = "false-proof"

    manifest: Manifest
    checks: Annotated[bytes, Len(1, 1 << 16)]
    """The packed check blocks, whose digest is in the manifest."""


class BadShare(Wire):
    """A client committed to a share, for one replica, that does not lie on its published polynomials."""

    NAME: ClassVar = "bad-share"

    manifest: Manifest
    replica: ReplicaIndex
    salted: Annotated[bytes, Len(0, 8192)]
    """Salt and packed share, as that replica found them in its box: they open the commitment."""


AgainstReplica = (
    TwoGroups | UnlawfulGroup | TwoVerdicts | TwoSums | WrongSum | TwoAttestations | WrongAttestation | TwoModels
    | WrongModel
)  # fmt: skip
AgainstClient = TwoUploads | BadManifest | FalseProof | BadShare
Evidence = AgainstReplica | AgainstClient

EVIDENCE_TYPES: Final[tuple[type[Wire], ...]] = (
    TwoGroups, UnlawfulGroup, TwoVerdicts, TwoSums, WrongSum, TwoAttestations, WrongAttestation, TwoModels,
    WrongModel, TwoUploads, BadManifest, FalseProof, BadShare,
)  # fmt: skip
"""A type's place is its tag: new ones come at the end."""
_TAGS: Final = {kind: tag for tag, kind in enumerate(EVIDENCE_TYPES)}


def encode_evidence(evidence: Evidence) -> bytes:
    """As it is kept and shown: msgpack of [type tag, fields]."""
    return pack((_TAGS[type(evidence)], evidence.to_fields()))


def decode_evidence(data: bytes) -> Evidence:
    """Raises `MalformedMessage` for anything but the one encoding of a piece of evidence."""
    value: Any = unpack(data, limit=MAX_EVIDENCE_BYTES)
    if not isinstance(value, tuple) or len(value) != 2 or type(value[0]) is not int:
        raise MalformedMessage("evidence is an array of a type tag and fields")
    tag, fields = value
    if not 0 <= tag < len(EVIDENCE_TYPES):
        raise MalformedMessage(f"unknown kind of evidence {tag}")
    evidence = cast(Evidence, EVIDENCE_TYPES[tag].from_fields(fields))
    if encode_evidence(evidence) != data:
        raise MalformedMessage(f"{type(evidence).__name__}: not in canonical encoding")
    return evidence


def evidence_digest(encoded: bytes) -> bytes:
    """Names a piece of evidence: 32 bytes over its encoding."""
    return digest("asyncfl/1/evidence", encoded)


def accused(evidence: Evidence) -> int | bytes:
    """Against whom it is: a replica's index, or a client's key."""
    match evidence:
        case TwoUploads(first=manifest) | BadManifest(manifest=manifest):
            return manifest.core.client
        case FalseProof(manifest=manifest) | BadShare(manifest=manifest):
            return manifest.core.client
        case TwoSums(first=answer) | WrongSum(wrong=answer):
            return answer.replica
        case _:
            return evidence.replica
