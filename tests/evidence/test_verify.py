"""`verify`: each crime is proven by its evidence, an altered byte proves nothing, and nothing convicts the honest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl import masking
from asyncfl.errors import DealingError, InvalidEvidence, InvalidItem, RemoteProtocolError, UnjudgedEvidence
from asyncfl.evidence import (
    EVIDENCE_TYPES,
    Answer,
    BadManifest,
    BadShare,
    Evidence,
    FalseProof,
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
    decode_evidence,
    describe,
    encode_evidence,
    find_culprit,
    verify,
)
from asyncfl.masking.protect import SALT_BYTES, sign_manifest
from asyncfl.masking.sharing import lagrange_weights
from asyncfl.messages import MAX_EVIDENCE_BYTES, Certificate, Vote
from asyncfl.parameters import CHECK_BLOCKS
from asyncfl.ring.packing import packed_bytes
from tests.evidence.crimes import Q, World, crimes, honest_run, make_world, one_added
from tests.spec import ring_reference as reference

KINDS = sorted(vars(kind)["NAME"] for kind in EVIDENCE_TYPES)


def test_there_is_a_crime_of_every_kind() -> None:
    assert sorted(crimes()[1]) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_crime_is_proven_against_whoever_did_it(kind: str) -> None:
    world, made = crimes()
    evidence = made[kind]
    verify(world.federation, evidence)
    guilty = {world.simulation.replica_key(3), world.simulation.client_key(0)}
    assert find_culprit(world.federation, evidence) in guilty
    encoded = encode_evidence(evidence)
    assert decode_evidence(encoded) == evidence
    assert len(encoded) <= MAX_EVIDENCE_BYTES
    assert describe(evidence)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_evidence_with_any_byte_altered_proves_nothing(kind: str, data: st.DataObject) -> None:
    world, made = crimes()
    encoded = encode_evidence(made[kind])
    place = data.draw(st.integers(0, len(encoded) - 1))
    change = data.draw(st.integers(1, 255))
    altered = encoded[:place] + bytes([encoded[place] ^ change]) + encoded[place + 1 :]
    with pytest.raises(RemoteProtocolError):
        verify(world.federation, decode_evidence(altered))


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_of_another_deployment_proves_nothing(kind: str) -> None:
    world, made = crimes()
    with pytest.raises(InvalidEvidence):
        verify(replace(world.federation, digest=bytes(32)), made[kind])


def test_a_client_that_nobody_enrolled_convicts_nobody() -> None:
    """Anybody can make a key up, and let it contradict itself."""
    world, made = crimes()
    roster = world.federation.rosters[0]
    others = tuple(key for key in roster.members if key != world.simulation.client_key(0))
    stranger = replace(world.federation, rosters=(replace(roster, members=others),))
    with pytest.raises(UnjudgedEvidence):
        verify(stranger, made["two-uploads"])


def test_an_upload_under_a_roster_that_is_not_held_is_not_judged() -> None:
    world, _ = crimes()
    core = world.upload(1, 1).manifest.core.model_copy(update={"roster": 4, "cell": 60})
    manifest = sign_manifest(core, world.upload(1, 1).manifest.projections, world.simulation.client_ids[1])
    with pytest.raises(UnjudgedEvidence):
        verify(world.federation, BadManifest(manifest=manifest))


# frame-ups


def framed() -> tuple[World, bytes, dict[int, bytes]]:
    """n = 7, t = 2: replicas 0 and 1 answer with errors that cancel at 0 beside any one honest answer of replica 2."""
    world = make_world(7, 2)
    sums = world.sums()
    weights = lagrange_weights([1, 2, 3], 0, Q)
    told = dict(sums)
    for liar, error in ((0, weights[1]), (1, -weights[0])):
        values = reference.unpack(sums[liar], 64)
        told[liar] = reference.pack([(values[0] + error) % Q, *values[1:]], 64)
    return world, bytes([5]) * 32, told


def test_two_liars_whose_errors_cancel_convict_nobody_but_themselves() -> None:
    world, group, told = framed()
    answers = {j: world.answer(j, group, total) for j, total in told.items()}
    elements = masking.read_answers(told, world.federation)
    agreeing = masking.find_agreeing(elements, (0, 1, 2), Q)
    assert agreeing == (0, 1, 2), "the liars and one honest replica are on a polynomial of their own"
    for victim in (3, 4, 5, 6):
        framing = WrongSum(group=group, wrong=answers[victim], others=tuple(answers[j] for j in agreeing))
        with pytest.raises(InvalidEvidence, match="3 replicas agree, 5 are needed"):
            verify(world.federation, framing)
    assert masking.find_wrong(told, world.federation) == ((2, 3, 4, 5, 6), (0, 1))
    for liar in (0, 1):
        others = tuple(answers[j] for j in (2, 3, 4, 5, 6))
        verify(world.federation, WrongSum(group=group, wrong=answers[liar], others=others))


def test_with_the_rule_weakened_the_same_frame_up_convicts_an_honest_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, group, told = framed()
    answers = {j: world.answer(j, group, total) for j, total in told.items()}
    module = sys.modules["asyncfl.evidence.verify"]  # the package's name `verify` is the function
    monkeypatch.setattr(module, "_require_others", lambda *_: None)
    verify(
        world.federation, WrongSum(group=group, wrong=answers[6], others=tuple(answers[j] for j in (0, 1, 2)))
    )


@pytest.mark.parametrize("kind", ["wrong-sum", "wrong-attestation", "wrong-model"])
def test_the_word_of_fewer_than_n_minus_t_convicts_nobody(kind: str) -> None:
    world, made = crimes()
    evidence: Any = made[kind]
    if isinstance(evidence, WrongSum):
        fewer: Evidence = evidence.model_copy(update={"others": evidence.others[:2]})
        repeated: Evidence = evidence.model_copy(
            update={"others": (*evidence.others[:2], evidence.others[1])}
        )
    elif isinstance(evidence, WrongAttestation):
        fewer = evidence.model_copy(update={"votes": evidence.votes[:2]})
        repeated = evidence.model_copy(update={"votes": (*evidence.votes[:2], evidence.votes[1])})
    else:
        votes = evidence.certificate.votes
        fewer, repeated = (
            evidence.model_copy(
                update={"certificate": evidence.certificate.model_copy(update={"votes": some})}
            )
            for some in (votes[:2], (*votes[:2], votes[1]))
        )
    for framing in (fewer, repeated):
        with pytest.raises(InvalidEvidence):
            verify(world.federation, framing)


def test_an_honest_client_s_share_copied_into_a_liar_s_manifest_is_not_shown() -> None:
    """The liar copies box and commitment: the share fails under its projections, and must stay with its replica."""
    world, _ = crimes()
    victim, liar = world.upload(1, 1).manifest, world.upload(0, 1).manifest
    core = liar.core.model_copy(
        update={"boxes": victim.core.boxes, "share_digests": victim.core.share_digests}
    )
    copied = sign_manifest(core, liar.projections, world.simulation.client_ids[0])
    for replica, identity in enumerate(world.simulation.replica_ids):
        with pytest.raises(InvalidItem) as caught:
            masking.open_share(copied, replica, identity, world.federation)
        assert not isinstance(caught.value, DealingError)
        salted = identity.unseal(core.boxes[replica])
        with pytest.raises(InvalidEvidence):
            verify(world.federation, BadShare(manifest=copied, replica=replica, salted=salted))


@pytest.mark.parametrize(
    "change",
    [
        lambda salted: salted[: SALT_BYTES + 8],
        lambda salted: salted + b"\0",
        lambda salted: salted[:SALT_BYTES] + b"\xff" * (len(salted) - SALT_BYTES),
        lambda salted: b"",
    ],
)
def test_commitments_to_what_is_no_share_are_proven(change: Callable[[bytes], bytes]) -> None:
    world, _ = crimes()
    manifest, salted = world.redealt(0, change, 2)
    evidence = BadShare(manifest=manifest, replica=2, salted=salted)
    if len(salted) == len(world.simulation.replica_ids[0].unseal(manifest.core.boxes[0])):
        verify(world.federation, evidence)
    else:  # Then the box is too short or too long, which shows in the manifest alone.
        verify(world.federation, BadManifest(manifest=manifest))


# honest transcripts


def test_an_honest_run_has_everything_to_choose_from() -> None:
    said = honest_run()
    assert min(len(said.groups), len(said.verdicts), len(said.attests), len(said.votes)) >= 12
    assert len(said.manifests) == 16
    assert all(len(answers) == 4 for answers in said.answers.values())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nothing_made_of_honest_statements_proves_anything(data: st.DataObject) -> None:
    said = honest_run()
    with pytest.raises(InvalidEvidence):
        verify(said.world.federation, data.draw(st.sampled_from(MAKERS))(data))


def ordered(pair: tuple[Any, Any], key: Callable[[Any], Any]) -> dict[str, Any]:
    """The two in the order that is asked for, so that the evidence does not fail for that alone."""
    first, second = sorted(pair, key=key)
    return {"first": first, "second": second}


def two(data: st.DataObject, statements: list[tuple[int, Any]]) -> tuple[int, tuple[Any, Any]]:
    replica = data.draw(st.sampled_from(sorted({j for j, _ in statements})))
    own = [statement for j, statement in statements if j == replica]
    return replica, (data.draw(st.sampled_from(own)), data.draw(st.sampled_from(own)))


def some_groups(data: st.DataObject) -> Evidence:
    replica, pair = two(data, honest_run().groups)
    return TwoGroups(replica=replica, **ordered(pair, lambda group: group.content.digest()))


def some_group(data: st.DataObject) -> Evidence:
    replica, group = data.draw(st.sampled_from(honest_run().groups))
    return UnlawfulGroup(replica=replica, group=group)


def some_verdicts(data: st.DataObject) -> Evidence:
    replica, pair = two(data, honest_run().verdicts)
    return TwoVerdicts(replica=replica, **ordered(pair, lambda verdict: (verdict.manifest, verdict.good)))


def some_sums(data: st.DataObject) -> Evidence:
    group = data.draw(st.sampled_from(sorted(honest_run().answers)))
    pair = two(data, [(0, answer) for answer in honest_run().answers[group]])[1]
    return TwoSums(group=group, **ordered(pair, lambda answer: answer.total))


def some_comparison(data: st.DataObject) -> Evidence:
    """The answers to one group, or one of another group among them."""
    group, other = (data.draw(st.sampled_from(sorted(honest_run().answers))) for _ in range(2))
    answers: list[Answer] = data.draw(st.permutations(honest_run().answers[group]))
    wrong = data.draw(st.sampled_from([answers[0], honest_run().answers[other][0]]))
    others = tuple(sorted(answers[1:], key=lambda answer: answer.replica))
    return WrongSum(group=group, wrong=wrong, others=others)


def some_attestations(data: st.DataObject) -> Evidence:
    replica, pair = two(data, honest_run().attests)
    return TwoAttestations(replica=replica, **ordered(pair, lambda attest: attest.item))


def some_attestation(data: st.DataObject) -> Evidence:
    replica, wrong = data.draw(st.sampled_from(honest_run().attests))
    item = data.draw(st.sampled_from([attest.item for _, attest in honest_run().attests]))
    votes = {
        j: attest.signature for j, attest in honest_run().attests if attest.item == item and j != replica
    }
    return WrongAttestation(
        replica=replica, wrong=wrong, item=item,
        votes=tuple(Vote(replica=j, signature=votes[j]) for j in sorted(votes)),
    )  # fmt: skip


def some_models(data: st.DataObject) -> Evidence:
    replica, pair = two(data, honest_run().votes)
    return TwoModels(replica=replica, **ordered(pair, lambda vote: vote.body()))


def some_model(data: st.DataObject) -> Evidence:
    replica, wrong = data.draw(st.sampled_from(honest_run().votes))
    _, right = data.draw(st.sampled_from(honest_run().votes))
    votes = {
        j: vote.signature for j, vote in honest_run().votes if vote.body() == right.body() and j != replica
    }
    certificate = Certificate(
        version=right.version, entries=right.entries, model=right.model,
        votes=tuple(Vote(replica=j, signature=votes[j]) for j in sorted(votes)),
    )  # fmt: skip
    return WrongModel(replica=replica, wrong=wrong, certificate=certificate)


def some_uploads(data: st.DataObject) -> Evidence:
    pair = data.draw(st.tuples(*[st.sampled_from(honest_run().manifests)] * 2))
    return TwoUploads(**ordered(pair, lambda manifest: manifest.digest()))


def some_manifest(data: st.DataObject) -> Evidence:
    return BadManifest(manifest=data.draw(st.sampled_from(honest_run().manifests)))


def some_proof(data: st.DataObject) -> Evidence:
    manifest, other = (data.draw(st.sampled_from(honest_run().manifests)) for _ in range(2))
    payload = honest_run().payloads[data.draw(st.sampled_from([manifest, other])).digest()]
    return FalseProof(manifest=manifest, checks=payload[-packed_bytes(CHECK_BLOCKS, 64) :])


def some_share(data: st.DataObject) -> Evidence:
    manifest = data.draw(st.sampled_from(honest_run().manifests))
    replica = data.draw(st.integers(0, 3))
    salted = honest_run().world.simulation.replica_ids[replica].unseal(manifest.core.boxes[replica])
    shown = data.draw(st.sampled_from([salted, one_added(salted), b""]))
    return BadShare(manifest=manifest, replica=data.draw(st.integers(0, 3)), salted=shown)


MAKERS = [
    some_groups, some_group, some_verdicts, some_sums, some_comparison, some_attestations, some_attestation,
    some_models, some_model, some_uploads, some_manifest, some_proof, some_share,
]  # fmt: skip
