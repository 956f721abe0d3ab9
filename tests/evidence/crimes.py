"""One piece of evidence of each kind, made by liars among honest parties, and the statements of an honest run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from asyncfl import masking
from asyncfl.assignment import Assignment
from asyncfl.digest import content_digest
from asyncfl.evidence import (
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
)
from asyncfl.federation import Federation
from asyncfl.identity import seal
from asyncfl.masking.protect import SALT_BYTES, share_digest, sign_manifest
from asyncfl.messages import (
    Attest,
    Certificate,
    GroupId,
    Lock,
    LockContent,
    Locked,
    Manifest,
    Member,
    ModelVote,
    ShareBad,
    ShareOk,
    ShareSum,
    Vote,
    attest_body,
    model_body,
    share_ok_body,
    share_sum_body,
)
from asyncfl.parameters import CHECK_BLOCKS
from asyncfl.ring.packing import packed_bytes
from asyncfl.simulation import Simulation
from tests.core.builders import make_parameters
from tests.simulation.observer import Observer

Q = 8380417


@dataclass
class World:
    """A deployment in which everybody's keys are at hand."""

    simulation: Simulation

    @property
    def federation(self) -> Federation:
        return self.simulation.federation

    def sign(self, replica: int, kind: str, body: bytes) -> bytes:
        return self.simulation.replica_ids[replica].sign(kind, self.federation.digest, body)

    def upload(self, number: int, epoch: int, base: bytes = bytes(32)) -> masking.Protected:
        """An honest upload of client `number`."""
        roster = self.federation.rosters[0]
        identity = self.simulation.client_ids[number]
        cell = Assignment(self.federation).cell_of(identity.public, roster, epoch)
        context = masking.UploadContext(epoch, cell, cell % 4, 0, roster.digest, base)
        update = torch.full((self.federation.dimension,), 0.01 * number)
        return masking.protect(update, context, identity, self.federation)

    def content(self, clients: Iterable[int], *, epoch: int = 1, part: int = 0) -> LockContent:
        names = sorted(self.simulation.client_key(i) for i in clients)
        members = tuple(Member(client=key, epoch=epoch, manifest=content_digest(key)) for key in names)
        return LockContent(id=GroupId(epoch=epoch, cell=0, coordinator=0, part=part), members=members)

    def group(self, replica: int, content: LockContent, *, asks: bool = False) -> SignedGroup:
        kind = Lock.KIND if asks else Locked.KIND
        signature = self.sign(replica, kind, content.digest())
        return SignedGroup(content=content, asks=asks, signature=signature)

    def verdict(self, replica: int, manifest: bytes, *, good: bool = True) -> Verdict:
        client = self.simulation.client_key(0)
        kind = ShareOk.KIND if good else ShareBad.KIND
        signature = self.sign(replica, kind, share_ok_body(client, 3, manifest))
        return Verdict(client=client, epoch=3, manifest=manifest, good=good, signature=signature)

    def answer(self, replica: int, group: bytes, total: bytes) -> Answer:
        signature = self.sign(replica, ShareSum.KIND, share_sum_body(group, total))
        return Answer(replica=replica, total=total, signature=signature)

    def attest(self, replica: int, item: bytes) -> Attest:
        group = GroupId(epoch=2, cell=1, coordinator=1, part=0)
        signature = self.sign(replica, Attest.KIND, attest_body(group, item))
        return Attest(id=group, item=item, signature=signature)

    def vote(self, replica: int, model: bytes) -> ModelVote:
        version = bytes([7]) * 32
        signature = self.sign(replica, ModelVote.KIND, model_body(version, 5, model))
        return ModelVote(version=version, entries=5, model=model, signature=signature)

    def sums(self, members: int = 3) -> dict[int, bytes]:
        """Every replica's right sum of shares of a group."""
        uploads = [self.upload(i, 1) for i in range(members)]
        return {
            j: masking.sum_packed(
                [masking.open_share(u.manifest, j, identity, self.federation) for u in uploads],
                self.federation,
            )
            for j, identity in enumerate(self.simulation.replica_ids)
        }

    def redealt(self, number: int, change: Callable[[bytes], bytes], replica: int) -> tuple[Manifest, bytes]:
        """A manifest that commits to a changed share for one replica, and what is in that replica's box."""
        manifest, identity = self.upload(number, 1).manifest, self.simulation.client_ids[number]
        core = manifest.core
        salted = change(self.simulation.replica_ids[replica].unseal(core.boxes[replica]))
        digests, boxes = list(core.share_digests), list(core.boxes)
        digests[replica] = share_digest(core.client, salted)
        boxes[replica] = seal(self.federation.replica_keys[replica], salted)
        changed = core.model_copy(update={"share_digests": tuple(digests), "boxes": tuple(boxes)})
        return sign_manifest(changed, manifest.projections, identity), salted


def make_world(replicas: int = 4, byzantine: int = 1) -> World:
    clients = 3 * replicas
    parameters = make_parameters(clients, replicas=replicas, byzantine=byzantine)
    return World(Simulation(parameters, clients))


def one_added(packed: bytes) -> bytes:
    """The same with another first coefficient."""
    return bytes([packed[0] ^ 1]) + packed[1:]


