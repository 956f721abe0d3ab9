"""Uploads whose secrets are drawn from a seed, so that a simulated run is the same run every time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from nacl.bindings import crypto_box, crypto_box_seed_keypair

from asyncfl.adversary.dealing import Doubled, Tampered
from asyncfl.client.jobs import TrainAndProtect
from asyncfl.digest import digest
from asyncfl.effects import Job
from asyncfl.identity import exchange_key
from asyncfl.ring import SecretStream
from asyncfl.simulation.network import Node


@dataclass(frozen=True)
class Seeded:
    """Gives every training job secrets that depend on the seed, the client, its life and the epoch alone."""

    seed: int

    def __call__(self, node: Node, job: Job) -> Job:
        if isinstance(job, Tampered | Doubled):
            return replace(job, job=self._seeded(node, job.job))
        return self._seeded(node, job) if isinstance(job, TrainAndProtect) else job

    def _seeded(self, node: Node, job: TrainAndProtect) -> TrainAndProtect:
        # A client that crashed while it trained starts afresh, as it would with the system's randomness.
        facts = (self.seed, node.life, job.context.epoch)
        name = digest(
            "asyncfl/1/simulated-secrets", node.key, *(number.to_bytes(8, "little") for number in facts)
        )
        stream = SecretStream(name)
        return replace(job, stream=stream, seal_with=SeededSeal(stream))


@dataclass(frozen=True)
class SeededSeal:
    """`asyncfl.identity.seal` with an ephemeral key from `stream`: libsodium's crypto_box_seal, step by step."""

    stream: SecretStream

    def __call__(self, public: bytes, data: bytes) -> bytes:
        receiver = exchange_key(public)
        ephemeral, secret = crypto_box_seed_keypair(bytes(self.stream.take(32)))
        nonce = blake2b(ephemeral + receiver, digest_size=24).digest()
        return ephemeral + crypto_box(data, nonce, receiver, secret)
