"""What masking costs: an upload by stage, opening, and the same number of bytes of bare ChaCha20.

All figures are medians within one run, and the stream cipher is measured between the uploads, so that ratios
hold on a machine whose speed drifts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import torch

from asyncfl import masking
from asyncfl.digest import keystream
from asyncfl.federation import Federation
from asyncfl.identity import Identity
from asyncfl.parameters import Parameters
from asyncfl.ring import public_polynomials, transform
from asyncfl.schedule import Schedule

_STREAM_PIECE: Final = 1 << 18
"""The cipher is measured in pieces that stay in the cache: its best case."""
_PRIVATE_NOISE: Final = 1.0
"""Noise multiplier of the runs with differential privacy."""
_CLIENTS: Final = 16
_MEMBERS: Final = 4


def bench_protect(dim: int, repeat: int, threads: int) -> dict[str, Any]:
    """Medians in milliseconds of protecting and opening `dim` coordinates, with `threads` torch threads.

    Keys: `protect_ms` and `protect_dp_ms` by stage, `open_ms` (a group of 4), `verify_ms` (all that a replica
    checks of one upload), `ntt_ms` (a forward transform of all coefficients), `chacha20_ms` (expanding 4*dim
    bytes), `upload_bytes`, `float32_bytes`, and `ratios`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measure(dim, repeat, threads)
    finally:
        torch.set_num_threads(before)


def _measure(dim: int, repeat: int, threads: int) -> dict[str, Any]:
    plain, private = _federation(dim, 0.0), _federation(dim, _PRIVATE_NOISE)
    client, replica = Identity.generate(), _replicas()[0]
    update = torch.randn(dim, generator=torch.Generator().manual_seed(0)) / max(dim, 1) ** 0.5
    context = masking.UploadContext(
        epoch=1, cell=0, coordinator=0, roster=0, roster_digest=bytes(32), base_version=bytes(32)
    )

    def protect(federation: Federation) -> masking.Protected:
        return masking.protect(update, context, client, federation, clock=time.perf_counter)

    uploads = [protect(plain) for _ in range(_MEMBERS)]
    protect(private)
    secret = _secret(uploads, plain)
    runs: dict[str, list[Any]] = {
        name: [] for name in ("plain", "private", "open", "verify", "ntt", "cipher")
    }
    for _ in range(repeat):
        runs["cipher"].append(_timed(lambda: _expand(4 * dim)))
        runs["plain"].append(protect(plain).timings)
        runs["cipher"].append(_timed(lambda: _expand(4 * dim)))
        runs["private"].append(protect(private).timings)
        runs["open"].append(_timed(lambda: masking.open_sum((one.payload for one in uploads), secret, plain)))
        runs["verify"].append(_timed(lambda: _verify(uploads[0], replica, plain)))
        runs["ntt"].append(_timed(lambda: _transform_all(plain)))
    cipher = median(runs["cipher"])
    protect_ms, protect_dp_ms = _by_stage(runs["plain"]), _by_stage(runs["private"])
    upload_bytes, float32_bytes = len(uploads[0].payload), 4 * dim
    return {
        "dim": dim,
        "threads": threads,
        "protect_ms": protect_ms,
        "protect_dp_ms": protect_dp_ms,
        "open_ms": round(median(runs["open"]), 3),
        "open_members": _MEMBERS,
        "verify_ms": round(median(runs["verify"]), 3),
        "ntt_ms": round(median(runs["ntt"]), 3),
        "chacha20_ms": round(cipher, 3),
        "upload_bytes": upload_bytes,
        "float32_bytes": float32_bytes,
        "ratios": {
            "mask_to_chacha20": round(protect_ms["mask"] / cipher, 2),
            "protect_to_chacha20": round(protect_ms["total"] / cipher, 2),
            "protect_dp_to_chacha20": round(protect_dp_ms["total"] / cipher, 2),
            "upload_to_float32": round(upload_bytes / float32_bytes, 4),
        },
    }


def _replicas() -> list[Identity]:
    return [Identity(bytes([number]) * 32) for number in range(4)]


def _federation(dim: int, noise: float) -> Federation:
    parameters = Parameters.for_clients(
        _CLIENTS, noise_multiplier=noise, allow_small_private_groups=noise > 0
    )
    return Federation(
        digest=bytes([7]) * 32,
        parameters=parameters,
        operator=bytes(32),
        replica_keys=tuple(replica.public for replica in _replicas()),
        rosters=(),
        weights=dim,
        buffers=0,
        initial_model=bytes(32),
        schedule=Schedule(learning_rate=0.1, local_steps=1, batch_size=1),
    )


def _secret(uploads: list[masking.Protected], federation: Federation) -> bytes:
    answers = {
        index: masking.sum_packed(
            [masking.open_share(upload.manifest, index, identity, federation) for upload in uploads],
            federation,
        )
        for index, identity in enumerate(_replicas())
    }
    loads = [lambda upload=upload: upload.payload for upload in uploads]
    return masking.find_secret(loads, answers, federation)


def _verify(upload: masking.Protected, replica: Identity, federation: Federation) -> None:
    masking.check_manifest(upload.manifest, federation)
    masking.verify_public(upload.manifest, upload.payload, federation)
    masking.open_share(upload.manifest, 0, replica, federation)


def _expand(size: int) -> None:
    for start in range(0, size, _STREAM_PIECE):
        keystream(bytes(32), min(_STREAM_PIECE, size - start))


def _transform_all(federation: Federation) -> None:
    ring, device = federation.parameters.ring, torch.device("cpu")
    engine = transform(ring.degree, ring.modulus, device)
    blocks = federation.parameters.blocks(federation.dimension)
    for batch in public_polynomials(federation.digest, "payload", blocks, ring, device):
        engine.forward(batch.to(torch.float64))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def _by_stage(timings: list[dict[str, float]]) -> dict[str, float]:
    return {stage: round(median(timing[stage] for timing in timings), 3) for stage in timings[0]}
