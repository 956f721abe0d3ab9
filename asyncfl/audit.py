"""Everything that one replica's state claims, checked from its bytes and the deployment file alone.

Every signature (locks, attestations, certificates, the operator's statements) is verified, every opened sum compared
with its digest, and the model of every certified version computed anew from the entries. Nothing is believed because it
is on a disk: what fails is named, and the rest is still checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from asyncfl.digest import content_digest
from asyncfl.effects import Blobs, Table
from asyncfl.errors import AsyncflError, MalformedMessage, StorageError
from asyncfl.exclusions import Exclusion, Exclusions
from asyncfl.federation import Federation
from asyncfl.fold import FoldCache, FoldJob, FoldState
from asyncfl.identity import verify
from asyncfl.ledger import Ledger
from asyncfl.messages import Attest, Item, LockContent, Locked, ModelVote, attest_body
from asyncfl.record import Version, read_versions
from asyncfl.replay import replay
from asyncfl.replica.item_record import ItemRecord, Signatures
from asyncfl.rosters import Rosters, read_rosters, roster_key

Tables = Mapping[Table, Mapping[bytes, bytes]]


def short(name: bytes) -> str:
    """A digest as people read it."""
    return name.hex()[:12]


@dataclass
class Audit:
    """What the state of replica `index` holds, and what of it is wrong.

    `models` are digests of models computed already, by version: several replicas hold the same versions.
    """

    federation: Federation
    index: int
    initial: bytes
    tables: Tables
    sums: Blobs
    """Opened sums, of this replica or of others."""
    own: Blobs
    """This replica's own blobs."""
    models: dict[bytes, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What an honest replica's state may be like, and who relies on it should know."""
    signatures: int = 0
    """How many were verified."""
    items: dict[bytes, ItemRecord] = field(default_factory=dict)
    locked: set[bytes] = field(default_factory=set)
    """Entries whose n-t lock signatures are here and hold; attestations alone vouch for the others."""
    attesters: dict[bytes, set[int]] = field(default_factory=dict)
    """By entry: replicas whose attestations are here and hold."""
    versions: list[Version] = field(default_factory=list)
    uncomputed: dict[str, list[bytes]] = field(default_factory=dict)
    """By reason: versions whose models cannot be computed. One lost sum keeps all from its row on."""

    def read(self) -> None:
        """Entries, statements and versions, with the problems of reading them; no signature of an entry is checked."""
        for key, value in self._rows(Table.ITEMS):
            self._read_item(key, value)
        self._check_exclusions()
        self.versions += self._read_versions()

    def run(self) -> None:
        """Check everything."""
        self._check_items()
        self._check_exclusions()
        self._check_rosters()
        self._check_versions()

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.federation.digest)

    @cached_property
    def exclusions(self) -> Exclusions:
        return Exclusions(self.federation)

    @cached_property
    def rosters(self) -> Rosters:
        """Those of this state that the operator signed, and those of the deployment file beside them."""
        return self._found_rosters[0]

    @cached_property
    def _found_rosters(self) -> tuple[Rosters, list[str]]:
        return read_rosters(self.federation, self.tables.get(Table.ROSTERS, {}))

    def _rows(self, table: Table) -> list[tuple[bytes, bytes]]:
        return sorted(self.tables.get(table, {}).items())

    # entries

    def _check_items(self) -> None:
        for key, value in self._rows(Table.ITEMS):
            what = f"entry {short(key)}"
            record = self._read_item(key, value)
            if record is not None:
                self._check_votes(what, key, record)
                self._check_sum(what, self.own, record.item.opened)
        if alone := len(self.items) - len(self.locked):
            self.remarks.append(
                f"{alone} of {len(self.items)} entries without locks: they rest on attestations alone"
            )

    def _read_item(self, key: bytes, value: bytes) -> ItemRecord | None:
        what = f"entry {short(key)}"
        try:
            record = ItemRecord.decode(value)
        except (MalformedMessage, TypeError, ValueError) as error:
            self.problems.append(f"{what}: cannot be read: {error}")
            return None
        if record.item.digest() != key:
            self.problems.append(f"{what}: has the content of entry {short(record.item.digest())}")
            return None
        try:
            self.ledger.add(record.item)
        except AsyncflError as error:
            self.problems.append(f"{what}: contradicts another entry: {error}")
            return None
        self.items[key] = record
        return record

    def _check_votes(self, what: str, name: bytes, record: ItemRecord) -> None:
        """Locks, and attestations.

        A replica that was away takes an entry as certified, from somebody who may keep its locks back. What it attests
        itself it has opened, with the locks in its hands.
        """
        parameters, item = self.federation.parameters, record.item
        content = LockContent(id=item.id, members=item.members).digest()
        if record.locks:
            lock = f"{what}: lock"
            good = self._check_signatures(lock, record.locks, Locked.KIND, content, parameters.quorum)
            if len(good) >= parameters.quorum:
                self.locked.add(name)
        elif self.index in record.votes:
            self.problems.append(f"{what}: this replica attested it, and has no locks for it")
        needed = parameters.certifiers if record.certified or name not in self.locked else 1
        body = attest_body(item.id, item.digest())
        attestation = f"{what}: attestation"
        self.attesters[name] = self._check_signatures(attestation, record.votes, Attest.KIND, body, needed)

    def _check_signatures(
        self, what: str, signatures: Mapping[int, bytes], kind: str, body: bytes, needed: int
    ) -> set[int]:
        """Of whom they hold; fewer than `needed` are a problem."""
        federation = self.federation
        good = set[int]()
        for replica, signature in signatures.items():
            self.signatures += 1
            known = replica < len(federation.replica_keys)
            if known and verify(federation.replica_keys[replica], kind, federation.digest, body, signature):
                good.add(replica)
            else:
                self.problems.append(f"{what} of replica {replica} is not its signature")
        if len(good) < needed:
            self.problems.append(f"{what}s of {len(good)} replicas hold, {needed} are needed")
        return good

    def _check_sum(self, what: str, blobs: Blobs, name: bytes) -> None:
        try:
            size = len(blobs.read(name))
        except StorageError as error:
            self.problems.append(f"{what}: its opened sum {short(name)} is not here as it was: {error}")
            return
        if size != 4 * self.federation.upload_dimension:
            self.problems.append(f"{what}: its opened sum {short(name)} has {size} bytes")

    # the operator

    def _check_exclusions(self) -> None:
        for key, value in self._rows(Table.EXCLUSIONS):
            self.signatures += 1
            try:
                self.exclusions.load({key: value})
            except AsyncflError as error:
                number = int.from_bytes(key[:4], "big")
                self.problems.append(f"exclusion {number} ({short(key[4:])}): {error}")
        for number in self.exclusions.doubles:
            self.problems.append(
                f"exclusion {number}: the operator signed two; the one that counts here counts everywhere"
            )

    def _check_rosters(self) -> None:
        self.signatures += len(self._rows(Table.ROSTERS))
        self.problems += self._found_rosters[1]

    def find_exclusion(self, name: bytes) -> Exclusion | None:
        """The statement of this digest, all zeros for none."""
        if not any(name):
            return Exclusion()
        held = (*self.exclusions.held, *self.exclusions.doubles.values())
        return next((Exclusion.of(each) for each in held if each.body() == name), None)

    # versions

    def _check_versions(self) -> None:
        cache = FoldCache()
        signed = dict(self._rows(Table.MODELS))
        for version in self._read_versions():
            self.versions.append(version)
            certificate = version.record.certificate
            what = f"version {short(certificate.version)}"
            self._check_signatures(
                f"{what}: certificate: vote", Signatures(certificate.votes), ModelVote.KIND, certificate.body(),
                self.federation.parameters.certifiers,
            )  # fmt: skip
            own = signed.get(certificate.version)
            if own is not None and own != certificate.model:
                self.problems.append(
                    f"{what}: this replica signed model {short(own)}, the certificate says {short(certificate.model)}"
                )
            self._check_model(what, version, cache)
            if self.own.has(certificate.model):
                try:
                    self.own.read(certificate.model)
                except StorageError as error:
                    self.problems.append(
                        f"{what}: its model {short(certificate.model)} is not here as it was: {error}"
                    )

        if self.items and not self.versions:
            self.remarks.append(f"{len(self.items)} entries, and no version of them is certified here")
        for why, names in self.uncomputed.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self.problems.append(f"version {short(names[0])}{more}: the model cannot be computed: {why}")

    def _read_versions(self) -> Iterator[Version]:
        try:
            yield from read_versions(self.tables.get(Table.CERTIFICATES, {}), self.ledger)
        except MalformedMessage as error:
            self.problems.append(f"certified versions: cannot be read: {error}")

    def _check_model(self, what: str, version: Version, cache: FoldCache) -> None:
        certificate, link = version.record.certificate, version.link
        exclusion = self.find_exclusion(version.record.exclusion)
        if exclusion is None:
            self.problems.append(
                f"{what}: the exclusion {short(version.record.exclusion)} under it is not here"
            )
            return
        if link is None:
            self.uncomputed.setdefault("entries are not all here", []).append(certificate.version)
            return
        claims = (certificate.version, certificate.entries, certificate.statement)
        if claims != (exclusion.version(link.chain), link.entries, exclusion.number):
            self.problems.append(
                f"{what}: is not the version of the entries written down for it: {link.entries} entries, exclusion "
                f"{exclusion.number}, {short(exclusion.version(link.chain))}"
            )
            return
        if exclusion != self.ledger.exclusion:
            self.ledger.exclude(exclusion)
        try:
            model = self._compute(version, cache)
        except StorageError as error:
            self.uncomputed.setdefault(str(error), []).append(certificate.version)
            return
        if model != certificate.model:
            self.problems.append(
                f"{what}: the entries make model {short(model)}, the certificate says {short(certificate.model)}"
            )

    @property
    def newest(self) -> Version | None:
        """The last certified version all of whose entries are here."""
        return next((version for version in reversed(self.versions) if version.link is not None), None)

    def replay(self) -> Iterator[tuple[int, FoldState]]:
        """(epoch, state after it) of every row that counts in the newest version. Raises `StorageError`."""
        newest = self.newest
        exclusion = None if newest is None else self.find_exclusion(newest.record.exclusion)
        if newest is not None and newest.link is not None and exclusion is not None:
            self.ledger.exclude(exclusion)
            yield from replay(self.ledger.counted(newest.link), self.federation, self.sums)

    def _compute(self, version: Version, cache: FoldCache) -> bytes:
        """Digest of the model that the entries of a version make."""
        name, link = version.record.certificate.version, version.link
        assert link is not None
        if name not in self.models:
            roster_size = len(self.federation.rosters[0].members)
            job = FoldJob(self.federation, self.initial, self.ledger.counted(link), roster_size, cache)
            self.models[name] = content_digest(job.model(self.sums))
        return self.models[name]


