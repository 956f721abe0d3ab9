"""The real replica machine among liars, for as long as Hypothesis likes: no crash, no broken promise, no growth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from asyncfl.messages import (
    MESSAGE_TYPES,
    Attest,
    CertifiedItem,
    Entry,
    Lock,
    LockContent,
    Locked,
    LockRefused,
    Manifest,
    ModelVote,
    Ready,
    Relay,
    Reveal,
    ShareBad,
    ShareOk,
    TakenOver,
    Upload,
)
from asyncfl.replica import Replica
from asyncfl.simulation.deployment import sign_roster
from tests.fuzz.replica_world import (
    CLIENTS,
    FAR,
    FEDERATION,
    HONEST,
    IDENTITIES,
    LIAR,
    REPLICAS,
    SIMULATION,
    World,
    cell_of,
    made,
)
from tests.fuzz.shapes import SMALL, shaped, signed

EPOCHS = st.sampled_from((1, 1, 1, 1, 2, 2, 3, 17, 40, FAR))
CLIENT = st.integers(0, CLIENTS - 1)
OTHER = st.sampled_from((*HONEST, LIAR))
KINDS = [kind for kind in MESSAGE_TYPES if kind.__name__ not in ("Chunk", "Missing")]
"""All that a machine is ever given."""


class AttackedReplica(RuleBasedStateMachine):
    """Replicas 1 and 2 are honest, replica 3 and all clients are not."""

    @initialize(stage=st.integers(0, 3), cell=st.integers(0, 1))
    def begin(self, stage: int, cell: int) -> None:
        """At the start, with a cell's uploads vouched for, with their group locked, or with it in the ledger."""
        self.world = World()
        self.contents: list[LockContent] = []
        for replica in (*HONEST, LIAR):
            self.world.connect(REPLICAS[replica].public)
        if stage >= 1:
            self.a_whole_cell_uploads(cell, 1, True)
        if stage >= 2:
            self._group_of(cell)
        if stage >= 3:
            self.the_honest_answer_everything()
            self.the_honest_answer_everything()

    def _group_of(self, cell: int) -> None:
        """The machine's own group of cell 0, another coordinator's of cell 1; locked by everybody."""
        self.world.tick(11.0)
        for lock in list(self.world.own_locks):
            self.contents.append(lock.content)
        if cell:
            content = self.world.content(self.world.uploads, 1, 0)
            assert content is not None
            self._ask_to_lock(content, 1, (1, 2, 3))
            reveal = Reveal(content=content, votes=self.world.votes(content, range(4)))
            self.world.hear(REPLICAS[1].public, reveal)
            self.world.settle()
        for replica in (*HONEST, LIAR):
            self.locked(replica)
        self.world.settle()

    # time, channels, crashes

    @rule(seconds=st.sampled_from((0.0, 0.05, 1.1, 5.1, 11.0, 61.0, 3600.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(seconds=st.sampled_from((-0.5, -30.0, -90.0)))
    def the_clock_goes_back(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(replica=OTHER, up=st.booleans())
    def a_channel_changes(self, replica: int, up: bool) -> None:
        key = REPLICAS[replica].public
        (self.world.connect if up else self.world.disconnect)(key)

    @rule(client=CLIENT)
    def a_client_goes(self, client: int) -> None:
        self.world.disconnect(IDENTITIES[client].public)

    @rule()
    def it_crashes_and_starts_again(self) -> None:
        self.world.start()

    @rule()
    def what_it_asked_for_is_served(self) -> None:
        self.world.settle()

    @rule(well=st.booleans())
    def one_fetch_ends(self, well: bool) -> None:
        for name in list(self.world.fetches)[:1]:
            self.world.serve(name, well=well)

    @rule()
    def one_job_ends(self) -> None:
        for key in list(self.world.jobs)[:1]:
            self.world.run_job(key)

    # clients

    @rule(client=CLIENT, epoch=EPOCHS, wants=st.booleans(), coordinator=st.integers(0, 15))
    def ready(self, client: int, epoch: int, wants: bool, coordinator: int) -> None:
        message = Ready(epoch=epoch, coordinator=coordinator, roster=0, uploaded=epoch - 1, wants_task=wants)
        self.world.hear(IDENTITIES[client].public, message)

    @rule(epoch=EPOCHS)
    def everybody_is_ready(self, epoch: int) -> None:
        for client in range(CLIENTS):
            self.ready(client, epoch, True, cell_of(client, epoch) % 4)

    @rule(client=CLIENT, epoch=EPOCHS, variant=st.integers(0, 1), relayed=st.booleans(), data=st.data())
    def upload(self, client: int, epoch: int, variant: int, relayed: bool, data: st.DataObject) -> None:
        protected = made(client, epoch, variant)
        self.world.upload(protected)
        manifest = protected.manifest
        if relayed:
            self.world.hear(REPLICAS[data.draw(OTHER)].public, Relay(manifest=manifest))
        else:
            self.world.hear(IDENTITIES[client].public, Upload(manifest=manifest))

    @rule(client=CLIENT, data=st.data())
    def upload_of_nonsense(self, client: int, data: st.DataObject) -> None:
        """One field of the core is something else; properly signed."""
        base = made(client, 1).manifest
        odd = data.draw(shaped(type(base.core), self._known()))
        field = data.draw(st.sampled_from(sorted(type(base.core).model_fields)))
        core = base.core.model_copy(update={field: getattr(odd, field)})
        manifest = Manifest(core=core, projections=base.projections, signature=bytes(64))
        manifest = signed(manifest, IDENTITIES[client], FEDERATION.digest)
        self.world.hear(IDENTITIES[client].public, Upload(manifest=manifest))

    @rule(cell=st.integers(0, 1), epoch=st.sampled_from((1, 2)), honest=st.booleans())
    def a_whole_cell_uploads(self, cell: int, epoch: int, honest: bool) -> None:
        """So that runs get far: uploads, ready clients, what is served, and SHARE_OKs of everybody."""
        for client in range(CLIENTS):
            if cell_of(client, epoch) == cell:
                self.ready(client, epoch, True, cell)
                protected = made(client, epoch, 0 if honest else client % 2)
                self.world.upload(protected)
                self.world.hear(IDENTITIES[client].public, Upload(manifest=protected.manifest))
        self.world.settle()
        for name in list(self.world.uploads):
            self._verdicts(name)

    def _verdicts(self, name: bytes) -> None:
        for replica in (*HONEST, LIAR):
            self._verdict(name, replica)

    def _verdict(self, name: bytes, replica: int) -> None:
        manifest = self.world.uploads[name].manifest
        signature = self.world.ok(replica, manifest)
        if signature is not None:
            core = manifest.core
            message = ShareOk(client=core.client, epoch=core.epoch, manifest=name, signature=signature)
            self.world.hear(REPLICAS[replica].public, message)

    # replicas, by the protocol

    @rule(data=st.data(), replica=OTHER)
    def share_ok(self, data: st.DataObject, replica: int) -> None:
        if self.world.uploads:
            self._verdict(data.draw(st.sampled_from(sorted(self.world.uploads))), replica)

    @rule(data=st.data())
    def share_bad(self, data: st.DataObject) -> None:
        if self.world.uploads:
            core = self.world.uploads[
                name := data.draw(st.sampled_from(sorted(self.world.uploads)))
            ].manifest.core
            message = ShareBad(client=core.client, epoch=core.epoch, manifest=name, signature=bytes(64))
            self.world.hear(REPLICAS[LIAR].public, signed(message, REPLICAS[LIAR], FEDERATION.digest))

    @rule(
        data=st.data(),
        coordinator=OTHER,
        part=st.integers(0, 1),
        supporters=st.sampled_from(((0, 1, 2), (1, 2, 3), (3,))),
    )
    def lock(self, data: st.DataObject, coordinator: int, part: int, supporters: tuple[int, ...]) -> None:
        """Of whatever uploads there are, with the SHARE_OKs that can be had."""
        if not self.world.uploads:
            return
        names = data.draw(st.lists(st.sampled_from(sorted(self.world.uploads)), min_size=1, max_size=6))
        if data.draw(st.booleans()):
            first = self.world.uploads[names[0]].manifest.core
            names = [
                n
                for n, u in self.world.uploads.items()
                if (u.manifest.core.epoch, u.manifest.core.cell) == (first.epoch, first.cell)
            ]
        content = self.world.content(names, coordinator, part)
        if content is None or (coordinator in HONEST and self.world.lock_of(coordinator, content) is None):
            return
        self._ask_to_lock(content, coordinator, supporters)

    def _ask_to_lock(self, content: LockContent, coordinator: int, supporters: tuple[int, ...]) -> None:
        self.contents.append(content)
        oks = tuple(
            tuple(self.world.ok(j, self.world.uploads[m.manifest].manifest) or bytes(64) for j in supporters)
            for m in content.members
        )
        message = Lock(content=content, supporters=supporters, oks=oks, signature=bytes(64))
        self.world.hear(
            REPLICAS[coordinator].public, signed(message, REPLICAS[coordinator], FEDERATION.digest)
        )
        self.world.settle()

    @rule(replica=OTHER)
    def locked(self, replica: int) -> None:
        """An answer to what the machine itself asks to lock."""
        for lock in self.world.own_locks[-3:]:
            signature = self.world.lock_of(replica, lock.content)
            if signature is not None:
                message = Locked(id=lock.content.id, group=lock.content.digest(), signature=signature)
                self.world.hear(REPLICAS[replica].public, message)

    @rule(data=st.data(), replica=OTHER)
    def refused(self, data: st.DataObject, replica: int) -> None:
        for lock in self.world.own_locks[-1:]:
            conflict = tuple(data.draw(st.sampled_from(self.contents or [lock.content])) for _ in range(1))
            message = LockRefused(
                id=lock.content.id, group=lock.content.digest(), reason="no", conflict=conflict
            )
            self.world.hear(REPLICAS[replica].public, message)

    @rule(data=st.data(), replica=OTHER)
    def taken_over(self, data: st.DataObject, replica: int) -> None:
        if self.contents:
            self.world.hear(
                REPLICAS[replica].public, TakenOver(content=data.draw(st.sampled_from(self.contents)))
            )

    @rule()
    def the_honest_answer_everything(self) -> None:
        """So that runs get far: groups of the machine's are locked, revealed groups opened, models voted for."""
        self.world.tick(1.1)
        for step in (self.locked, self._honest_sum, self._honest_attest, self.model_votes):
            for replica in HONEST:
                step(replica)
            self.world.settle()

    def _honest_sum(self, replica: int) -> None:
        for content in self.world.revealed():
            message = self.world.share_sum(replica, content)
            if message is not None:
                self.world.hear(REPLICAS[replica].public, message)

    def _honest_attest(self, replica: int) -> None:
        for name, item in list(self.world.machine.context.ledger.items.items()):
            message = Attest(id=item.id, item=name, signature=bytes(64))
            self.world.hear(REPLICAS[replica].public, signed(message, REPLICAS[replica], FEDERATION.digest))

    def _some_content(self, data: st.DataObject) -> LockContent | None:
        contents = [*self.contents, *(lock.content for lock in self.world.own_locks)]
        return data.draw(st.sampled_from(contents)) if contents else None

    @rule(data=st.data(), replica=OTHER)
    def reveal(self, data: st.DataObject, replica: int) -> None:
        content = self._some_content(data)
        if content is not None:
            votes = self.world.votes(content, range(4))
            self.world.hear(REPLICAS[replica].public, Reveal(content=content, votes=votes))
            self.world.settle()

    @rule(data=st.data(), replica=OTHER)
    def share_sum(self, data: st.DataObject, replica: int) -> None:
        for content in self.world.revealed():
            message: Any = self.world.share_sum(replica, content)
            if message is None:
                continue
            if replica == LIAR and data.draw(st.booleans()):
                total = data.draw(
                    st.sampled_from((b"x", bytes(len(message.total)), b"\xff" * len(message.total)))
                )
                message = message.model_copy(update={"total": total})
                message = signed(message, REPLICAS[LIAR], FEDERATION.digest)
            self.world.hear(REPLICAS[replica].public, message)
        self.world.settle()

    @rule(data=st.data(), replica=OTHER)
    def entry(self, data: st.DataObject, replica: int) -> None:
        content = self._some_content(data)
        if content is None:
            return
        votes = self.world.votes(content, range(4))
        secret = data.draw(st.sampled_from((b"x", bytes(184), b"\xff" * 184)))
        self.world.hear(REPLICAS[replica].public, Entry(content=content, votes=votes, secret=secret))
        self.world.settle()

    @rule(data=st.data(), replica=OTHER)
    def attest(self, data: st.DataObject, replica: int) -> None:
        """Of groups that n-t have locked, so that honest replicas could have opened them."""
        for content in self.world.revealed():
            if any(member.manifest not in self.world.uploads for member in content.members):
                continue
            item = self.world.open(content)
            message: Any = Attest(id=content.id, item=item.digest(), signature=bytes(64))
            if replica == LIAR and data.draw(st.booleans()):
                message = message.model_copy(update={"item": b"\x11" * 32})
            self.world.hear(REPLICAS[replica].public, signed(message, REPLICAS[replica], FEDERATION.digest))

    @rule(data=st.data(), wrong_size=st.booleans())
    def certified(self, data: st.DataObject, wrong_size: bool) -> None:
        """An item that the machine has not opened itself."""
        for content in self.world.revealed()[:1]:
            if any(member.manifest not in self.world.uploads for member in content.members):
                continue
            item = self.world.open(content)
            size = 4 * FEDERATION.upload_dimension + wrong_size
            message = CertifiedItem(item=item, votes=self.world.attestations(item), opened_bytes=size)
            self.world.hear(REPLICAS[data.draw(OTHER)].public, message)
            self.world.settle()

    @rule(replica=OTHER)
    def model_votes(self, replica: int) -> None:
        """Honest replicas compute what the machine computed."""
        for record in list(self.world.machine.models.records.values()):
            if record.model:
                message = ModelVote(
                    version=record.version, entries=record.entries, model=record.model, signature=bytes(64)
                )
                self.world.hear(
                    REPLICAS[replica].public, signed(message, REPLICAS[replica], FEDERATION.digest)
                )

    @rule(start=st.integers(1, 6), drop=st.integers(0, CLIENTS - 1), data=st.data())
    def roster(self, start: int, drop: int, data: st.DataObject) -> None:
        held = self.world.machine.context.rosters
        number = held.highest + data.draw(st.sampled_from((0, 1, 1, 2)))
        members = tuple(sorted(identity.public for i, identity in enumerate(IDENTITIES) if i != drop))
        epoch = held.held[-1].start_epoch + start
        roster = sign_roster(SIMULATION.operator_id, FEDERATION.digest, number, epoch, members)
        self.world.hear(SIMULATION.operator_id.public, roster.statement)

    # liars, saying anything that is a message

    def _known(self) -> dict[str, list[Any]]:
        """What a liar may have heard of."""
        world = self.world
        ledger = world.machine.context.ledger
        contents = [*self.contents, *(lock.content for lock in world.own_locks)]
        manifests = list(world.uploads)
        groups = [content.digest() for content in contents]
        versions = [ledger.version, *(record.version for record in world.machine.models.records.values())]
        models = [record.model for record in world.machine.models.records.values() if record.model]
        blobs = [u.manifest.core.upload for u in world.uploads.values()] + models + list(world.blobs.data)
        known = {
            "client": [identity.public for identity in IDENTITIES[:3]],
            "epoch": [1, 2], "manifest": manifests, "id": [content.id for content in contents],
            "content": contents, "group": groups, "item": list(ledger.items), "version": versions,
            "base": [*versions, ledger.origin], "model": models, "blob": blobs, "upload": blobs,
            "entries": [ledger.entries],
            "signature": list(world.own_locked.values()), "deployment": [FEDERATION.digest], "rows": [],
        }  # fmt: skip
        return {name: values for name, values in known.items() if values}

    @rule(
        kind=st.sampled_from(KINDS),
        data=st.data(),
        sign=st.booleans(),
        client=CLIENT,
        as_client=st.booleans(),
    )
    def anything(self, kind: Any, data: st.DataObject, sign: bool, client: int, as_client: bool) -> None:
        identity = IDENTITIES[client] if as_client else REPLICAS[LIAR]
        message = data.draw(shaped(kind, self._known()))
        if sign:
            message = signed(message, identity, FEDERATION.digest)
        self.world.hear(identity.public, message)

    # what holds at every moment

    @invariant()
    def its_status_can_be_asked_for(self) -> None:
        if hasattr(self, "world"):
            status = self.world.machine.status(self.world.now)
            assert _none_honest(status.get("evidence", [])), "an honest replica is blamed"

    @invariant()
    def its_state_is_bounded(self) -> None:
        if hasattr(self, "world"):
            machine = self.world.machine
            assert len(machine.locks.pending) <= 64 * 4
            # 24 for each client, and what locks and groups under way have asked for.
            asked_for = 63 * (len(machine.locks.pending) + len(machine.opening.groups))
            assert len(machine.uploads.records) <= 24 * CLIENTS + asked_for
            assert len(machine.gossip.targets) <= 3
            assert len(machine.models.records) <= 12 + 4 + 2
            assert machine.context.inclusion.front <= FAR

    def teardown(self) -> None:
        """From its rows an equal machine comes: it holds the same ledger, locks and choices."""
        if not hasattr(self, "world"):
            return
        before = self.world.machine
        rows = {table: dict(found) for table, found in self.world.durable.items()}
        after = Replica(FEDERATION, REPLICAS[0], rows, SIMULATION.initial)
        assert after.context.ledger.version == before.context.ledger.version
        assert after.locks.table.by_id == before.locks.table.by_id
        assert after.uploads.accepted == before.uploads.accepted
        assert after.context.rosters.highest == before.context.rosters.highest
        assert after.opening.groups.keys() == before.opening.groups.keys()
        assert after.coordination.own.keys() == before.coordination.own.keys()
        assert {n for n, r in after.items.records.items() if r.certified} == {
            n for n, r in before.items.records.items() if r.certified
        }


def _none_honest(evidence: list[dict[str, Any]]) -> bool:
    honest = {REPLICAS[j].public.hex() for j in (0, *HONEST)} | {0, *HONEST}
    return all(entry["culprit"] not in honest for entry in evidence)


TestAttackedReplica = AttackedReplica.TestCase
TestAttackedReplica.settings = settings(SMALL, max_examples=25, stateful_step_count=25, derandomize=True)


@pytest.mark.slow
def test_for_long() -> None:
    """Other choices every time; a failure is shrunk."""
    every = settings(SMALL, max_examples=400, stateful_step_count=60, phases=(Phase.generate, Phase.shrink))
    run_state_machine_as_test(AttackedReplica, settings=every)
