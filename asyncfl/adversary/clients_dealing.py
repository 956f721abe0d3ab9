"""Malicious clients: shares, proofs and payloads that are not what they should be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch

from asyncfl.adversary.behaviour import Behaviour, Insider, Role, attacker
from asyncfl.adversary.dealing import Dealing, Tampered, kernel_vector
from asyncfl.client.jobs import TrainAndProtect
from asyncfl.digest import digest
from asyncfl.effects import Compute, Effect
from asyncfl.masking.proof import check_products, project, projection_matrix
from asyncfl.masking.protect import SALT_BYTES
from asyncfl.messages import Manifest, ManifestCore, Message, Upload
from asyncfl.ring.packing import packed_bytes

CLIENT: Role = "client"
SHARES = "a replica whose share fails says SHARE_BAD; n-t SHARE_OKs are needed (section 3)"
PROOF = "the public part of the dealing proof is checked before anything is stored (section 3)"


class Dealer(Behaviour, ABC):
    """Changes its uploads. Override `tamper`."""

    @abstractmethod
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        """The upload that is sent in place of the honest one, and its payload."""

    def does(self, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Compute) and isinstance(effect.job, TrainAndProtect):
            return (Compute(effect.key, Tampered(effect.job, self.tamper)),)
        return (effect,)


@attacker(
    "misdeals-one", CLIENT,
    tries="seals another share for one replica than it committed to",
    rule=SHARES,
    without=("all-must-answer",),
)  # fmt: skip
class MisdealsOne(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        return dealing.rebuild(boxes=self.boxes(dealing, 1))

    def boxes(self, dealing: Dealing, count: int) -> tuple[bytes, ...]:
        """Boxes with zeros inside for the last `count` replicas."""
        boxes = list(dealing.manifest.core.boxes)
        for index in range(len(boxes) - count, len(boxes)):
            key = dealing.job.federation.replica_keys[index]
            boxes[index] = dealing.job.seal_with(key, bytes(len(dealing.salted[index])))
        return tuple(boxes)


@attacker(
    "misdeals-many", CLIENT,
    tries="seals other shares than it committed to for all replicas but one",
    rule=SHARES,
    without=("bad-shares-vouched",),
)  # fmt: skip
class MisdealsMany(MisdealsOne):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        return dealing.rebuild(boxes=self.boxes(dealing, len(dealing.salted) - 1))


@attacker(
    "hoard-of-uploads", CLIENT,
    tries="sends thirty uploads of every epoch, of which none can be vouched for, to fill the replicas' disks",
    rule="at most 24 unopened uploads of one client (section 4, step 3)",
    without=("uploads-without-limit",),
)  # fmt: skip
class HoardOfUploads(MisdealsOne):
    COUNT = 30

    def __init__(self, me: Insider) -> None:
        super().__init__(me)
        self._hoard: list[Manifest] = []

    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        boxes = self.boxes(dealing, len(dealing.salted))
        versions = (digest("hoard", bytes([k])) for k in range(self.COUNT))
        self._hoard = [dealing.rebuild(boxes=boxes, base_version=version)[0] for version in versions]
        return dealing.rebuild(boxes=boxes)

    def says(self, peer: bytes, message: Message) -> Iterable[Message]:
        if isinstance(message, Upload):
            for replica in self.me.federation.replica_keys:
                for manifest in self._hoard:
                    self.send(replica, Upload(manifest=manifest))
        return (message,)


@attacker(
    "off-the-polynomial", CLIENT,
    tries="commits to shares that lie on no polynomial, for all replicas but one",
    rule="every replica checks that its share lies on the published projections (section 3)",
    without=("polynomial-unchecked",),
)  # fmt: skip
class OffThePolynomial(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        salted = list(dealing.salted)
        for index in range(1, len(salted)):
            share = dealing.share(index)
            share[0] += 12345 + index
            salted[index] = dealing.with_share(index, share)[index]
        return dealing.rebuild(salted=salted)


@attacker(
    "copied-shares", CLIENT,
    tries="puts the boxes and commitments of an honest upload that a colluding replica has seen into its own, so that "
    "replicas show the shares in them as evidence against it",
    rule="a commitment names its dealer, and a share that opens none is shown to nobody (section 3)",
    without=("commitments-of-nobody",),
    beside="front-behind",
)  # fmt: skip
class CopiedShares(Dealer):
    @property
    def seen(self) -> list[ManifestCore]:
        """Of honest clients."""
        coven = self.me.coven
        cores = (manifest.core for manifest in coven.manifests.values())
        return [core for core in cores if core.client not in coven.identities]

    def does(self, effect: Effect) -> Iterable[Effect]:
        return super().does(effect) if self.seen else (effect,)

    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        last = self.seen[-1]
        return dealing.rebuild(boxes=last.boxes, share_digests=last.share_digests)


@attacker(
    "false-proof", CLIENT,
    tries="publishes random projections",
    rule=PROOF,
    without=("false-proofs-vouched",),
)  # fmt: skip
class FalseProof(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        size = len(dealing.manifest.projections) // 4
        values = torch.arange(size, dtype=torch.int64) * 7919 % dealing.modulus
        return dealing.rebuild(projections=values.numpy().astype("<u4").tobytes())


@attacker(
    "spiked-check-block", CLIENT,
    tries="hides one huge error in a check block, so that its group never opens",
    rule=PROOF,
    without=("proof-unchecked",),
)  # fmt: skip
class SpikedCheckBlock(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        blocks = dealing.blocks()
        blocks[-1, 0] += dealing.modulus // 2
        return dealing.rebuild(payload=dealing.pack(blocks))


@attacker(
    "junk-check-blocks", CLIENT,
    tries="fills all check blocks with junk",
    rule=PROOF,
    without=("proof-unchecked",),
)  # fmt: skip
class JunkCheckBlocks(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        blocks = dealing.blocks()
        where = dealing.check_blocks()
        junk = torch.arange(blocks[where].numel(), dtype=torch.int64) * 104729
        blocks[where] = junk.view_as(blocks[where])
        return dealing.rebuild(payload=dealing.pack(blocks))


class ProofShopping(Dealer, ABC):
    """Looks for errors in the kernel of the projections; what these are drawn from has changed by then."""

    @abstractmethod
    def choose(self, dealing: Dealing, payload: bytes, salted: list[bytes]) -> tuple[Manifest, bytes]:
        """The upload with the payload, or the shares, that this proof would not notice."""

    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        rho = projection_matrix(dealing.manifest.core)
        blocks, where = dealing.blocks(), dealing.check_blocks()
        blocks[where] += kernel_vector(rho.to(torch.int64), dealing.modulus).view_as(blocks[where])
        units = torch.eye(dealing.degree, dtype=torch.float64)
        seen = project(rho, check_products(units, dealing.job.federation), dealing.modulus)
        shift = kernel_vector(seen.to(torch.int64), dealing.modulus)
        salted = list(dealing.salted)
        for index in range(1, len(salted)):
            salted[index] = dealing.with_share(index, dealing.share(index) + shift)[index]
        return self.choose(dealing, dealing.pack(blocks), salted)


@attacker(
    "errors-after-the-proof", CLIENT,
    tries="chooses its check-block errors after it has seen which combinations of them the proof shows",
    rule="the projections are drawn from a digest of all of y (section 3)",
    without=("payload-not-in-core",),
)  # fmt: skip
class ErrorsAfterTheProof(ProofShopping):
    def choose(self, dealing: Dealing, payload: bytes, salted: list[bytes]) -> tuple[Manifest, bytes]:
        return dealing.rebuild(payload=payload)


@attacker(
    "shares-after-the-proof", CLIENT,
    tries="chooses wrong shares after it has seen which combinations of them are checked",
    rule="the projections are drawn from all commitments h_j and boxes (section 3)",
    without=("shares-not-in-core",),
)  # fmt: skip
class SharesAfterTheProof(ProofShopping):
    def choose(self, dealing: Dealing, payload: bytes, salted: list[bytes]) -> tuple[Manifest, bytes]:
        return dealing.rebuild(salted=salted)


@attacker(
    "far-beyond-the-clip", CLIENT,
    tries="adds a quarter of the modulus to coordinates of its payload",
    rule="every opened mean is clipped to what honest members could reach (section 6)",
    without=("sums-unclipped",),
)  # fmt: skip
class FarBeyondTheClip(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        blocks = dealing.blocks()
        blocks[0] += dealing.modulus // 4
        return dealing.rebuild(payload=dealing.pack(blocks))


@attacker(
    "coefficients-from-q-on", CLIENT,
    tries="packs coefficients that are not below the modulus",
    rule="every coefficient of y is checked before anything is stored (section 3)",
    without=("payload-not-scanned",),
)  # fmt: skip
class CoefficientsFromQOn(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        first = packed_bytes(1, dealing.degree)
        return dealing.rebuild(payload=b"\xff" * first + dealing.payload[first:])


@attacker(
    "short-payload", CLIENT,
    tries="leaves a block of its payload out",
    rule="a payload has exactly the bytes that the model asks for (section 3)",
    without=("payload-of-any-length",),
)  # fmt: skip
class ShortPayload(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        return dealing.rebuild(payload=dealing.payload[packed_bytes(1, dealing.degree) :])


@attacker(
    "short-boxes", CLIENT,
    tries="seals shares that are too short",
    rule=SHARES,
    without=("boxes-of-any-length",),
)  # fmt: skip
class ShortBoxes(Dealer):
    def tamper(self, dealing: Dealing) -> tuple[Manifest, bytes]:
        return dealing.rebuild(salted=[data[: SALT_BYTES + 8] for data in dealing.salted])
