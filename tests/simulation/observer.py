"""Sees every message and every effect of a simulated run, and checks what must never happen."""

from collections import defaultdict

from asyncfl.assignment import Assignment
from asyncfl.effects import Effect, Persist, Put, Send, Table
from asyncfl.messages import (
    GroupId,
    LockContent,
    Locked,
    Manifest,
    Message,
    ModelVote,
    Relay,
    Reveal,
    ShareOk,
    ShareSum,
    Stored,
    Upload,
)
from asyncfl.rosters import ROSTER_GRACE_EPOCHS
from asyncfl.simulation import Node, Simulation


class Observer:
    """Attach before `start`. `honest` are the replica indices whose promises are checked."""

    def __init__(self, simulation: Simulation, honest: set[int] | None = None) -> None:
        self.simulation = simulation
        keys = simulation.federation.replica_keys
        self.honest = {keys[j] for j in (honest if honest is not None else range(len(keys)))}
        self.messages: list[tuple[bytes, bytes, Message]] = []
        self.contents: dict[bytes, LockContent] = {}
        self.locked: dict[tuple[bytes, object], bytes] = {}
        self.vouched: dict[tuple[bytes, bytes, int], bytes] = {}
        self.answered: dict[bytes, LockContent] = {}
        self.uploads: dict[tuple[bytes, int], bytes] = {}
        self.votes: dict[bytes, set[bytes]] = defaultdict(set)
        self.models: dict[tuple[bytes, bytes], bytes] = {}
        self.manifests: dict[bytes, Manifest] = {}
        self.assignment = Assignment(simulation.federation)
        simulation.network.before_effect = self._on_effect

    def _on_effect(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Persist):
            for write in effect.writes:
                if isinstance(write, Put) and write.table is Table.LOCKS:
                    content = LockContent.decode(write.value)
                    self.contents[content.digest()] = content
        if isinstance(effect, Send):
            if isinstance(effect.message, Upload | Relay):
                self.manifests[effect.message.manifest.digest()] = effect.message.manifest
            self.messages.append((node.key, effect.peer, effect.message))
            self._on_send(node, effect.message)

    def _on_send(self, node: Node, message: Message) -> None:
        if isinstance(message, Upload):
            core = message.manifest.core
            known = self.uploads.setdefault((core.client, core.epoch), message.manifest.digest())
            assert known == message.manifest.digest(), "a client sent two uploads for one epoch"
        if node.key not in self.honest:
            return
        match message:
            case Locked(id=group_id, group=group):
                self._on_locked(node, group_id, group)
            case ShareOk(client=client, epoch=epoch, manifest=manifest):
                known = self.vouched.setdefault((node.key, client, epoch), manifest)
                assert known == manifest, "a replica vouched for two uploads of one client and epoch"
            case ShareSum(group=group):
                self._on_answer(group)
            case Stored(manifest=manifest):
                assert manifest in node.durable[Table.MANIFESTS] or self._is_in_ledger(node, manifest)
            case ModelVote(version=version, model=model):
                known = self.models.setdefault((node.key, version), model)
                assert known == model, "a replica signed two models of one version"
                assert node.durable[Table.MODELS][version] == model, (
                    "a model was signed before it was on disk"
                )

    def _is_in_ledger(self, node: Node, manifest: bytes) -> bool:
        replica = node.machine
        items = replica.context.ledger.items.values()  # type: ignore[union-attr]
        return any(member.manifest == manifest for item in items for member in item.members)

    def _on_locked(self, node: Node, group_id: GroupId, group: bytes) -> None:
        assert group_id.encode() in node.durable[Table.LOCKS], "a lock was signed before it was on disk"
        content = LockContent.decode(node.durable[Table.LOCKS][group_id.encode()])
        assert content.digest() == group
        self.votes[group].add(node.key)
        for thing in (group_id, *((member.client, member.epoch) for member in content.members)):
            known = self.locked.setdefault((node.key, thing), group)
            assert known == group, "a replica locked an id or an upload in two groups"

    def _on_answer(self, group: bytes) -> None:
        """S1: answers of honest replicas are sums over whole, pairwise disjoint, locked groups."""
        content = self.answered[group] = self.contents[group]
        assert len(content.members) >= self.simulation.parameters.min_group
        self._check_rosters(content)
        uploads = [
            (member.client, member.epoch) for other in self.answered.values() for member in other.members
        ]
        assert len(uploads) == len(set(uploads)), "two opened groups overlap"

    def _check_rosters(self, content: LockContent) -> None:
        """`min_group` of the group are of one cell of one roster, and everybody is a member of the roster it names."""
        rosters, own = self.simulation.rosters, []
        for member in content.members:
            core = self.manifests[member.manifest].core
            roster = rosters[core.roster]
            assert core.roster_digest == roster.digest, "an upload of a roster that the operator did not sign"
            assert roster.start_epoch <= core.epoch, "an upload under a roster that had not begun"
            assert core.cell == self.assignment.cell_of(core.client, roster, core.epoch)
            newer = rosters[core.roster + 2 :]
            assert not any(r.start_epoch + ROSTER_GRACE_EPOCHS <= core.epoch for r in newer), (
                "too old a roster"
            )
            if (core.epoch, core.cell) == (content.id.epoch, content.id.cell):
                own.append(core.roster)
        assert len(set(own)) == 1, "an opened group mixes rosters"
        assert len(own) >= self.simulation.parameters.min_group

    def check_end(self) -> None:
        """Replicas with the same entries have the same model, and nothing was lost."""
        replicas = self.simulation.running_replicas()
        by_version = defaultdict(set)
        for replica in replicas:
            for record in replica.models.records.values():
                if record.model:
                    by_version[record.version].add(record.model)
        assert all(len(models) == 1 for models in by_version.values())


def sent(observer: Observer, kind: type[Message], source: bytes | None = None) -> list[Message]:
    """Messages of one type, in order."""
    return [m for key, _, m in observer.messages if isinstance(m, kind) and source in (None, key)]


def reveals(observer: Observer) -> list[Reveal]:
    return [m for m in sent(observer, Reveal) if isinstance(m, Reveal)]
