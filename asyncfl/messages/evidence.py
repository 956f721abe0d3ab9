"""Who was proven to have lied, and the proof."""

from __future__ import annotations

from typing import Annotated, Final

from annotated_types import Len

from asyncfl.wire import Many, PublicKey, Wire

MAX_EVIDENCE_BYTES: Final = 1 << 18
"""Two manifests for sixteen replicas have 100 kB."""
CULPRITS_AT_ONCE: Final = 16
"""As many pieces of evidence are asked for, and given, at a time."""

Culprits = Annotated[Many[PublicKey], Len(1, 2048)]


class Convictions(Wire):
    """I hold evidence against these parties, by public key; ask me for what you lack."""

    culprits: Culprits


class EvidenceRequest(Wire):
    """Show me evidence against these."""

    culprits: Annotated[Many[PublicKey], Len(1, CULPRITS_AT_ONCE)]


class Exhibit(Wire):
    """One piece of evidence, encoded (`asyncfl.evidence`). Believed once it has been verified, whoever shows it."""

    evidence: Annotated[bytes, Len(1, MAX_EVIDENCE_BYTES)]
