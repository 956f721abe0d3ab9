"""S1: nothing but sums of whole, disjoint, locked groups is opened, or can be computed from all that was given away.

Whatever an honest replica says that comes from shares is compared with what it must be, computed anew from the
shares that clients dealt (`dealt`); and at the end the linear algebra is done over all of it (`knowledge`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from asyncfl.evidence import decode_evidence
from asyncfl.evidence.kinds import BadShare
from asyncfl.messages import Entry, Exhibit, LockContent, Manifest, ShareSum
from asyncfl.simulation.dealt import SALT, Dealt
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.knowledge import components, computable_sums, span_contains
from asyncfl.simulation.network import Node
from asyncfl.simulation.rule_four import objections

SECRET = 0
"""The point at which a sharing polynomial is the secret."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: which, when (virtual seconds), where, and what happened."""

    rule: str
    time: float
    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.time:.3f} s, {self.node}: {self.text}"


class Disclosures(ABC):
    """What honest replicas have given away; whoever is in `malicious` (public keys) shares all that it knows."""

    def __init__(self, simulation: Simulation, malicious: Collection[bytes]) -> None:
        self.simulation = simulation
        self.malicious = frozenset(malicious)
        self.violations: list[Violation] = []
        self._replicas = simulation.federation.replica_index
        identities = {self._replicas[identity.public]: identity for identity in simulation.replica_ids}
        self.dealt = Dealt(simulation.parameters, identities)
        self.manifests: dict[bytes, Manifest] = {}
        self.contents: dict[bytes, LockContent] = {}
        """Every content that an honest replica wrote down as locked or revealed, by group digest."""
        self.written: dict[bytes, set[bytes]] = defaultdict(set)
        """The groups that each honest replica has on its disk."""
        self.answers: dict[bytes, set[int]] = defaultdict(set)
        """Points at which honest replicas gave sums of shares (0: the sum of secrets), by group digest."""
        self.shown: set[tuple[bytes, int]] = set()
        """Single shares that honest replicas gave away: the upload, and the point."""
        self._signers: dict[bytes, set[bytes]] = defaultdict(set)
        self._judged: set[bytes] = set()
        """Groups whose members were looked at."""
        self._totals: dict[tuple[bytes, int], bytes] = {}
        """Answers that were checked, by group and point: each is sent to everybody."""
        self._answered: dict[tuple[bytes, int], bytes] = {}
        """The group in which an upload (client, epoch) was answered."""

    @abstractmethod
    def _fail(self, rule: str, node: Node, text: str) -> None:
        """A rule is broken."""

    def _on_share_sum(self, node: Node, message: ShareSum) -> None:
        """S1 at the moment an answer leaves."""
        content = self.contents.get(message.group)
        if content is None:
            self._fail("S1", node, "a sum of shares of a group that no honest replica wrote down")
            return
        parameters = self.simulation.parameters
        if len(self._signers[message.group]) < parameters.quorum - parameters.byzantine:
            self._fail("S1", node, "a sum of shares of a group that fewer than n-t replicas locked")
        self._check_content(node, message.group, content)
        for member in content.members:
            known = self._answered.setdefault((member.client, member.epoch), message.group)
            if known != message.group:
                self._fail("S1", node, "an upload was answered in two groups")
        if message.group not in self.written[node.key]:
            self._fail("S4", node, "a sum of shares of a group that is not on its own disk as locked")
        self._check_total(node, content, self._replicas[node.key] + 1, message.total)

    def _check_content(self, node: Node, group: bytes, content: LockContent) -> None:
        if group in self._judged:
            return
        self._judged.add(group)
        manifests = [self.manifests[member.manifest] for member in content.members]
        for objection in objections(content, manifests, self.simulation.federation, self.simulation.rosters):
            self._fail("S1", node, objection)

    def _check_total(self, node: Node, content: LockContent, point: int, total: bytes) -> None:
        """What is given away of a group at a point is the sum over all members, and nothing else."""
        group = content.digest()
        self.answers[group].add(point)
        if self._totals.get((group, point)) == total:
            return
        self._totals[group, point] = total
        manifests = [self.manifests[member.manifest] for member in content.members]
        if point == SECRET:
            expected = self.dealt.sum_of_secrets(manifests)
            if expected is None:
                return  # A member dealt badly, but well enough: no single secret is known.
        else:
            expected = self.dealt.sum_of_shares(manifests, point - 1)
        told = self.dealt.read(total)
        if expected is None or told is None or not np.array_equal(told, expected):
            self._fail("S1", node, "an answer is not the sum over all members")

    def _on_entry(self, node: Node, message: Entry) -> None:
        """A sum of secrets says what n-2t answers say."""
        content = message.content
        if content.digest() not in self.contents:
            self._fail("S1", node, "a sum of secrets of a group that no honest replica wrote down")
            return
        self._check_content(node, content.digest(), content)
        self._check_total(node, content, SECRET, message.secret)

    def _on_exhibit(self, node: Node, message: Exhibit) -> None:
        """Evidence shows everybody a share: the dealer's own, never an honest client's."""
        evidence = decode_evidence(message.evidence)
        if not isinstance(evidence, BadShare):
            return
        self.manifests[evidence.manifest.digest()] = evidence.manifest
        self.shown.add((evidence.manifest.digest(), evidence.replica + 1))
        share = self.dealt.read(evidence.salted[SALT:])
        if share is not None and share.tobytes() in self.dealt.owners:
            self._fail("S1", node, "shows everybody a share that an honest client dealt")

    def _on_dealing(self, node: Node, manifest: Manifest) -> None:
        """An honest client's upload: under a secret of its own."""
        if self.dealt.keep(manifest) is not None:
            self._fail(
                "S1", node, "two uploads under one secret, or with one share: their difference is open"
            )

    def check_knowledge(self) -> None:
        """S1 over everything: the sums that all attackers together can compute are those of opened groups."""
        federation, parameters = self.simulation.federation, self.simulation.parameters
        members = {group: [m.manifest for m in self.contents[group].members] for group in self.answers}
        alone = {name + bytes([point]): ([name], point) for name, point in self.shown}
        members |= {label: uploads for label, (uploads, _) in alone.items()}
        corrupt = [index + 1 for key, index in self._replicas.items() if key in self.malicious]
        for component in components(members):
            uploads = sorted({upload for group in component for upload in members[group]})
            known = [u for u in uploads if self.manifests[u].core.client in self.malicious]
            answers = [(members[g], point) for g in component for point in self.answers.get(g, ())]
            answers += [alone[label] for label in component & alone.keys()]
            basis = computable_sums(
                uploads,
                answers=answers,
                known_points=corrupt,
                known_uploads=known,
                coefficients=parameters.threshold,
                modulus=parameters.modulus,
            )
            wholes = [members[group] for group in component - alone.keys()] + [[upload] for upload in known]
            allowed = np.zeros((len(wholes), len(uploads)), dtype=np.int64)
            for row, whole in enumerate(wholes):
                allowed[row, [uploads.index(upload) for upload in whole]] = 1
            if not span_contains(allowed, basis, federation.parameters.modulus):
                node = self.simulation.network.nodes[federation.replica_keys[0]]
                self._fail("S1", node, "the attackers can compute a sum that is not that of whole groups")