@cache
def crimes() -> tuple[World, dict[str, Evidence]]:
    """By kind, evidence against replica 3, or client 0."""
    world = make_world()
    liar, others = 3, (0, 1, 2)
    one, other = sorted((bytes([1]) * 32, bytes([2]) * 32))
    overlapping = sorted(
        (world.content(range(4)), world.content(range(1, 5), part=1)), key=LockContent.digest
    )
    sums, group = world.sums(), bytes([9]) * 32
    two_sums = sorted((sums[liar], one_added(sums[liar])))
    uploads = sorted((world.upload(0, 1).manifest, world.upload(0, 1).manifest), key=Manifest.digest)
    honest = world.upload(0, 1)
    client = world.simulation.client_ids[0]
    wrong_cell = honest.manifest.core.model_copy(update={"cell": honest.manifest.core.cell + 1})
    lying = sign_manifest(honest.manifest.core, bytes(len(honest.manifest.projections)), client)
    checks = honest.payload[-packed_bytes(CHECK_BLOCKS, 64) :]
    misdealt, salted = world.redealt(
        0, lambda salted: salted[:SALT_BYTES] + one_added(salted[SALT_BYTES:]), liar
    )
    right = world.vote(0, one)
    made: list[Evidence] = [
        TwoGroups(
            replica=liar,
            first=world.group(liar, overlapping[0]),
            second=world.group(liar, overlapping[1], asks=True),
        ),
        UnlawfulGroup(replica=liar, group=world.group(liar, world.content([1]))),
        TwoVerdicts(replica=liar, first=world.verdict(liar, one), second=world.verdict(liar, other)),
        TwoSums(
            group=group,
            first=world.answer(liar, group, two_sums[0]), second=world.answer(liar, group, two_sums[1]),
        ),
        WrongSum(
            group=group,
            wrong=world.answer(liar, group, one_added(sums[liar])),
            others=tuple(world.answer(j, group, sums[j]) for j in others),
        ),
        TwoAttestations(replica=liar, first=world.attest(liar, one), second=world.attest(liar, other)),
        WrongAttestation(
            replica=liar, wrong=world.attest(liar, other), item=one,
            votes=tuple(Vote(replica=j, signature=world.attest(j, one).signature) for j in others),
        ),
        TwoModels(replica=liar, first=world.vote(liar, one), second=world.vote(liar, other)),
        WrongModel(
            replica=liar, wrong=world.vote(liar, other),
            certificate=Certificate(
                version=right.version, entries=5, model=one,
                votes=tuple(Vote(replica=j, signature=world.vote(j, one).signature) for j in others),
            ),
        ),
        TwoUploads(first=uploads[0], second=uploads[1]),
        BadManifest(manifest=sign_manifest(wrong_cell, honest.manifest.projections, client)),
        FalseProof(manifest=lying, checks=checks),
        BadShare(manifest=misdealt, replica=liar, salted=salted),
    ]  # fmt: skip
    return world, {evidence.NAME: evidence for evidence in made}


@dataclass
class Said:
    """What was signed in an honest run."""

    world: World
    groups: list[tuple[int, SignedGroup]] = field(default_factory=list)
    verdicts: list[tuple[int, Verdict]] = field(default_factory=list)
    answers: dict[bytes, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    attests: list[tuple[int, Attest]] = field(default_factory=list)
    votes: list[tuple[int, ModelVote]] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    payloads: dict[bytes, bytes] = field(default_factory=dict)
    """By manifest digest."""


@cache
def honest_run() -> Said:
    """Everything that four honest replicas and eight clients sign in two epochs."""
    simulation = Simulation(make_parameters(8), 8, last_epoch=2)
    observer = Observer(simulation)
    blobs: dict[bytes, bytes] = {}
    observe = simulation.network.before_effect

    def keep(node: Any, effect: Any) -> None:
        observe(node, effect)
        blobs.update(node.blobs.data)

    simulation.network.before_effect = keep
    simulation.start()
    assert simulation.network.run(until=simulation.is_drained, seconds=100)
    said = Said(World(simulation))
    seen: set[bytes] = set()
    for key, _, message in observer.messages:
        signature = getattr(message, "signature", b"")
        replica = simulation.federation.replica_index.get(key, -1)
        manifest = getattr(message, "manifest", None)
        if isinstance(manifest, Manifest) and manifest.digest() not in said.payloads:
            said.manifests.append(manifest)
            said.payloads[manifest.digest()] = blobs[manifest.core.upload]
        if not signature or signature in seen:
            continue
        seen.add(signature)
        match message:
            case Lock(content=content):
                said.groups.append((replica, SignedGroup(content=content, asks=True, signature=signature)))
            case Locked(group=group):
                content = observer.contents[group]
                said.groups.append((replica, SignedGroup(content=content, asks=False, signature=signature)))
            case ShareOk(client=client, epoch=epoch, manifest=name):
                verdict = Verdict(client=client, epoch=epoch, manifest=name, good=True, signature=signature)
                said.verdicts.append((replica, verdict))
            case ShareSum(group=group, total=total):
                said.answers[group].append(Answer(replica=replica, total=total, signature=signature))
            case Attest():
                said.attests.append((replica, message))
            case ModelVote():
                said.votes.append((replica, message))
    return said
