"""What several simulated replicas compute from the same bytes is computed once.

Nothing is taken for granted that a replica would find out for itself: a result is found again by all that it was
computed from, byte for byte, and each replica still reads its own copies. One `Shared` belongs to one run, so that a
run never sees what another code (a deliberate defect) has computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from asyncfl import masking
from asyncfl.effects import Job
from asyncfl.errors import InvalidItem
from asyncfl.federation import Federation
from asyncfl.messages import Manifest
from asyncfl.replica.jobs import OpenGroup, VerifyUpload


class Shared:
    """`asyncfl.masking` for all replicas of one run (`asyncfl.replica.jobs.Masking`)."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[Manifest, bytes], InvalidItem | None] = {}
        self._secrets: dict[object, bytes] = {}
        self._sums: dict[tuple[tuple[bytes, ...], bytes], Tensor] = {}

    def prepare(self, job: Job) -> Job:
        """The same job, with shared results."""
        return replace(job, masking=self) if isinstance(job, VerifyUpload | OpenGroup) else job

    def verify_public(self, manifest: Manifest, payload: bytes, federation: Federation) -> None:
        key = (manifest, payload)
        if key not in self._verdicts:
            try:
                masking.verify_public(manifest, payload, federation)
            except InvalidItem as error:
                self._verdicts[key] = error
            else:
                self._verdicts[key] = None
        verdict = self._verdicts[key]
        if verdict is not None:
            raise verdict.with_traceback(None)

    def find_secret(
        self,
        payloads: Iterable[Callable[[], bytes]],
        answers: Mapping[int, bytes],
        federation: Federation,
        *,
        distrusted: Collection[int] = (),
    ) -> bytes:
        data = tuple(load() for load in payloads)
        key = (data, tuple(sorted(answers.items())), tuple(sorted(distrusted)))
        if key not in self._secrets:
            self._secrets[key] = masking.find_secret(
                [partial(bytes, y) for y in data], answers, federation, distrusted=distrusted
            )
        return self._secrets[key]

    def open_sum(self, payloads: Iterable[bytes], secret: bytes, federation: Federation) -> Tensor:
        data = tuple(payloads)
        key = (data, secret)
        if key not in self._sums:
            self._sums[key] = masking.open_sum(data, secret, federation)
        return self._sums[key]