def find_differences(audits: Mapping[str, Audit]) -> Iterator[str]:
    """What contradicts itself between the states of several replicas."""
    models: dict[bytes, tuple[str, bytes]] = {}
    groups: dict[bytes, tuple[str, Item]] = {}
    rosters: dict[int, tuple[str, bytes]] = {}
    for name, audit in audits.items():
        for version in audit.versions:
            certificate = version.record.certificate
            other, model = models.setdefault(certificate.version, (name, certificate.model))
            if model != certificate.model:
                yield f"version {short(certificate.version)}: {other} and {name} have certificates of two models"
        for digest, record in audit.items.items():
            key = record.item.id.encode()
            other, item = groups.setdefault(key, (name, record.item))
            if item != record.item:
                yield f"entry {short(digest)}: {other} has another entry for the same group than {name}"
        for roster in audit.rosters.held:
            if roster_key(roster.number) in audit.tables.get(Table.ROSTERS, {}):
                other, body = rosters.setdefault(roster.number, (name, roster.digest))
                if body != roster.digest:
                    yield f"roster {roster.number}: the operator signed two; {other} and {name} hold one each"


@dataclass(frozen=True, slots=True)
class Unlocked:
    """An entry for which none of some states has the locks."""

    entry: bytes
    lost: bool
    """Whether one of them had to keep them: t + 1 of these replicas attest it, and whoever is honest attests only what
    it opened, and keeps the locks of that for ever."""


def find_unlocked(audits: Mapping[str, Audit], certifiers: int) -> list[Unlocked]:
    """What rests on attestations alone at all of these replicas, in the order of digests."""
    here = {audit.index for audit in audits.values()}
    attesters: dict[bytes, set[int]] = {}
    for audit in audits.values():
        for name, replicas in audit.attesters.items():
            attesters.setdefault(name, set()).update(replicas & here)
    locked = {name for audit in audits.values() for name in audit.locked}
    return [
        Unlocked(name, lost=len(attesters[name]) >= certifiers) for name in sorted(set(attesters) - locked)
    ]
