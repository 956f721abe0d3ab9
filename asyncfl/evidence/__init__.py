"""Evidence: what a party's own signatures prove against it, verified by anybody, offline, from the deployment file.

`verify(federation, evidence)` is all that an outsider needs. `Docket` is how replicas and clients find, keep and
exchange it; `docs/protocol.md`, section on evidence.
"""

from asyncfl.evidence.describe import describe
from asyncfl.evidence.docket import COMPARE, JUDGE, Docket
from asyncfl.evidence.kinds import (
    EVIDENCE_TYPES,
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
    decode_evidence,
    encode_evidence,
    evidence_digest,
)
from asyncfl.evidence.verify import find_culprit, verify

__all__ = [
    "COMPARE",
    "EVIDENCE_TYPES",
    "JUDGE",
    "Answer",
    "BadManifest",
    "BadShare",
    "Docket",
    "Evidence",
    "FalseProof",
    "SignedGroup",
    "TwoAttestations",
    "TwoGroups",
    "TwoModels",
    "TwoSums",
    "TwoUploads",
    "TwoVerdicts",
    "UnlawfulGroup",
    "Verdict",
    "WrongAttestation",
    "WrongModel",
    "WrongSum",
    "accused",
    "decode_evidence",
    "describe",
    "encode_evidence",
    "evidence_digest",
    "find_culprit",
    "verify",
]
