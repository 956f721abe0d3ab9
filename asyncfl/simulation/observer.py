"""Sees every effect of a simulated run, knows all secrets, and says what must never happen (rules S1 to S4).

S1  nothing but the sums of whole, disjoint, locked groups is opened, or can be computed from all that was given away
    (most of it in `disclosures`); nobody else chooses a client's cell; clients are given models and nothing else
S2  honest replicas with the same entries have the same model, bit for bit
S3  an honest client trains only on a model that an honest replica computed
S4  no promise leaves a node before what it rests on is on disk, none is ever contradicted, and nobody honest is blamed
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from asyncfl.client.context import PENDING
from asyncfl.client.jobs import TrainAndProtect
from asyncfl.effects import Compute, Delete, Effect, Notify, Persist, Put, Send, SendBlob, Table
from asyncfl.errors import AsyncflError, InvalidEvidence
from asyncfl.evidence import decode_evidence, find_culprit
from asyncfl.evidence import verify as verify_evidence
from asyncfl.messages import (
    Attest,
    Convictions,
    Entry,
    Exhibit,
    Front,
    GroupId,
    Leave,
    Lock,
    LockContent,
    Locked,
    Manifest,
    Message,
    ModelVote,
    Relay,
    ShareOk,
    ShareSum,
    Stored,
    Upload,
)
from asyncfl.replica import Replica
from asyncfl.rosters import roster_key
from asyncfl.simulation.deployment import Simulation, running_replica
from asyncfl.simulation.disclosures import Disclosures, Violation
from asyncfl.simulation.network import Node
from asyncfl.simulation.rollbacks import recompute_clean
from asyncfl.simulation.rule_four import is_misplaced
from asyncfl.wire import unpack

KEPT: Final = frozenset(
    {Table.LOCKS, Table.SEEN, Table.PRIVACY, Table.ITEMS, Table.ROSTERS, Table.EVIDENCE, Table.EXCLUSIONS}
)
"""Tables from which nothing is ever deleted."""
FIXED: Final = frozenset({Table.LOCKS, Table.SEEN, Table.PRIVACY, Table.ROSTERS, Table.EXCLUSIONS})
"""Tables in which nothing is ever written over."""


class Observer(Disclosures):
    """Attach before `start`; whoever is not in `malicious` (public keys) is held to the rules."""

    def __init__(self, simulation: Simulation, malicious: Collection[bytes] = ()) -> None:
        super().__init__(simulation, malicious)
        self._uploads: dict[tuple[bytes, int], bytes] = {}
        self._vouched: dict[tuple[bytes, bytes, int], bytes] = {}
        self._locked: dict[tuple[bytes, object], bytes] = {}
        self.evidence: set[str] = set()
        """Kinds of evidence that honest parties hold."""
        self._convicted: dict[bytes, set[bytes]] = defaultdict(set)
        """Against whom each honest party has evidence on its disk."""
        self._models: set[bytes] = set()
        self._versions: dict[bytes, bytes] = {}
        """The model of each version, as an honest replica computed it."""
        self._model_of: dict[bytes, bytes] = {}
        self._attested: dict[GroupId, bytes] = {}
        self._opened: set[bytes] = set()
        """Items that an honest replica opened for itself."""
        self._front = 1
        """The largest front that an honest replica has said."""
        self._entries: dict[bytes, int] = {}
        """How many entries a version has, as honest replicas computed it."""
        self._trained: dict[bytes, int] = {}
        """The most entries of a model that an honest client has trained from."""
        simulation.network.on_failure = self._on_failure
        self._next = simulation.network.before_effect
        simulation.network.before_effect = self._on_effect

    # events

    def _on_effect(self, node: Node, effect: Effect) -> None:
        self._next(node, effect)
        if node.machine is None:
            return
        if isinstance(effect, Send) and isinstance(effect.message, Upload | Relay):
            manifest = effect.message.manifest
            self.manifests[manifest.digest()] = manifest
        if node.key in self.malicious:
            return
        if isinstance(effect, Persist):
            self._check_evidence(node, effect)
            self._check_what_is_kept(node, effect)
        elif isinstance(effect, Send) and isinstance(effect.message, Exhibit | Convictions):
            self._on_evidence(node, effect.message)
        elif isinstance(effect, Notify) and effect.event == "contradicted_itself":
            self._fail("S4", node, f"its own signatures convict it: {effect.fields['kind']}")
        if node.key in self._replicas:
            if isinstance(effect, Persist):
                self._note_contents(node, effect)
            elif isinstance(effect, Send):
                self._on_replica_sends(node, effect.message)
            elif isinstance(effect, SendBlob):
                self._on_replica_sends_blob(node, effect)
        else:
            self._on_client(node, effect)

    def _fail(self, rule: str, node: Node, text: str) -> None:
        self.violations.append(Violation(rule, self.simulation.network.now, node.name, text))

    @staticmethod
    def _machine(node: Node) -> Replica:
        """An honest replica that has just done something, so that it is up."""
        machine = running_replica(node)
        assert machine is not None
        return machine

    def _on_failure(self, node: Node, error: Exception) -> bool:
        """A machine raised: an honest node has stopped. An attacker's may, over its own lies."""
        if node.key not in self.malicious:
            self._fail("L", node, f"stops with {type(error).__name__}: {error}")
            return True
        return isinstance(error, AsyncflError)

    def _check_evidence(self, node: Node, effect: Persist) -> None:
        """Whatever an honest party holds convicts by itself, and nobody honest."""
        for write in effect.writes:
            if not isinstance(write, Put) or write.table is not Table.EVIDENCE:
                continue
            evidence = decode_evidence(write.value)
            federation = replace(self.simulation.federation, rosters=tuple(self.simulation.rosters))
            try:
                verify_evidence(federation, evidence)
            except InvalidEvidence as error:
                self._fail("S4", node, f"holds evidence that proves nothing ({evidence.NAME}): {error}")
                continue
            if find_culprit(federation, evidence) not in self.malicious:
                self._fail("S4", node, f"an honest party is blamed: {evidence.NAME}")
            self.evidence.add(evidence.NAME)
            self._convicted[node.key].add(find_culprit(federation, evidence))

    def _on_evidence(self, node: Node, message: Exhibit | Convictions) -> None:
        """What is told of others is on disk; a share that is shown is nobody else's."""
        if isinstance(message, Convictions):
            if not self._convicted[node.key].issuperset(message.culprits):
                self._fail("S4", node, "says that it holds evidence which is not on its disk")
            return
        if message.evidence not in node.durable[Table.EVIDENCE].values():
            self._fail("S4", node, "shows evidence that is not on its disk")
        self._on_exhibit(node, message)

    def _check_what_is_kept(self, node: Node, effect: Persist) -> None:
        """Some rows are never deleted, and some never written over: promises of all time rest on them."""
        for write in effect.writes:
            held = node.durable[write.table].get(write.key)
            if isinstance(write, Delete):
                if write.table in KEPT:
                    self._fail("S4", node, f"a row of {write.table} is deleted")
            elif write.table in FIXED and held not in (None, write.value):
                self._fail("S4", node, f"a row of {write.table} is written over")

    def _note_model(self, node: Node, version: bytes, model: bytes) -> None:
        """A model counts as an honest replica's from its row on: the vote may still find nobody to hear it."""
        self._models.add(model)
        self._versions[version] = model
        record = self._machine(node).models.records.get(version)
        if record is not None:
            self._entries[version] = record.entries

    def _note_item(self, node: Node, name: bytes, value: bytes) -> None:
        """Every item in an honest ledger was opened by an honest replica."""
        _, _, votes, *_ = unpack(value)
        if self._replicas[node.key] in dict(votes):
            self._opened.add(name)
        elif name not in self._opened:
            self._fail("S2", node, "an entry enters the ledger that no honest replica has opened")

    def _note_contents(self, node: Node, effect: Persist) -> None:
        for write in effect.writes:
            if isinstance(write, Put) and write.table is Table.MODELS:
                self._note_model(node, write.key, write.value)
            if isinstance(write, Put) and write.table is Table.ITEMS:
                self._note_item(node, write.key, write.value)
            if isinstance(write, Put) and write.table is Table.LOCKS:
                content = LockContent.decode(write.value)
                group = content.digest()
                self.contents[group] = content
                self.written[node.key].add(group)
                if content.id.coordinator == self._replicas[node.key]:
                    self._signers[group].add(node.key)  # Its own vote never travels as a message.

    # replicas

    def _on_replica_sends(self, node: Node, message: Message) -> None:
        match message:
            case ShareOk():
                self._on_share_ok(node, message)
            case Stored(manifest=manifest):
                if manifest not in node.durable[Table.MANIFESTS] and not self._has_item(node, manifest):
                    self._fail("S4", node, "STORED for an upload that is not on disk")
            case Locked(id=group_id, group=group):
                self._on_locked(node, group_id, group)
            case ShareSum():
                self._on_share_sum(node, message)
            case Entry():
                self._on_entry(node, message)
            case Lock(content=content):
                if content.digest() not in self.written[node.key]:
                    self._fail("S4", node, "locks are asked for before its own is on disk")
            case ModelVote():
                self._on_model_vote(node, message)
            case Front(front=front, roster=roster, statement=statement):
                self._front = max(self._front, front)
                if roster and roster_key(roster) not in node.durable[Table.ROSTERS]:
                    self._fail("S4", node, f"a FRONT names roster {roster}, which is not on disk")
                if statement > _highest_exclusion(node):
                    self._fail("S4", node, f"a FRONT names exclusion {statement}, which is not on disk")
            case Attest(id=group_id, item=item):
                if item not in node.durable[Table.ITEMS]:
                    self._fail("S4", node, "an attestation of an item that is not on disk")
                known = self._attested.setdefault(group_id, item)
                if known != item:
                    self._fail("S2", node, "honest replicas attest different sums of one group")

    def _on_replica_sends_blob(self, node: Node, effect: SendBlob) -> None:
        if effect.peer not in self._replicas and effect.digest not in self._models:
            self._fail("S1", node, "gives a client what is no model")

    def _on_share_ok(self, node: Node, message: ShareOk) -> None:
        known = self._vouched.setdefault((node.key, message.client, message.epoch), message.manifest)
        if known != message.manifest:
            self._fail("S4", node, f"vouched for two uploads of one client and epoch {message.epoch}")
        on_disk = message.manifest in node.durable[Table.MANIFESTS] and node.durable[Table.SHARES].get(
            message.manifest
        )
        if not on_disk and not self._has_item(node, message.manifest):
            self._fail("S4", node, "SHARE_OK for an upload or share that is not on disk")

    def _has_item(self, node: Node, manifest: bytes) -> bool:
        items = self._machine(node).context.ledger.items.values()
        return any(member.manifest == manifest for item in items for member in item.members)

    def _on_locked(self, node: Node, group_id: GroupId, group: bytes) -> None:
        if group not in self.written[node.key]:
            self._fail("S4", node, "a lock was signed before it was on disk")
            return
        content = self.contents[group]
        self._signers[group].add(node.key)
        where = f"{group_id.epoch}/{group_id.cell}/{group_id.coordinator}/{group_id.part}"
        things: list[tuple[object, str]] = [(group_id, f"two groups under the id {where}")]
        for member in content.members:
            named = self.simulation.network.nodes.get(member.client)
            whose = member.client.hex()[:6] if named is None else named.name
            upload = f"the upload of {whose} for epoch {member.epoch} in two groups"
            things.append(((member.client, member.epoch), upload))
        for thing, what in things:
            if self._locked.setdefault((node.key, thing), group) != group:
                self._fail("S4", node, f"locked {what}")

    def _on_model_vote(self, node: Node, message: ModelVote) -> None:
        if node.durable[Table.MODELS].get(message.version) != message.model:
            self._fail("S4", node, "a model was signed that is not on disk as this version's")
        if message.statement < _highest_exclusion(node):
            self._fail("S4", node, "a model was signed without an exclusion that is on disk")
        known = self._model_of.setdefault(message.version, message.model)
        if known != message.model:
            self._fail("S2", node, "honest replicas signed different models of one version")

    # clients

    def _on_client(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Compute) and isinstance(effect.job, TrainAndProtect):
            self._on_training(node, effect.job)
        elif isinstance(effect, Notify) and effect.event == "moved_to_front":
            if effect.fields["epoch"] > self._front:
                self._fail(
                    "S1",
                    node,
                    "moves to an epoch, and so to a cell, that no honest replica's front has reached",
                )
        elif isinstance(effect, SendBlob):
            self._check_payload(node, effect.digest)
        elif isinstance(effect, Send) and isinstance(effect.message, Upload):
            self._on_upload(node, effect.message.manifest)
        elif isinstance(effect, Send) and isinstance(effect.message, Leave):
            self._check_leave(node, effect.message)

    def _on_training(self, node: Node, job: TrainAndProtect) -> None:
        if job.model not in self._models:
            self._fail("S3", node, "trains on a model that no honest replica signed")
            return
        if self._versions.get(job.context.base_version) != job.model:
            self._fail(
                "S3", node, "trains on another model than that of the version which its upload will name"
            )
        entries = self._entries.get(job.context.base_version)
        if entries is None:
            return
        if entries < self._trained.get(node.key, 0):
            self._fail(
                "S3", node, f"trains on a model of {entries} entries after one of {self._trained[node.key]}"
            )
        self._trained[node.key] = entries

    def _on_upload(self, node: Node, manifest: Manifest) -> None:
        core, name = manifest.core, manifest.digest()
        if core.client == node.key:
            self._on_dealing(node, manifest)
        if self._uploads.setdefault((core.client, core.epoch), name) != name:
            self._fail("S4", node, f"two uploads for epoch {core.epoch}")
        if node.durable[Table.META].get(PENDING) != manifest.encode():
            self._fail("S4", node, f"the upload of epoch {core.epoch} leaves before it is on disk")
        if core.epoch.to_bytes(8, "big") not in node.durable[Table.PRIVACY]:
            self._fail("S4", node, f"the upload of epoch {core.epoch} leaves before its privacy event")
        rosters = [*self.simulation.rosters, *self.simulation.second_rosters]
        if is_misplaced(core, self.simulation.federation, rosters):
            self._fail("S1", node, f"an upload of epoch {core.epoch} for a cell that is not its client's")

    def _check_leave(self, node: Node, message: Leave) -> None:
        if message.uploads != len(node.durable[Table.PRIVACY]):
            self._fail("S4", node, "a LEAVE that does not match the privacy ledger")

    def _check_payload(self, node: Node, blob: bytes) -> None:
        pending = node.durable[Table.META].get(PENDING)
        if not pending or Manifest.decode(pending).core.upload != blob:
            self._fail("S4", node, "payload bytes leave that are not those of the upload on disk")

    # the end

    def check_models(self) -> None:
        """S2 over the certified models at the end."""
        models: dict[bytes, bytes] = {}
        for key in self._replicas:
            node = self.simulation.network.nodes[key]
            if node.machine is None or key in self.malicious:
                continue
            for record in self._machine(node).models.records.values():
                if record.model and models.setdefault(record.version, record.model) != record.model:
                    self._fail("S2", node, "a version has two models")
            self._check_exclusion(node, self._machine(node))

    def _check_exclusion(self, node: Node, replica: Replica) -> None:
        """What the operator took out has left no trace in the newest model."""
        latest = replica.models.latest
        if latest is None or latest.version != replica.context.version or not self.simulation.exclusions:
            return
        if latest.model != recompute_clean(self.simulation, replica):
            self._fail(
                "S2", node, "its newest model is not that of its entries without those that are excluded"
            )


def _highest_exclusion(node: Node) -> int:
    """Number of the operator's last exclusion on a replica's disk, 0 if there is none."""
    return max((int.from_bytes(key[:4], "big") for key in node.durable[Table.EXCLUSIONS]), default=0)
